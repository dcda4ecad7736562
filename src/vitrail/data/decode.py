"""The only image decoder: training, evaluation, prediction and serving all see the same pixels.

In: the bytes or the path of a JPEG, PNG, WebP, BMP or GIF file. Out: upright 8-bit sRGB, or one `ImageError`.
Hostile files are expected: the format is told by its first bytes, size limits hold before pixels are decoded, and
whatever the decoder raises becomes an `ImageError`.
"""

import functools
import io
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from vitrail.config import Preprocessing
from vitrail.data.fit import fit, size_needed
from vitrail.errors import ImageError

try:  # extra `fast`
    import simplejpeg
except ImportError:
    simplejpeg = None

# What transparent pixels are laid over. White: the paper on which drawings and product shots with alpha are made.
BACKGROUND = (255, 255, 255)

# Below it two scales of a JPEG can have the same size.
_LEAST_SIDE = 8

# Larger than every ICC profile in common use (CMYK press profiles have 0.5 to 2.5 MB).
_MAX_PROFILE_BYTES = 4 << 20

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = (5, 6, 7, 8)
"""Orientations that make width of height."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one image file may cost."""

    max_bytes: int = 256 << 20
    """Size of the file."""
    max_pixels: int = 100_000_000
    """Width times height, as the file's header states them; 100 Mpx take 300 MB decoded."""


DEFAULT = Limits()


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself before its pixels are decoded."""

    format: str
    mode: str
    """Pillow's name of the pixel format, as RGB, L, P, CMYK, I;16."""
    height: int
    width: int


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """Pillow's JPEG reader without its search for a resolution, which warns when the EXIF data is damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": _JpegFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}


def decode_image(
    source: bytes | Path, *, name: str | None = None, limits: Limits = DEFAULT
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image file to upright sRGB.

    EXIF orientation is applied. 16-bit samples keep their high byte. Alpha, transparent palette entries and
    transparent colours are laid over `BACKGROUND` (white). CMYK and YCCK become RGB, through the embedded ICC profile
    where there is one; a broken profile is ignored. Of an animation the first frame is taken.

    Args:
        source: the encoded bytes, or the path of the file.
        name: how messages call the image; default: the path.
        limits: largest file and largest image.
    Raises:
        ImageError: no image of the five formats, truncated, damaged, unreadable or too large.
    """
    return np.asarray(_upright(*_open(source, name, limits)))


def load_image(
    source: bytes | Path, preprocessing: Preprocessing, *, name: str | None = None, limits: Limits = DEFAULT
) -> UInt8[np.ndarray, "C h w"]:
    """Decode an image file and bring it to the size and the channels that a model keeps (`decode_size`).

    Args:
        source: the encoded bytes, or the path of the file.
        preprocessing: all that concerns decoding is used.
        name: how messages call the image; default: the path.
        limits: largest file and largest image.
    Raises:
        ImageError: as `decode_image`.
    """
    image, kind, label = _open(source, name, limits)
    if kind == "JPEG" and preprocessing.fast_decoding:
        width, height = size_needed(preprocessing)
        turned = _orientation(image.info.get("exif", b"")) in _SWAPPING
        image.draft(None, (height, width) if turned else (width, height))
        pixels = _by_simplejpeg(image)
        if pixels is not None:
            return fit(pixels, preprocessing)
    return fit(_upright(image, kind, label), preprocessing)


def image_header(source: bytes | Path, *, name: str | None = None, limits: Limits = DEFAULT) -> ImageHeader:
    """Read format, pixel format and stored size (before EXIF orientation) without decoding any pixel.

    Raises:
        ImageError: no image of the five formats, or too large.
    """
    image, kind, _ = _open(source, name, limits)
    return ImageHeader(kind, image.mode, image.height, image.width)


def _by_simplejpeg(image: ImageFile.ImageFile) -> UInt8[np.ndarray, "H W 3"] | None:
    """The pixels that Pillow would decode, sooner; None where more is to be done than decoding.

    A file with any damage is left to Pillow, which says what is wrong.
    """
    plain = image.mode == "RGB" and not image.info.get("icc_profile") and min(image.size) >= _LEAST_SIDE
    if simplejpeg is None or not plain or _orientation(image.info.get("exif", b"")) != 1:
        return None
    assert isinstance(image.fp, io.BytesIO)
    try:
        # The size is that of the draft, the whole one or an exact half, quarter or eighth.
        pixels = simplejpeg.decode_jpeg(image.fp.getvalue(), min_height=image.height, min_width=image.width)
    except (ValueError, MemoryError):
        return None
    return pixels if pixels.shape == (image.height, image.width, 3) else None


def _upright(image: ImageFile.ImageFile, kind: str, label: str) -> Image.Image:
    """The upright 8-bit RGB image."""
    try:
        image.load()
        upright = _TRANSPOSITIONS.get(_orientation(image.info.get("exif", b"")))
        rgb = _to_rgb(image, sixteen_bit=kind == "PNG" and image.info["depth"] == 16)
        return rgb.transpose(upright) if upright is not None else rgb
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, MemoryError, ...
        raise ImageError(f"damaged or truncated {kind} image ({_first_line(error)})", label) from error


def _open(source: bytes | Path, name: str | None, limits: Limits) -> tuple[ImageFile.ImageFile, str, str]:
    """Check size and format, and read the header. Returns the lazy image, its format and its name."""
    label = name if name is not None else str(source) if isinstance(source, Path) else "image"
    data = _read(source, label, limits) if isinstance(source, Path) else source
    if len(data) > limits.max_bytes:
        raise ImageError(f"the file has more than {limits.max_bytes} bytes", label)
    kind = _format(data)
    if kind is None:
        found = "it is empty" if not data else f"it starts with {bytes(data[:8])!r}"
        raise ImageError(f"not an image ({found}; JPEG, PNG, WebP, BMP and GIF are read)", label)
    try:
        # Pillow allocates the canvas of these two when it opens them, so their size is read before.
        if kind in ("WebP", "GIF"):
            _check_pixels(_webp_size(data) if kind == "WebP" else _gif_size(data), limits, label)
        image = _READERS[kind](io.BytesIO(data))
        _check_pixels(image.size, limits, label)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"damaged {kind} image ({_first_line(error)})", label) from error
    if kind == "PNG":
        image.info["depth"] = data[24]
    return image, kind, label


def _read(path: Path, label: str, limits: Limits) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would block, a device might never end
            raise ImageError("not a regular file", label)
        # Reading at most n bytes takes memory for n, so the limit is no good n. A file may have more than it said.
        room, parts = limits.max_bytes + 1, list[bytes]()
        with path.open("rb", buffering=0) as file:
            while part := file.read(min(room, max(found.st_size, 4096) + 1)):
                parts.append(part)
                room -= len(part)
        return b"".join(parts)
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror or error})", label) from error


def _format(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return "BMP" if data.startswith(b"BM") else None


def image_format(head: bytes) -> str | None:
    """The format of an image file, read here or not, by its first 32 bytes; None for a file of another kind."""
    if head[4:8] == b"ftyp":  # the container of films, too: the brands tell
        brands = {head[start : start + 4] for start in (8, *range(16, 32, 4))}
        known = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1"), "HEIC")
        return min((known[brand] for brand in brands & known.keys()), default=None)
    kind = "TIFF" if head.startswith((b"II*\0", b"MM\0*")) else _format(head)
    # Two letters may begin any text; of a bitmap's second header the size is small.
    return kind if kind != "BMP" or head[15:18] == b"\0\0\0" else None


def _check_pixels(size: tuple[int, int], limits: Limits, label: str) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(f"{width} x {height} pixels, more than the limit of {limits.max_pixels}", label)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas. Source: the WebP container and bit stream specifications (RFC 9649)."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"unknown chunk {chunk!r}")


def _gif_size(data: bytes) -> tuple[int, int]:
    """Width and height that hold both the canvas and the first frame. Source: GIF89a specification."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[position] == 0x21:  # extension blocks: two bytes, then sub-blocks up to one of length zero
        position += 2
        while data[position]:
            position += 1 + data[position]
        position += 1
    if data[position] != 0x2C:
        raise ValueError("no frame")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, position + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def _orientation(exif: bytes) -> int:
    """The EXIF orientation 1 to 8; 1 where there is none or the data is damaged. Source: EXIF 2.32, tag 0x0112."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == 0x0112:
                return struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, entry + 8)[0]
    except struct.error:
        pass
    return 1


def _to_rgb(image: Image.Image, *, sixteen_bit: bool) -> Image.Image:
    """Any mode of the five formats as opaque 8-bit sRGB."""
    profile = image.info.get("icc_profile", b"")
    if image.mode.startswith("I;16"):
        colours, alpha = _from_16_bit(image)
    elif "A" in image.getbands() or "transparency" in image.info:
        if sixteen_bit and image.mode == "RGB":  # Pillow kept the high bytes of the pixels, but not of this colour
            image.info["transparency"] = tuple(sample >> 8 for sample in image.info["transparency"])
        rgba = image.convert("RGBA")
        colours, alpha = rgba.convert("L" if image.mode in ("1", "L", "LA") else "RGB"), rgba.getchannel("A")
    else:
        colours, alpha = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB"), None
    rgb = (_through_profile(colours, profile) if profile else None) or colours
    rgb = rgb if rgb.mode == "RGB" else rgb.convert("RGB")
    if alpha is None:
        return rgb
    opaque = Image.new("RGB", rgb.size, BACKGROUND)
    opaque.paste(rgb, mask=alpha)
    return opaque


def _from_16_bit(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """High bytes of a 16-bit grey image, and its alpha where one grey value is declared transparent."""
    samples = np.asarray(image).astype(np.uint16, copy=False)
    grey = Image.fromarray((samples >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey, None
    return grey, Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8))


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in sRGB, or None where the profile is broken or made for other channels."""
    if len(profile) > _MAX_PROFILE_BYTES:
        return None
    try:
        return ImageCms.applyTransform(image, _transform(profile, image.mode))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """Perceptual transform to sRGB, without lcms2's one-pixel cache, so that threads may share it."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.buildTransform(source, target, mode, "RGB", flags=ImageCms.Flags.NOCACHE)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
