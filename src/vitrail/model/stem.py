"""A convolutional stem before the patch embedding: images [B, C, H, W] to a smaller feature map.

A model with it is a ViT + conv and is labelled so. Paper: arXiv:2106.14881.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConvStem(nn.Sequential):
    """Convolutions 3x3 with padding 1, each followed by max-pooling where asked, BatchNorm and ReLU.

    Args:
        in_channels: C of the images.
        channels: output channels of each convolution.
        strides: stride of each convolution; their product divides the image's sides.
        pools: side of the max-pooling after each convolution, 1: none; empty: none anywhere.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], strides: Sequence[int], pools: Sequence[int] = ()
    ) -> None:
        super().__init__()
        for out_channels, stride, pool in zip(channels, strides, pools or [1] * len(channels), strict=True):
            layer = OrderedDict[str, nn.Module](
                # Without a bias: BatchNorm subtracts the mean, a bias with it.
                conv=nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
            )
            if pool > 1:
                layer["pool"] = nn.MaxPool2d(pool)
            layer["norm"] = nn.BatchNorm2d(out_channels)
            layer["act"] = nn.ReLU()
            self.append(nn.Sequential(layer))
            in_channels = out_channels

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the feature map; channels last, the layout that convolutions are fastest in."""
        return super().forward(input.contiguous(memory_format=torch.channels_last))
