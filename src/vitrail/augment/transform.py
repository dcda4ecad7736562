"""A uint8 batch becomes a normalised float batch: `prepare` for evaluation, `Augment` for training.

In: uint8 images [B, C, h, w] at decode size, on any device. Out: float32 images [B, C, H, W] at image size on the same
device, normalised. No loop over images, no waiting for the device.

Order: operations on pixel values, colour and normalisation, geometry with the resize, erasing.

Paper: arXiv:2010.11929 (the ViT whose input this makes); the operations name their own
"""

from dataclasses import replace
from functools import lru_cache
from math import log

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from vitrail.augment import geometry, mixing, policies
from vitrail.augment.colour import ColourMatrix, normalise
from vitrail.augment.random import Draw, alternating, uniform
from vitrail.config import AugmentConfig, Preprocessing
from vitrail.errors import ConfigError, InputError

_LOG_CROP_ASPECT = (log(3 / 4), log(4 / 3))
_CROP_DRAWS = (Draw.RESIZED_AREA, Draw.RESIZED_ASPECT, Draw.RESIZED_X, Draw.RESIZED_Y)
_ERASE_DRAWS = (Draw.ERASE, Draw.ERASE_AREA, Draw.ERASE_ASPECT, Draw.ERASE_X, Draw.ERASE_Y)


def prepare(images: UInt8[Tensor, "B C h w"], preprocessing: Preprocessing) -> Float[Tensor, "B C H W"]:
    """Normalise, and resize to `image_size` when that differs (bilinear, antialiased); no randomness.

    Raises:
        InputError: not uint8, or not the channels of `preprocessing`.
    """
    check_images(images, preprocessing)
    mean, std, _ = _statistics(preprocessing, images.device)
    return geometry.resize(normalise(images, mean, std), preprocessing.image_size)


def check_images(images: Tensor, preprocessing: Preprocessing) -> None:
    """Raise InputError unless the images are a uint8 batch with the channels of `preprocessing`."""
    num_channels = preprocessing.num_channels
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != num_channels:
        raise InputError(
            "The images do not fit the model's preprocessing.",
            got=f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}",
            expected=f"uint8 of shape (batch, {num_channels}, height, width)",
        )


@lru_cache(maxsize=32)
def _statistics(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation, and what a black pixel becomes; cached, because building them copies to the device."""
    mean, std = torch.tensor(preprocessing.mean, device=device), torch.tensor(preprocessing.std, device=device)
    return mean, std, -mean / std


class Augment:
    """Random changes of a batch, each image with its own parameters.

    An image's parameters depend on (seed, epoch, its id) alone; with alternating flips, two epochs in a row show both
    sides of it. With a config that changes nothing, the result is that of `prepare`, bit for bit. Where the geometry is
    flips and crops out of the padded image only, pixels are moved exactly, and resized as by `prepare`; everything else
    is composed into one resampling.

    Steps, in this order: flip; rotation, scale, translation and shear about the centre; the policy's geometry; crop
    out of the padded image; random resized crop; resize. The padding is in pixels of the output.

    Args:
        config: which changes.
        preprocessing: of the model.
        seed: of the run.
        crops_come_first: the images are random resized crops already, of the size of the input, as `crops` describes
            them; everything else is applied to these.
    Raises:
        ConfigError: colour operations on grey images, or more reflected padding than there is image.
    """

    def __init__(
        self, config: AugmentConfig, preprocessing: Preprocessing, *, seed: int, crops_come_first: bool = False
    ) -> None:
        if preprocessing.num_channels == 1 and (config.saturation or config.hue):
            raise ConfigError(
                "augment.saturation and augment.hue need colour images.",
                got="data.channels=L",
                expected="data.channels=RGB",
                do="Use --augment.saturation 0 --augment.hue 0.",
            )
        if config.fill == "reflect" and config.crop_padding >= min(preprocessing.image_size):
            raise ConfigError(
                "augment.crop-padding is larger than the image it reflects.",
                got=config.crop_padding,
                expected=f"less than {min(preprocessing.image_size)}",
                do="Lower --augment.crop-padding or use --augment.fill black.",
            )
        self.smallest_crop = config.resized_crop
        if crops_come_first:
            config = replace(config, resized_crop=1.0)
            preprocessing = replace(preprocessing, decode_size=preprocessing.image_size, resize_size=None)
        self.config = config
        self.preprocessing = preprocessing
        self.seed = seed
        self._num_slots = {"none": 0, "rand-augment": config.policy_ops, "trivial-augment": 1}[config.policy]
        self._has_affine = bool(config.rotation or config.translate or config.shear) or config.scale != (1.0, 1.0)
        self._has_jitter = bool(config.brightness or config.contrast or config.saturation or config.hue)
        is_resized_crop = config.crop_padding > 0 and preprocessing.image_size != preprocessing.decode_size
        self._is_resampled = self._has_affine or self._num_slots > 0 or config.resized_crop < 1 or is_resized_crop
        self._draws = self._used_draws()

    def _used_draws(self) -> tuple[int, ...]:
        config = self.config
        used: list[int] = []
        if config.flip:
            used.append(Draw.FLIP)
        if config.crop_padding:
            used += [Draw.CROP_X, Draw.CROP_Y]
        if self._has_affine:
            used += [Draw.ROTATION, Draw.TRANSLATE_X, Draw.TRANSLATE_Y, Draw.SCALE, Draw.SHEAR]
        if self._has_jitter:
            used += [Draw.BRIGHTNESS, Draw.CONTRAST, Draw.SATURATION, Draw.HUE]
        if config.resized_crop < 1:
            used += _CROP_DRAWS
        if config.erasing:
            used += _ERASE_DRAWS
        return (*used, *range(Draw.POLICY, Draw.POLICY + policies.DRAWS_PER_SLOT * self._num_slots))

    def __call__(
        self, images: UInt8[Tensor, "B C h w"], ids: Int64[Tensor, "B"], epoch: int
    ) -> Float[Tensor, "B C H W"]:
        """Augment one batch.

        Args:
            ids: stable example ids, on the images' device.
            epoch: of the run; the same id looks different in another epoch.

        Raises:
            InputError: not uint8, not the channels of the preprocessing, or not one int64 id an image.
        """
        check_images(images, self.preprocessing)
        mixing.check_one_each("id", ids, len(images))
        if not self._draws:
            return prepare(images, self.preprocessing)
        draws = self._drawn(ids, epoch)
        if self._is_resampled:
            slots = self._slots(draws, (images.shape[2], images.shape[3]))
            pixels = self._resample(self._recolour(images, draws, slots), draws, slots)
        elif self._has_jitter or self.config.fill == "mean":
            pixels = self._move(self._recolour(images, draws, []), draws, self._fill_values(images.device))
            pixels = geometry.resize(pixels, self.preprocessing.image_size)
        else:
            # The same numbers sooner: bytes are quicker to move than floats, and a black byte becomes a black pixel.
            black = torch.zeros(images.shape[1], dtype=torch.uint8, device=images.device)
            pixels = prepare(self._move(images, draws, black), self.preprocessing)
        if self.config.erasing:
            rows = torch.stack([draws[draw] for draw in _ERASE_DRAWS])
            pixels = mixing.erase(pixels, rows, self.config.erasing, self.config.erasing_area)
        return pixels

    def flips(self, ids: Int64[Tensor, "B"], epoch: int) -> Bool[Tensor, "B"]:
        """Which images are mirrored."""
        return self._flips(self._drawn(ids, epoch) if self._draws else {}, ids)

    def crops(self, ids: Int64[Tensor, "B"], epoch: int) -> Float[Tensor, "B 4"]:
        """The random resized crop of each image: area as a fraction, logarithm of the aspect, place in x and y.

        They are those that the images are cut by here, where they are kept at one size.
        """
        area, aspect, x, y = uniform(self.seed, epoch, ids, _CROP_DRAWS).unbind(0)
        low, high = _LOG_CROP_ASPECT
        area = self.smallest_crop + (1 - self.smallest_crop) * area
        return torch.stack((area, low + (high - low) * aspect, x, y), 1)

    def _drawn(self, ids: Tensor, epoch: int) -> dict[int, Tensor]:
        """The numbers in [0, 1) that the steps use, one an image."""
        numbers = uniform(self.seed, epoch, ids, self._draws)
        draws = dict(zip(self._draws, numbers.unbind(0), strict=True))
        if self.config.flip_kind == "alternating":
            draws[Draw.FLIP] = alternating(self.seed, epoch, ids, Draw.FLIP)
        return draws

    def _slots(self, draws: dict[int, Tensor], size: tuple[int, int]) -> list[policies.Slot]:
        policy = self.config.policy
        if policy == "none":
            return []
        level = self.config.policy_magnitude if policy == "rand-augment" else None
        firsts = range(Draw.POLICY, Draw.POLICY + policies.DRAWS_PER_SLOT * self._num_slots, policies.DRAWS_PER_SLOT)
        rows = [torch.stack([draws[first + i] for i in range(policies.DRAWS_PER_SLOT)]) for first in firsts]
        return [policies.choose(policy, row, size, level) for row in rows]

    def _recolour(self, images: Tensor, draws: dict[int, Tensor], slots: list[policies.Slot]) -> Tensor:
        """Operations on pixel values, then linear colour and normalisation in one pass."""
        mean, std, _ = _statistics(self.preprocessing, images.device)
        for slot in slots:
            images = policies.repaint(slot, images)
        if not (slots or self._has_jitter):
            return normalise(images, mean, std)
        config, colours = self.config, ColourMatrix(images)
        if config.brightness:
            colours.brightness(1 + config.brightness * _signed(draws[Draw.BRIGHTNESS]))
        if config.contrast:
            colours.contrast(1 + config.contrast * _signed(draws[Draw.CONTRAST]))
        if config.saturation:
            colours.saturation(1 + config.saturation * _signed(draws[Draw.SATURATION]))
        if config.hue:
            colours.hue(config.hue * _signed(draws[Draw.HUE]))
        for slot in slots:
            policies.recolour(slot, colours)
        return colours.apply(images, mean, std)

    def _fill_values(self, device: torch.device) -> Tensor:
        """Per channel, normalised: the mean colour is zero there."""
        black = _statistics(self.preprocessing, device)[2]
        return black if self.config.fill == "black" else torch.zeros_like(black)

    def _flips(self, draws: dict[int, Tensor], like: Tensor) -> Tensor:
        if not self.config.flip:
            return torch.zeros(len(like), dtype=torch.bool, device=like.device)
        return draws[Draw.FLIP] < self.config.flip

    def _offsets(self, draws: dict[int, Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
        """Left and top edge of the crop in the padded image, 0 to 2 * padding."""
        if not self.config.crop_padding:
            zero = torch.zeros(len(like), dtype=torch.int64, device=like.device)
            return zero, zero
        num_places = 2 * self.config.crop_padding + 1
        return (draws[Draw.CROP_X] * num_places).long(), (draws[Draw.CROP_Y] * num_places).long()

    def _move(self, pixels: Tensor, draws: dict[int, Tensor], fill_values: Tensor) -> Tensor:
        """Flip and crop by whole pixels."""
        if not (self.config.flip or self.config.crop_padding):
            return pixels
        left, top = self._offsets(draws, pixels)
        return geometry.shift_and_flip(
            pixels,
            self._flips(draws, pixels),
            left,
            top,
            padding=self.config.crop_padding,
            fill=self.config.fill,
            fill_values=fill_values,
        )

    def _resample(self, pixels: Tensor, draws: dict[int, Tensor], slots: list[policies.Slot]) -> Tensor:
        """Compose every geometric step and sample once."""
        size = (pixels.shape[2], pixels.shape[3])
        config = self.config
        mirror = 1 - 2 * self._flips(draws, pixels).float()
        matrices = geometry.scaling(mirror, torch.ones_like(mirror))
        if self._has_affine:
            matrices = matrices @ self._affine(draws, size)
        for slot in slots:
            matrices = matrices @ policies.matrix(slot, size)
        if config.crop_padding:
            left, top = (config.crop_padding - edge for edge in self._offsets(draws, pixels))
            height, width = self.preprocessing.image_size
            matrices = matrices @ geometry.translation(left * (size[1] / width), top * (size[0] / height))
        if config.resized_crop < 1:
            low, high = _LOG_CROP_ASPECT
            area = config.resized_crop + (1 - config.resized_crop) * draws[Draw.RESIZED_AREA]
            log_aspect = low + (high - low) * draws[Draw.RESIZED_ASPECT]
            place = draws[Draw.RESIZED_X], draws[Draw.RESIZED_Y]
            matrices = matrices @ geometry.cropping(area, log_aspect, *place, size)
        return geometry.resample(
            geometry.prefilter(pixels, self.preprocessing.image_size, config.resized_crop),
            matrices,
            size,
            self.preprocessing.image_size,
            fill=config.fill,
            fill_values=self._fill_values(pixels.device),
            is_inside=not (self._has_affine or slots or config.crop_padding),
            is_upright=not (self._has_affine or slots),
        )

    def _affine(self, draws: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Shear, scale, rotate, then translate, about the centre."""
        config = self.config
        low, high = config.scale
        zoom = low + (high - low) * draws[Draw.SCALE]
        tangent = torch.tan(torch.deg2rad(config.shear * _signed(draws[Draw.SHEAR])))
        shift_x = config.translate * size[1] * _signed(draws[Draw.TRANSLATE_X])
        shift_y = config.translate * size[0] * _signed(draws[Draw.TRANSLATE_Y])
        shear = geometry.shearing(tangent, torch.zeros_like(tangent))
        turn = geometry.rotation(config.rotation * _signed(draws[Draw.ROTATION]))
        return shear @ geometry.scaling(1 / zoom, 1 / zoom) @ turn @ geometry.translation(shift_x, shift_y)


def _signed(number: Tensor) -> Tensor:
    """[0, 1) to [-1, 1)."""
    return 2 * number - 1
