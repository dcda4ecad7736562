"""The only image decoder: training, evaluation, prediction and serving all see the same pixels.

In: the bytes or the path of a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC file, or an image of Pillow. Out: upright
8-bit sRGB, or one `ImageError`.
Hostile files are expected: the format is told by its first bytes, size limits hold before pixels are decoded, and
whatever the decoder raises becomes an `ImageError`.
"""

import contextlib
import errno
import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile

from vitrail.config import Preprocessing
from vitrail.data.colour import AT_ONCE_PIXELS, to_rgb
from vitrail.data.containers import NotRead, gif_size, webp_size
from vitrail.data.fit import array_of, fit, size_needed
from vitrail.data.formats import READ, describe_start, format_of
from vitrail.data.memory_budget import MemoryBudget
from vitrail.data.orientation import TRANSPOSITIONS, is_turned, orientation_in, orientation_of_loaded
from vitrail.data.pillow_readers import SMALL_PIXELS, load, open_image, small_webp
from vitrail.errors import ImageError
from vitrail.reading import read_regular

try:  # extra `fast`
    import simplejpeg
except ImportError:
    simplejpeg = None

_MOST_PIXELS_A_BYTE = 1000
_room = MemoryBudget()
# Pillow allocates the canvas of these when it opens them, so their size is read and their memory taken before.
_AT_OPENING = ("WebP", "GIF")
# What cannot be allocated when less than this was asked for is not for want of memory.
_MUCH = 64 << 20
TOO_MANY = "{} x {} pixels, too many for the memory that is free"

# Below it two scales of a JPEG can have the same size.
_LEAST_SIDE = 8


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one image file may cost."""

    max_bytes: int = 256 << 20
    """Size of the file."""
    max_pixels: int = 100_000_000
    """Width times height, as the file's header states them; 100 Mpx take 300 MB decoded, and 400 to 1,600 on the way.
    Files of at most 16 Mpx are decoded within 256 MiB, whatever they contain."""
    max_side: int = 1_000_000
    """Width or height."""
    max_flat_pixels: int = 16_000_000
    """Width times height of a file with more than a thousand pixels a byte: of one colour, or made to fill memory.
    9/4 as many where a pixel is black or white: an empty page at 600 dots an inch. PNG and BMP cannot be packed so."""


DEFAULT = Limits()


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself before its pixels are decoded."""

    format: str
    mode: str
    """Pillow's name of the pixel format, as RGB, L, P, CMYK, I;16."""
    height: int
    width: int


def decode_image(
    source: bytes | Path, *, name: str | None = None, limits: Limits = DEFAULT, apply_profile: bool = True
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image file to upright sRGB.

    EXIF orientation is applied. 16-bit samples keep their high byte. Alpha, transparent palette entries and
    transparent colours are laid over `BACKGROUND` (white). CMYK and YCCK become RGB, through the embedded ICC profile
    where there is one; a broken profile is ignored. Of an animation the first frame is taken.

    Args:
        source: the encoded bytes, or the path of the file.
        name: how messages call the image; default: the path.
        limits: largest file and largest image.
        apply_profile: False: take the numbers of the file for sRGB, whatever profile it has.
    Raises:
        ImageError: no image of a format that is read, truncated, damaged, unreadable or too large.
    """
    with contextlib.ExitStack() as held:
        image, kind, label = open_lazily(source, name, limits, held)
        try:
            if image.width * image.height > SMALL_PIXELS:
                take_room(held, image, kind, coefficient_bytes(image))
            rgb = upright(image, kind, label, apply_profile)
            return np.asarray(rgb) if rgb.width * rgb.height <= AT_ONCE_PIXELS else array_of(rgb)
        except MemoryError as error:
            raise ImageError(TOO_MANY.format(*image.size), label) from error


def load_image(
    source: bytes | Path | Image.Image,
    preprocessing: Preprocessing,
    *,
    name: str | None = None,
    limits: Limits = DEFAULT,
    with_torch: bool = True,
) -> UInt8[np.ndarray, "C h w"]:
    """Decode an image file and bring it to the size and the channels that a model keeps (`decode_size`).

    Args:
        source: the encoded bytes, the path of the file, or an image of Pillow: the frame at which it stands.
        preprocessing: all that concerns decoding is used.
        name: how messages call the image; default: the path.
        limits: largest file and largest image.
        with_torch: False: `fast_decoding` resizes with Pillow, as where torch is not installed.
    Raises:
        ImageError: as `decode_image`.
    """
    apply_profile = preprocessing.icc == "apply"
    if isinstance(source, Image.Image):
        try:
            found = upright(source, "Pillow's", name or "image", apply_profile)
            return fit(found, preprocessing, with_torch=with_torch)
        except MemoryError as error:
            raise ImageError(TOO_MANY.format(*source.size), name or "image") from error
    small = small_webp(source) if isinstance(source, bytes) and limits is DEFAULT else None
    if small is not None:
        return fit(small, preprocessing, with_torch=with_torch)
    with contextlib.ExitStack() as held:
        image, kind, label = open_lazily(source, name, limits, held)
        is_reduced = kind == "JPEG" and preprocessing.fast_decoding
        is_small = image.width * image.height <= SMALL_PIXELS
        try:
            coefficients = 0 if is_small else coefficient_bytes(image)
            if is_reduced:
                width, height = size_needed(preprocessing)
                turned = is_turned(image)
                image.draft(None, (height, width) if turned else (width, height))
            if not is_small:
                take_room(held, image, kind, coefficients)
            pixels = by_simplejpeg(image, apply_profile) if is_reduced else None
            found = upright(image, kind, label, apply_profile) if pixels is None else pixels
            return fit(found, preprocessing, with_torch=with_torch)
        except MemoryError as error:
            raise ImageError(TOO_MANY.format(*image.size), label) from error


def thumbnail(source: bytes | Path, side: int, *, name: str | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The whole image, upright and in sRGB, its longer side at most `side` pixels. Raises ImageError."""
    with contextlib.ExitStack() as held:
        image, kind, label = open_lazily(source, name, DEFAULT, held)
        try:
            coefficients = coefficient_bytes(image)
            image.draft(None, (side, side))  # a JPEG is decoded at a fraction of its size
            if image.width * image.height > SMALL_PIXELS:
                take_room(held, image, kind, coefficients)
            rgb = upright(image, kind, label, True)
            rgb.thumbnail((side, side))
            return np.asarray(rgb)
        except MemoryError as error:
            raise ImageError(TOO_MANY.format(*image.size), label) from error


def image_header(source: bytes | Path, *, name: str | None = None, limits: Limits = DEFAULT) -> ImageHeader:
    """Read format, pixel format and stored size (before EXIF orientation) without decoding any pixel.

    Raises:
        ImageError: no image of a format that is read, or too large.
    """
    with contextlib.ExitStack() as held:
        image, kind, _ = open_lazily(source, name, limits, held)
    return ImageHeader(kind, image.mode, image.height, image.width)


def by_simplejpeg(image: ImageFile.ImageFile, apply_profile: bool) -> UInt8[np.ndarray, "H W 3"] | None:
    """The pixels that Pillow would decode, sooner; None where more is to be done than decoding.

    A file with any damage is left to Pillow, which says what is wrong.
    """
    needs_profile = apply_profile and image.info.get("icc_profile")
    plain = image.mode == "RGB" and not needs_profile and min(image.size) >= _LEAST_SIDE
    if simplejpeg is None or not plain or orientation_in(image.info.get("exif") or b"") != 1:
        return None
    assert isinstance(image.fp, io.BytesIO)
    try:
        # The size is that of the draft, the whole one or an exact half, quarter or eighth.
        pixels = simplejpeg.decode_jpeg(image.fp.getvalue(), min_height=image.height, min_width=image.width)
    except (ValueError, MemoryError):
        return None
    return pixels if pixels.shape == (image.height, image.width, 3) else None


def upright(image: Image.Image, kind: str, label: str, apply_profile: bool) -> Image.Image:
    """The upright 8-bit RGB image. Nothing but that remains of the image of a file."""
    try:
        is_file = kind != "Pillow's"
        load(image) if is_file else image.load()
        rgb = to_rgb(image, apply_profile=apply_profile)
        turn = TRANSPOSITIONS.get(orientation_of_loaded(image))
        if is_file and rgb is not image:
            image.close()
        return rgb.transpose(turn) if turn is not None else rgb
    except NotRead as error:
        raise ImageError(f"{kind} image: {error}", label) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        if _is_short_of_memory(error, _cost(image.size, kind)):
            raise MemoryError from error
        raise ImageError(f"damaged or truncated {kind} image ({_first_line(error)})", label) from error


def take_room(held: contextlib.ExitStack, image: Image.Image, kind: str, more: int) -> None:
    """Wait until other threads have left enough memory."""
    if kind not in _AT_OPENING:
        held.enter_context(_room.taking(_cost(image.size, kind) + more))


def _cost(size: tuple[int, int], kind: str) -> int:
    """About how many bytes decoding takes: Pillow keeps four a pixel of colour, and we a copy.

    libwebp, libavif and libheif keep two canvases beside it, and one more for moments.
    """
    return size[0] * size[1] * (20 if kind in ("WebP", "AVIF", "HEIC") else 8)


def coefficient_bytes(image: Image.Image) -> int:
    """What libjpeg keeps of a progressive file, of all its pixels even where fewer are asked for."""
    return 6 * image.width * image.height if "progressive" in image.info else 0


def _is_short_of_memory(error: Exception, cost: int) -> bool:
    """Whether a decoder failed for want of memory; most say that something else is wrong."""
    if cost < _MUCH:
        return False
    try:
        np.empty(cost, np.uint8)
    except MemoryError:
        return True
    return "memory" in str(error).lower()


def open_lazily(
    source: bytes | Path, name: str | None, limits: Limits, held: contextlib.ExitStack
) -> tuple[ImageFile.ImageFile, str, str]:
    """Check size and format, and read the header. Returns the lazy image, its format and its name.

    Args:
        held: the memory that is taken before the image is opened is given back when it ends.
    """
    label = name if name is not None else str(source) if isinstance(source, Path) else "image"
    data = _read(source, label, limits) if isinstance(source, Path) else source
    if len(data) > limits.max_bytes:
        raise ImageError(f"the file has more than {limits.max_bytes} bytes", label)
    kind = format_of(data)
    if kind is None:
        raise ImageError(f"not an image ({describe_start(data)}; {READ})", label)
    size = (0, 0)
    try:
        if kind in _AT_OPENING:
            size = webp_size(data) if kind == "WebP" else gif_size(data)
            _check_pixels(size, kind, "", len(data), limits, label)
            if size[0] * size[1] > SMALL_PIXELS:
                held.enter_context(_room.taking(_cost(size, kind)))
        image = open_image(data, kind)
        _check_pixels(image.size, kind, image.mode, len(data), limits, label)
    except ImageError:
        raise
    except NotRead as error:
        raise ImageError(f"{kind} image: {error}", label) from error
    except MemoryError as error:
        raise ImageError(f"{len(data)} bytes, too many for the memory that is free", label) from error
    except Exception as error:
        if _is_short_of_memory(error, 8 * size[0] * size[1]):
            raise ImageError(TOO_MANY.format(*size), label) from error
        raise ImageError(f"damaged {kind} image ({_first_line(error)})", label) from error
    return image, kind, label


def _read(path: Path, label: str, limits: Limits) -> bytes:
    try:
        return read_regular(path, limits.max_bytes)
    except MemoryError as error:
        raise ImageError("more bytes than the memory that is free", label) from error
    except OSError as error:
        reason = str(error.strerror or error)
        known = {errno.EFBIG: f"the file has {reason}", errno.EINVAL: reason}
        raise ImageError(known.get(error.errno or 0, f"cannot be read ({reason})"), label) from error


def _check_pixels(size: tuple[int, int], kind: str, mode: str, num_bytes: int, limits: Limits, label: str) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(f"{width} x {height} pixels, more than the limit of {limits.max_pixels}", label)
    if max(size) > limits.max_side:
        raise ImageError(f"{width} x {height} pixels, a side above the limit of {limits.max_side}", label)
    flat = limits.max_flat_pixels * 9 // 4 if mode == "1" else limits.max_flat_pixels
    if kind not in ("PNG", "BMP") and width * height > max(flat, _MOST_PIXELS_A_BYTE * num_bytes):
        raise ImageError(f"{width} x {height} pixels in {num_bytes} bytes, more than a picture has", label)


def _first_line(error: Exception) -> str:
    if isinstance(error, struct.error | IndexError):  # whose text is about the code that read it
        return "it ends too early"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
