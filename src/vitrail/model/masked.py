"""A ViT that predicts pixels: what is trained on images without labels, until only its encoder is kept.

Shapes: B batch, C channels, H W image, P patch side, D width.
Paper: "SimMIM: A Simple Framework for Masked Image Modeling", arXiv:2111.09886.
"""

import dataclasses
import math

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.config import ViTConfig
from vitrail.config.vit import token_stride
from vitrail.model.init import initialise_layers
from vitrail.model.vit import ViT

PREDICTION = "prediction."
"""Names of the tensors that an encoder does not have begin so."""


class MaskedViT(ViT):
    """A ViT with a linear layer from the token of each patch to its pixels (section 3.3), in place of a classifier.

    `forward` gives these pixels, [B, patches, C * P * P], as "logits"; `patch_pixels` has their order.

    Args:
        config: the geometry, with a mask token; classes do not count.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(dataclasses.replace(config, num_labels=0))
        num_pixels = config.num_channels * math.prod(token_stride(config))
        self.prediction = nn.Linear(config.hidden_size, num_pixels)
        initialise_layers(self.prediction, config.initializer_range)

    def classify(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B patches pixels"]:
        """The pixels of each patch, of tokens as forward_features gives them."""
        return self.prediction(tokens[:, self.config.num_prefix_tokens :])


def patch_pixels(images: Float[Tensor, "B C H W"], patch: tuple[int, int]) -> Float[Tensor, "B patches pixels"]:
    """The pixels of each patch, patches in row-major order, in each the channels one after the other."""
    tiles = images.unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))  # [B, C, rows, P, columns, P]
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
