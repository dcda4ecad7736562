"""Colour: linear operations compose into one 3x4 matrix per image, normalisation included; one pass over the pixels.

In: uint8 images [B, C, h, w] and factors [B]. Out: normalised float images [B, C, h, w].

What differs from applying the operations one after the other to uint8 images, as Pillow and torchvision do:

* Values are limited to [0, 255] and never rounded once, after the last operation, instead of after each.
* The order is fixed (brightness, contrast, saturation, hue); torchvision's ColorJitter shuffles it.
* Colour comes before geometry, so the fill outside the image is never recoloured, and the mean luminance that
  contrast holds on to is that of the whole decoded image, as the operations before it left it.
* Hue is rotated in YIQ about the grey axis, which keeps luminance; the HSV shift of Pillow keeps the largest of the
  three channels instead. A full turn and no turn agree; in between, saturated colours come out darker or lighter.

Paper: luminance weights of ITU-R BT.601; YIQ of NTSC (1953), after A. Ford and A. Roberts, "Colour space conversions"
(1998)
"""

from functools import lru_cache
from math import pi

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitrail.augment import cpu

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance (ITU-R BT.601)."""


class ColourMatrix:
    """One affine map of the channels per image, on pixels in [0, 1]: `linear @ pixel + offset`.

    Grey images have one channel: their saturation and hue are left as they are, having none.

    Args:
        images: what the map will be applied to; contrast takes the mean colour from here.
    """

    def __init__(self, images: UInt8[Tensor, "B C h w"]) -> None:
        num_images, num_channels = images.shape[:2]
        device = images.device
        self.linear: Tensor = torch.eye(num_channels, device=device).repeat(num_images, 1, 1)
        self.offset: Tensor = torch.zeros(num_images, num_channels, 1, device=device)
        self._mean = images.mean((2, 3), dtype=torch.float32).unsqueeze(2) / 255
        self._luminance = torch.ones(1, 1, device=device) if num_channels == 1 else _luminance_row(device)

    @property
    def _is_grey(self) -> bool:
        return self.linear.shape[1] == 1

    def brightness(self, factor: Float[Tensor, "B"]) -> None:
        """Blend with black: 0 is black, 1 changes nothing."""
        self.linear = self.linear * factor.view(-1, 1, 1)
        self.offset = self.offset * factor.view(-1, 1, 1)

    def contrast(self, factor: Float[Tensor, "B"]) -> None:
        """Blend with the image's mean luminance: 0 is flat grey, 1 changes nothing."""
        mean = self._luminance @ (self.linear @ self._mean + self.offset)
        self.brightness(factor)
        self.offset = self.offset + (1 - factor.view(-1, 1, 1)) * mean

    def saturation(self, factor: Float[Tensor, "B"]) -> None:
        """Blend each pixel with its luminance: 0 is grey, 1 changes nothing."""
        if self._is_grey:
            return
        factor = factor.view(-1, 1, 1)
        blend = factor * torch.eye(3, device=factor.device) + (1 - factor) * self._luminance.expand(3, 3)
        self.linear, self.offset = blend @ self.linear, blend @ self.offset

    def hue(self, turn: Float[Tensor, "B"]) -> None:
        """Rotate the hue by a fraction of the full circle, red towards green; 0 changes nothing."""
        if self._is_grey:
            return
        angle = (2 * pi * turn).view(-1, 1, 1)
        luminance, along, across = _hue_basis(angle.device)
        rotate = luminance + torch.cos(angle) * along + torch.sin(angle) * across
        self.linear, self.offset = rotate @ self.linear, rotate @ self.offset

    def apply(
        self, images: UInt8[Tensor, "B C h w"], mean: Float[Tensor, "C"], std: Float[Tensor, "C"]
    ) -> Float[Tensor, "B C h w"]:
        """Map the pixels, limit them to [0, 1], subtract `mean`, divide by `std`."""
        scale = std.reciprocal().unsqueeze(1)
        lowest = -mean.unsqueeze(1) * scale
        pixels = images.flatten(2).float()
        mapped = torch.baddbmm(self.offset * scale + lowest, self.linear * (scale / 255), pixels)
        return mapped.clamp_(lowest, lowest + scale).view(images.shape)


def normalise(
    images: UInt8[Tensor, "B C h w"], mean: Float[Tensor, "C"], std: Float[Tensor, "C"]
) -> Float[Tensor, "B C h w"]:
    """Bring pixels from [0, 255] to [0, 1], subtract `mean`, divide by `std`."""
    scale, shift = (1 / (255 * std)).view(-1, 1, 1), (-mean / std).view(-1, 1, 1)

    def one_chunk(start: int, stop: int) -> Tensor:
        return images[start:stop].to(torch.float32).mul_(scale).add_(shift)

    return cpu.in_chunks(one_chunk, tuple(images.shape), images.device)


@lru_cache(maxsize=8)
def _luminance_row(device: torch.device) -> Tensor:
    return torch.tensor([LUMINANCE], device=device)


@lru_cache(maxsize=8)
def _hue_basis(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """RGB matrices that keep luminance alone, keep chroma alone, and turn chroma by a right angle, red to green."""
    to_yiq = torch.tensor(
        [LUMINANCE, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)], dtype=torch.float64
    )
    luminance = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    along = torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    across = torch.zeros(3, 3, dtype=torch.float64)
    across[1, 2], across[2, 1] = 1.0, -1.0
    parts = [torch.linalg.inv(to_yiq) @ part @ to_yiq for part in (luminance, along, across)]
    return parts[0].to(device, torch.float32), parts[1].to(device, torch.float32), parts[2].to(device, torch.float32)
