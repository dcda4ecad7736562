"""RandAugment and TrivialAugment on a batch: each image gets its own operations and strengths.

In: uint8 images [B, C, h, w] and random numbers [4, B] for each slot (one operation an image). Out: for each slot the
chosen operations, which then act in three places: on the uint8 images (posterize, solarize, autocontrast, equalize,
sharpness), in the colour matrix (brightness, contrast, saturation), in the geometric matrix (shear, translate, rotate).

The papers apply the operations strictly one after the other. Here all that act on pixel values come first, in the
order of their slots, then the colour matrix, then one resampling for all the geometry. With one slot that is the same
but for rounding; with several it differs where a geometric operation comes before a non-linear one: the histogram of
autocontrast and equalize never counts the fill. Invert, which neither set has, is solarize with threshold 0.

Paper: RandAugment (arXiv:1909.13719), TrivialAugment (arXiv:2103.10158)
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from vitrail.augment import geometry
from vitrail.augment.colour import ColourMatrix

Policy = Literal["rand-augment", "trivial-augment"]

NUM_LEVELS = 31
DRAWS_PER_SLOT = 4


class Operation(IntEnum):
    """The 14 operations of both papers."""

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    SATURATION = 7
    CONTRAST = 8
    SHARPNESS = 9
    POSTERIZE = 10
    SOLARIZE = 11
    AUTOCONTRAST = 12
    EQUALIZE = 13


@dataclass(frozen=True)
class Slot:
    """One operation for each image.

    Magnitudes: tangent (shear), pixels right or down (translate), degrees counter-clockwise (rotate), factor
    (brightness, saturation, contrast, sharpness), bits kept (posterize), threshold (solarize).
    """

    operation: Int64[Tensor, "B"]
    magnitude: Float[Tensor, "B"]

    def pick(self, operation: Operation, otherwise: float) -> Float[Tensor, "B"]:
        """The magnitude of the images that have this operation, and a neutral one for the others."""
        return torch.where(self.operation == operation, self.magnitude, otherwise)


@lru_cache(maxsize=16)
def _magnitudes(policy: Policy, size: tuple[int, int], device: torch.device) -> Tensor:
    """Magnitude by (sign, operation, level) [2, 14, 31]; sign 0 is as it stands, 1 the opposite where there is one.

    Source: arXiv:1909.13719, section 3, with the ranges of AutoAugment (arXiv:1805.09501, table 6); arXiv:2103.10158,
        table 1 ("wide"). As torchvision 0.28: translations of RandAugment are a fraction of the side, 150/331.
    """
    is_wide = policy == "trivial-augment"
    level = torch.linspace(0.0, 1.0, NUM_LEVELS, dtype=torch.float64)
    height, width = size
    shift_x, shift_y = (32.0, 32.0) if is_wide else (150 / 331 * width, 150 / 331 * height)
    symmetric = {
        Operation.SHEAR_X: level * (0.99 if is_wide else 0.3),
        Operation.SHEAR_Y: level * (0.99 if is_wide else 0.3),
        Operation.TRANSLATE_X: torch.trunc(level * shift_x + 1e-9),
        Operation.TRANSLATE_Y: torch.trunc(level * shift_y + 1e-9),
        Operation.ROTATE: level * (135.0 if is_wide else 30.0),
    }
    enhance = level * (0.99 if is_wide else 0.9)
    table = torch.zeros(2, len(Operation), NUM_LEVELS, dtype=torch.float64)
    for operation, values in symmetric.items():
        table[0, operation], table[1, operation] = values, -values
    for operation in (Operation.BRIGHTNESS, Operation.SATURATION, Operation.CONTRAST, Operation.SHARPNESS):
        table[0, operation], table[1, operation] = 1 + enhance, 1 - enhance
    table[:, Operation.POSTERIZE] = torch.round(8 - level * (6 if is_wide else 4))
    table[:, Operation.SOLARIZE] = 255 * (1 - level)
    return table.to(device, torch.float32)


def choose(policy: Policy, draws: Float[Tensor, "4 B"], size: tuple[int, int], level: int | None = None) -> Slot:
    """Choose an operation, its strength and its sign for each image.

    Args:
        draws: in [0, 1): operation, level, sign, and one that is kept for later.
        size: (height, width) of the images, for translations.
        level: strength 0 to 30 for all images (RandAugment); None: each its own (TrivialAugment).
    """
    operation = (draws[0] * len(Operation)).long()
    levels = (draws[1] * NUM_LEVELS).long() if level is None else torch.full_like(operation, level)
    sign = (draws[2] < 0.5).long()
    return Slot(operation, _magnitudes(policy, size, draws.device)[sign, operation, levels])


def matrix(slot: Slot, size: tuple[int, int]) -> Float[Tensor, "B 3 3"]:
    """The geometric operations of a slot; shears keep the top left corner in place, as in the papers' code."""
    corner = (-size[1] / 2, -size[0] / 2)
    shear = geometry.shearing(slot.pick(Operation.SHEAR_X, 0.0), slot.pick(Operation.SHEAR_Y, 0.0), corner)
    shift = geometry.translation(slot.pick(Operation.TRANSLATE_X, 0.0), slot.pick(Operation.TRANSLATE_Y, 0.0))
    return shear @ shift @ geometry.rotation(slot.pick(Operation.ROTATE, 0.0))


def recolour(slot: Slot, colours: ColourMatrix) -> None:
    """Add the linear colour operations of a slot to the colour matrices."""
    colours.brightness(slot.pick(Operation.BRIGHTNESS, 1.0))
    colours.contrast(slot.pick(Operation.CONTRAST, 1.0))
    colours.saturation(slot.pick(Operation.SATURATION, 1.0))


def repaint(slot: Slot, images: UInt8[Tensor, "B C h w"]) -> UInt8[Tensor, "B C h w"]:
    """Apply the operations of a slot that no matrix can express."""
    values = slot.magnitude.view(-1, 1, 1, 1)
    for operation, function in _REPAINT.items():
        images = _apply_to(images, slot.operation == operation, function, values)
    return images


def _apply_to(
    images: UInt8[Tensor, "B C h w"],
    mask: Bool[Tensor, "B"],
    function: Callable[[Tensor, Tensor], Tensor],
    values: Float[Tensor, "B 1 1 1"],
) -> UInt8[Tensor, "B C h w"]:
    if images.device.type == "cpu":
        # Only the images concerned. Elsewhere their number would have to be fetched from the device, which waits.
        chosen = mask.nonzero().squeeze(1)
        return images.index_copy(0, chosen, function(images[chosen], values[chosen])) if len(chosen) else images
    return torch.where(mask.view(-1, 1, 1, 1), function(images, values), images)


def posterize(images: UInt8[Tensor, "B C h w"], bits: Float[Tensor, "B 1 1 1"]) -> UInt8[Tensor, "B C h w"]:
    """Keep the given number of highest bits."""
    step = torch.exp2(8 - bits.clamp(0, 8))
    return images.bitwise_and((256 - step).to(torch.uint8))


def solarize(images: UInt8[Tensor, "B C h w"], threshold: Float[Tensor, "B 1 1 1"]) -> UInt8[Tensor, "B C h w"]:
    """Invert the pixels from the threshold upwards."""
    return torch.where(images >= threshold, 255 - images, images)


def autocontrast(images: UInt8[Tensor, "B C h w"], _: Float[Tensor, "B 1 1 1"]) -> UInt8[Tensor, "B C h w"]:
    """Stretch each channel to the whole range; a flat channel stays."""
    pixels = images.int()
    lowest, highest = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    span = highest - lowest
    stretched = (pixels - lowest).mul_(255).div_(span.clamp(min=1), rounding_mode="floor")
    return torch.where(span > 0, stretched, pixels).to(torch.uint8)


def equalize(images: UInt8[Tensor, "B C h w"], _: Float[Tensor, "B 1 1 1"]) -> UInt8[Tensor, "B C h w"]:
    """Flatten the histogram of each channel, in Pillow's integer arithmetic."""
    num_images, num_channels, _height, _width = images.shape
    pixels = images.view(num_images, num_channels, -1).long()
    counts = pixels.new_zeros(num_images, num_channels, 256).scatter_add_(2, pixels, torch.ones_like(pixels))
    below = counts.cumsum(2) - counts
    # The brightest value is left out of the total, so that it maps to 255.
    step = (below.gather(2, pixels.amax(2, keepdim=True)) // 255).expand_as(counts)
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.to(torch.uint8).gather(2, pixels).view(images.shape)


def sharpness(images: UInt8[Tensor, "B C h w"], factor: Float[Tensor, "B 1 1 1"]) -> UInt8[Tensor, "B C h w"]:
    """Blend with a smoothed image (3x3, the centre weighs 5 of 13), border pixels excepted: 0 smooth, 1 unchanged."""
    if min(images.shape[2:]) < 3:
        return images
    pixels = images.float()
    centre = pixels[:, :, 1:-1, 1:-1]
    smooth = ((F.avg_pool2d(pixels, 3, stride=1) * 9 + 4 * centre) / 13).round_()
    blended = images.clone()
    blended[:, :, 1:-1, 1:-1] = torch.lerp(smooth, centre, factor).clamp_(0, 255).to(torch.uint8)
    return blended


_REPAINT: dict[Operation, Callable[[Tensor, Tensor], Tensor]] = {
    Operation.POSTERIZE: posterize,
    Operation.SOLARIZE: solarize,
    Operation.AUTOCONTRAST: autocontrast,
    Operation.EQUALIZE: equalize,
    Operation.SHARPNESS: sharpness,
}
