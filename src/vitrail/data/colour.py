"""Any pixel format that Pillow gives -> opaque 8-bit sRGB."""

import functools
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms

from vitrail.data.containers import MAX_PROFILE_BYTES, NotRead, bare_profile

# What transparent pixels are laid over. White: the paper on which drawings and product shots with alpha are made.
BACKGROUND = (255, 255, 255)

# Larger images are converted and copied piece by piece, so that they are not in memory three or four times.
AT_ONCE_PIXELS = 1 << 24
_PIECE_PIXELS, _PIECE_SIDE = 1 << 22, 1 << 10


def to_rgb(image: Image.Image, *, apply_profile: bool) -> Image.Image:
    """A loaded image as opaque 8-bit sRGB.

    16-bit samples keep their high byte, alpha and transparent colours are laid over `BACKGROUND`.

    Args:
        image: of any mode.
        apply_profile: convert from the embedded ICC profile; False: take the numbers as they are, as most libraries.
    Raises:
        NotRead: pixels whose range nothing says, or of a mode that Pillow does not convert.
    """
    profile: bytes = (image.info.get("icc_profile") or b"") if apply_profile else b""
    if image.mode == "RGB" and not profile and "transparency" not in image.info:
        return image
    if image.mode == "I":
        _check_range(image)
    if image.width * image.height <= AT_ONCE_PIXELS:
        return _converted(image, profile)
    rgb = Image.new("RGB", image.size)
    for box in pieces(image.size):
        rgb.paste(_converted(image.crop(box), profile), box)
    return rgb


def pieces(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of a few million pixels that make up an image, from top to bottom."""
    width, height = size
    across = min(width, max(_PIECE_SIDE, _PIECE_PIXELS // height))
    down = min(height, max(_PIECE_SIDE, _PIECE_PIXELS // width))
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode.startswith("I"):
        colours, alpha = _from_16_bit(image)
    elif image.mode == "F":
        raise NotRead("floating-point pixels, of which nothing says what is white: convert to mode L or RGB first")
    elif image.mode == "LAB":
        raise NotRead("colours in CIELAB are not read: convert to mode RGB first")
    elif "A" in image.getbands() or "transparency" in image.info:
        colour: object = image.info.get("transparency")
        if image.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:
            # Pillow kept the high bytes of the pixels, but not of this colour.
            image = image.copy()
            image.info["transparency"] = tuple(sample >> 8 for sample in image.info["transparency"])
        rgba = image if image.mode == "RGBA" and "transparency" not in image.info else image.convert("RGBA")
        colours, alpha = rgba.convert("L" if image.mode in ("1", "L", "LA") else "RGB"), rgba.getchannel("A")
        del rgba  # of large images, each copy counts
    else:
        colours, alpha = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB"), None
    rgb = (_through_profile(colours, profile) if profile else None) or colours
    rgb = rgb if rgb.mode == "RGB" else rgb.convert("RGB")
    if alpha is None:
        return rgb
    rgb.paste(BACKGROUND, mask=ImageChops.invert(alpha))
    return rgb


def _from_16_bit(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """High bytes of a grey image of 16 bits, and its alpha where one grey value is declared transparent."""
    samples = np.asarray(image).astype(np.uint16, copy=False)
    grey = Image.fromarray((samples >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey, None
    return grey, Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8))


def _check_range(image: Image.Image) -> None:
    """Raise NotRead for an image of mode I that has other values than 16-bit ones.

    Mode I has 32 bits, of which Pillow uses 16 when it writes a file. Up to 255 it may as well be an 8-bit image that
    was converted.
    """
    least, most = image.getextrema()
    if not (255 < most <= 65535 and least >= 0):  # type: ignore[operator]
        raise NotRead(
            f"32-bit pixels from {least} to {most}, of which nothing says what is white: "
            "convert to mode L or I;16 first"
        )


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in sRGB, or None where the profile is broken or made for other channels."""
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        return ImageCms.applyTransform(image, _transform(profile, image.mode))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """Perceptual transform to sRGB, without lcms2's one-pixel cache, so that threads may share it."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(bare_profile(profile)))
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.buildTransform(source, target, mode, "RGB", flags=ImageCms.Flags.NOCACHE)
