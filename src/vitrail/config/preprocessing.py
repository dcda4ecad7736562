"""How an image file becomes the model's input: written into every model file, followed by train, eval and predict."""

from dataclasses import dataclass, replace
from typing import Literal

from vitrail.config.checks import require, require_positive

LARGEST_AREA = 1 << 24
"""Pixels of the largest input, 4,096 x 4,096; an image of that size has 50 MB as bytes and 200 MB as floats."""

ResizeMode = Literal["squash", "crop"]
ResizeFilter = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
CropRounding = Literal["half-even", "floor"]
IccProfile = Literal["apply", "ignore"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Two steps, so that decoded images can be kept: file -> uint8 at `decode_size` -> float at `image_size`.

    1. Decoding (Pillow, on the CPU): RGB or grey, resized to `decode_size` with `resize_mode` and `resize_filter`
       (antialiased, as Pillow does), uint8. An image that has this size already is not touched.
    2. On the device: resized to `image_size` when that differs (bilinear, antialiased), divided by 255, minus
       `mean`, divided by `std`.
    """

    image_size: tuple[int, int]
    """Height and width of the model's input, in pixels."""
    decode_size: tuple[int, int]
    """Height and width of the decoded image, in pixels."""
    resize_mode: ResizeMode = "crop"
    """crop: the shorter side to decode_size, then the centre; squash: both sides, changing the aspect ratio."""
    resize_filter: ResizeFilter = "bicubic"
    """Pillow's filter of the decoding step."""
    resize_size: tuple[int, int] | None = None
    """Height and width that the whole image is resized to before its centre is cut out, at whole pixels; crop: the
    shorter side to the smaller of both. None: straight to decode_size, only the pixels that are kept being computed."""
    crop_rounding: CropRounding = "half-even"
    """Where an odd margin goes, with resize_size: half-even as torchvision and timm, floor as transformers."""
    fast_decoding: bool = False
    """A JPEG of at least twice the size needed is decoded at a half, quarter or eighth of it (exact in the DCT, not in
    Pillow's filter); RGB images are resized by torch's vector code, within two levels of Pillow's."""
    icc: IccProfile = "apply"
    """apply: colours go through the ICC profile that a file embeds, to sRGB; ignore: its numbers are taken as they are,
    as timm, torchvision and transformers do."""
    channels: Literal["RGB", "L"] = "RGB"
    """Colour, or one channel of luminance (ITU-R 601)."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Subtracted from each channel, in units of [0, 1]."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Divides each channel, in units of [0, 1]."""

    def __post_init__(self) -> None:
        for name in ("image_size", "decode_size"):
            for side in getattr(self, name):
                require_positive(f"preprocessing.{name}", side)
        for name in ("image_size", "decode_size", "resize_size"):
            height, width = getattr(self, name) or (0, 0)
            most = f"at most {LARGEST_AREA} pixels"
            require(height * width <= LARGEST_AREA, f"preprocessing.{name}", f"{height} x {width}", most)
        (height, width), (rows, columns) = self.image_size, self.decode_size
        most = max(1024**2, 16 * height * width)
        require(rows * columns <= most, "preprocessing.decode_size", f"{rows} x {columns}", f"at most {most} pixels")
        require(
            self.resize_size is None or all(r >= d for r, d in zip(self.resize_size, self.decode_size, strict=True)),
            "preprocessing.resize_size",
            self.resize_size,
            f"at least decode_size={self.decode_size}",
        )
        for name in ("mean", "std"):
            require(
                len(getattr(self, name)) == self.num_channels,
                f"preprocessing.{name}",
                getattr(self, name),
                f"{self.num_channels} values for channels={self.channels}",
            )
        for value in self.std:
            require_positive("preprocessing.std", value)

    @property
    def num_channels(self) -> int:
        """3 for RGB, 1 for L."""
        return 3 if self.channels == "RGB" else 1

    def resized(self, image_size: tuple[int, int]) -> "Preprocessing":
        """The same steps for another input size; decoding follows where it went straight to that size."""
        if image_size == self.image_size:
            return self
        follows = self.decode_size == self.image_size
        if not follows:
            return replace(self, image_size=image_size)
        resize = self.resize_size and (
            max(image_size[0], round(self.resize_size[0] * image_size[0] / self.image_size[0])),
            max(image_size[1], round(self.resize_size[1] * image_size[1] / self.image_size[1])),
        )
        return replace(self, image_size=image_size, decode_size=image_size, resize_size=resize)
