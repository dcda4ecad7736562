"""Mixing images of a batch with each other (mixup, CutMix), and erasing rectangles; on normalised images.

In: normalised images [B, C, H, W], labels [B]. Out: images of the same shape and soft targets [B, L].

Paper: mixup (arXiv:1710.09412), CutMix (arXiv:1905.04899), random erasing (arXiv:1708.04896)
"""

from dataclasses import dataclass
from math import log, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from vitrail.augment.geometry import box_sides
from vitrail.config import AugmentConfig
from vitrail.errors import InputError

_LOG_ERASE_ASPECT = (log(0.3), log(1 / 0.3))
"""Range of the aspect of an erased rectangle; arXiv:1708.04896, section 4.2 (r1 = 0.3)."""


class Mix:
    """Mix each image of a batch with another one of it, and their targets in the same proportion.

    The proportion, the box of CutMix and the partner are functions of (seed, epoch, batch number) and the same for the
    whole batch; they are drawn on the host, so nothing waits for the device. The partner is the image a random number
    of places further on, cyclically: never the image itself, unless it is alone.

    Args:
        num_labels: L, number of classes.
    """

    def __init__(self, config: AugmentConfig, num_labels: int, *, seed: int) -> None:
        self.config = config
        self.num_labels = num_labels
        self.seed = seed

    def __call__(
        self, images: Float[Tensor, "B C H W"], labels: Int64[Tensor, "B"], epoch: int, batch_number: int
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B L"]]:
        """Return mixed images and targets; the input is left as it is.

        Args:
            labels: in [0, num_labels); negative: of an image that counts nothing.
            batch_number: of the batch within the epoch.

        Raises:
            InputError: labels are not one int64 an image.
        Source: arXiv:1710.09412, section 2; arXiv:1905.04899, section 3.1. One proportion a batch, as both papers'
            own code does.
        """
        mixing = self.draw(len(images), epoch, batch_number)
        shift = mixing.shift if mixing else 0
        return self.apply(mixing, images, labels, images.roll(shift, 0) if shift else images, labels.roll(shift))

    def draw(self, num_images: int, epoch: int, batch_number: int) -> "Mixing | None":
        """How a batch of this length is mixed; None: not at all."""
        config = self.config
        generator = np.random.default_rng((self.seed, epoch, batch_number))
        takes_part, takes_cutmix, x, y, shift = generator.random(5).tolist()
        if not (config.mixup or config.cutmix) or takes_part >= config.mix_probability or num_images < 2:
            return None
        shift = 1 + int(shift * (num_images - 1))
        if config.cutmix and (not config.mixup or takes_cutmix < 0.5):
            return Mixing(shift, generator.beta(config.cutmix, config.cutmix), (x, y))
        return Mixing(shift, generator.beta(config.mixup, config.mixup), None)

    def apply(
        self,
        mixing: "Mixing | None",
        images: Float[Tensor, "B C H W"],
        labels: Int64[Tensor, "B"],
        partners: Float[Tensor, "B C H W"],
        partner_labels: Int64[Tensor, "B"],
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B L"]]:
        """Mix images with partners that were looked up already; any part of a batch can be mixed on its own.

        Args:
            mixing: what `draw` gave for the whole batch.
            partners: of image i of the batch, image i - mixing.shift, cyclically.
        Raises:
            InputError: labels are not one int64 an image.
        """
        check_one_each("label", labels, len(images))
        targets = targets_of(labels, self.num_labels).to(images.dtype)
        if mixing is None:
            return images, targets
        if mixing.centre is None:
            proportion = mixing.proportion
            images = torch.lerp(partners, images, proportion)
        else:
            images, proportion = _cut(images, partners, mixing.proportion, *mixing.centre)
        partner_targets = targets_of(partner_labels, self.num_labels).to(images.dtype)
        return images, torch.lerp(partner_targets, targets, proportion)


@dataclass(frozen=True)
class Mixing:
    """How one batch is mixed: partners `shift` places off, the images' own proportion, the centre of a CutMix box."""

    shift: int
    proportion: float
    centre: tuple[float, float] | None


def targets_of(labels: Int64[Tensor, "B"], num_labels: int) -> Int64[Tensor, "B L"]:
    """One row a label: 1 at its place; nothing but zeros for a negative one, so that its loss is zero."""
    return F.one_hot(labels.clamp(min=0), num_labels) * (labels >= 0).unsqueeze(1)


def check_one_each(name: str, values: Tensor, num_images: int) -> None:
    """Raise InputError unless there is one int64 value an image."""
    if values.dtype != torch.int64 or values.shape != (num_images,):
        raise InputError(
            f"Each image needs one {name}.",
            got=f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}",
            expected=f"int64 of shape ({num_images},)",
        )


def _cut(
    images: Float[Tensor, "B C H W"], partners: Float[Tensor, "B C H W"], proportion: float, x: float, y: float
) -> tuple[Float[Tensor, "B C H W"], float]:
    """Paste a box of the partner, centred anywhere and cut off at the border; the proportion of own pixels left."""
    height, width = images.shape[2:]
    side = sqrt(1 - proportion)
    top, bottom = _interval(int(y * height), int(side * height), height)
    left, right = _interval(int(x * width), int(side * width), width)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _interval(centre: int, length: int, end: int) -> tuple[int, int]:
    return max(centre - length // 2, 0), min(centre + length // 2, end)


def erase(
    images: Float[Tensor, "B C H W"],
    draws: Float[Tensor, "5 B"],
    probability: float,
    area: tuple[float, float],
) -> Float[Tensor, "B C H W"]:
    """Set one random rectangle of each chosen image to zero, which is the mean colour of normalised images; in place.

    Args:
        draws: in [0, 1), an example a column: whether, area, aspect, and place in x and y.
        probability: that an image is chosen.
        area: range of the rectangle's area, a fraction of the image.
    Source: arXiv:1708.04896, section 3.2; the aspect is limited to what fits, where the paper draws again.
    """
    height, width = images.shape[2:]
    whether, how_large, aspect, x, y = draws.unbind(0)
    low, high = _LOG_ERASE_ASPECT
    fraction = (area[0] + (area[1] - area[0]) * how_large).clamp(min=torch.finfo(torch.float32).tiny)
    box_width, box_height = box_sides(fraction, low + (high - low) * aspect, (height, width))
    box_width, box_height = box_width.round(), box_height.round()
    left = torch.floor(x * (width - box_width + 1)).unsqueeze(1)
    top = torch.floor(y * (height - box_height + 1)).unsqueeze(1)
    columns = torch.arange(width, device=images.device)
    rows = torch.arange(height, device=images.device)
    in_columns = (columns >= left) & (columns < left + box_width.unsqueeze(1)) & (whether < probability).unsqueeze(1)
    in_rows = (rows >= top) & (rows < top + box_height.unsqueeze(1))
    return images.masked_fill_((in_rows.unsqueeze(2) & in_columns.unsqueeze(1)).unsqueeze(1), 0.0)
