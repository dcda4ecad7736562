"""A part of a photograph, cut out of the file: only as much of it is decoded, and at no larger a scale, than is needed.

A random crop of an image that was resized before has lost its borders, and is enlarged from fewer pixels than the file
has. So the crop is chosen first; of a JPEG the inverse DCT then computes a half, a quarter or an eighth of the
resolution where the crop has that much to spare.
"""

import contextlib
import io
import math
import struct
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile

from vitrail.config import Preprocessing
from vitrail.data.decode import (
    DEFAULT,
    TOO_MANY,
    Limits,
    by_simplejpeg,
    coefficient_bytes,
    open_lazily,
    take_room,
    upright,
)
from vitrail.data.fit import may_vectorise, vectorised
from vitrail.data.orientation import REVERSING, is_turned, orientation_in
from vitrail.data.pillow_readers import SMALL_PIXELS
from vitrail.data.sources import Encoded
from vitrail.errors import ImageError

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels of the upright image."""
_REDUCTIONS = (8, 4, 2)
"""What libjpeg divides the sides of an image by as it decodes."""
_BLOCK_ROWS, _LARGE, _WORTH = 32, 1 << 20, 0.9
"""Rows of the largest unit of a JPEG; from how many pixels on, and up to which share of the rows, to end early."""
_SAMPLING = ("nearest", "box")
"""Filters that take pixels as they are: of a reduced image these would be others."""


@dataclass(frozen=True)
class Crop:
    """Which part of an image is taken, whatever its size.

    Args:
        area: of the part, a fraction of the image in (0, 1].
        log_aspect: natural logarithm of width / height in pixels; limited to what fits into the image at that area.
        x, y: place of the part in [0, 1]: 0 left or top, 1 right or bottom.
    Source: arXiv:1409.4842, section 6.
    """

    area: float
    log_aspect: float
    x: float
    y: float

    def box(self, width: int, height: int) -> Box:
        """The part in whole pixels, at least one each way."""
        aspect = math.exp(self.log_aspect)
        aspect = min(max(aspect, self.area * width / height), width / (height * self.area))
        pixels = self.area * width * height
        across = min(width, max(1, round(math.sqrt(pixels * aspect))))
        down = min(height, max(1, round(math.sqrt(pixels / aspect))))
        left, top = round(self.x * (width - across)), round(self.y * (height - down))
        return left, top, left + across, top + down


def load_crop(
    record: Encoded, crop: Crop, preprocessing: Preprocessing, *, name: str | None = None, limits: Limits = DEFAULT
) -> UInt8[np.ndarray, "C h w"]:
    """Cut a part out of an image and resize it to `image_size`.

    The pixels are those of cutting the part out of the whole upright image and resizing it by Pillow: within two levels
    of 255 with the filters bilinear and bicubic, which torch's vector code computes, and exactly with others. Where a
    JPEG is decoded at a reduced scale, which these two, lanczos and hamming allow, they differ from these by one to two
    levels on the average.

    Args:
        record: the encoded bytes or the path of an image file, or its pixels [H, W] or [H, W, 3].
        crop: which part.
        preprocessing: image_size, resize_filter, channels, icc and fast_decoding are used.
        name: how messages call the image; default: the path.
        limits: largest file and largest image.
    Raises:
        ImageError: as `decode_image`.
    """
    height, width = preprocessing.image_size
    if isinstance(record, np.ndarray):
        return _resized(record, crop.box(record.shape[1], record.shape[0]), preprocessing)
    with contextlib.ExitStack() as held:
        image, kind, label = open_lazily(record, name, limits, held)
        whole, orientation = _upright_size(image, kind)
        box = crop.box(*whole)
        spare = min((box[2] - box[0]) / width, (box[3] - box[1]) / height)
        ends_early = kind == "JPEG" and orientation == 1 and end_after(image, box[3])
        whole = image.size if ends_early else whole
        rgb = decoded(image, kind, label, preprocessing, spare, held, ends_early=ends_early)
        if kind != "JPEG":  # what turns it, only the decoder of its pixels knows
            return _resized(rgb, crop.box(*_size(rgb)), preprocessing)
        return _resized(rgb, _scaled(box, whole, _size(rgb), orientation), preprocessing)


def load_whole(
    record: Encoded, preprocessing: Preprocessing, most: int, *, name: str | None = None
) -> UInt8[np.ndarray, "H W ..."]:
    """The whole upright image, its shorter side at most `most` pixels: [H, W, 3], or [H, W] for channels="L".

    Raises:
        ImageError: as `decode_image`.
    """
    if isinstance(record, np.ndarray):
        image = Image.fromarray(record)
        return np.asarray(_shrunk(image, (0, 0, *image.size), image.size, preprocessing, most))
    with contextlib.ExitStack() as held:
        image, kind, label = open_lazily(record, name, DEFAULT, held)
        whole, orientation = _upright_size(image, kind)
        rgb = decoded(image, kind, label, preprocessing, min(image.size) / most, held)
        if kind != "JPEG":
            whole = _size(rgb)
        try:
            box = _scaled((0, 0, *whole), whole, _size(rgb), orientation)
            found = rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)
            return np.asarray(_shrunk(found, box, whole, preprocessing, most))
        except MemoryError as error:
            raise ImageError(TOO_MANY.format(*image.size), label) from error


def _upright_size(image: ImageFile.ImageFile, kind: str) -> tuple[tuple[int, int], int]:
    """Width and height of the upright JPEG, which is not loaded, and its orientation; as stored, of other files."""
    orientation = orientation_in(image.info.get("exif") or b"") if kind == "JPEG" else 1
    turned = kind == "JPEG" and is_turned(image)
    return ((image.height, image.width) if turned else (image.width, image.height)), orientation


def decoded(
    image: ImageFile.ImageFile,
    kind: str,
    label: str,
    preprocessing: Preprocessing,
    spare: float,
    held: contextlib.ExitStack,
    *,
    ends_early: bool = False,
) -> Image.Image | UInt8[np.ndarray, "H W 3"]:
    """The upright 8-bit RGB image of an opened file, a JPEG at a reduced scale where it has pixels to spare.

    Args:
        spare: how many times the sides may become smaller.
        held: what gives back the memory that is taken.
        ends_early: as `end_after` left it.
    Raises:
        ImageError: as `decode_image`.
    """
    may_reduce = kind == "JPEG" and preprocessing.resize_filter not in _SAMPLING
    reduction = next((n for n in _REDUCTIONS if n <= spare), 1) if may_reduce else 1
    whole = image.size
    try:
        is_small = whole[0] * whole[1] <= SMALL_PIXELS
        coefficients = 0 if is_small else coefficient_bytes(image)
        if reduction > 1:
            image.draft(None, (max(1, whole[0] // reduction), max(1, whole[1] // reduction)))
        if not is_small:
            take_room(held, image, kind, coefficients)
        apply_profile = preprocessing.icc == "apply"
        # simplejpeg takes what follows the last row for damage.
        pixels = by_simplejpeg(image, apply_profile) if kind == "JPEG" and not ends_early else None
        return upright(image, kind, label, apply_profile) if pixels is None else pixels
    except MemoryError as error:
        raise ImageError(TOO_MANY.format(*whole), label) from error


def end_after(image: ImageFile.ImageFile, row: int) -> bool:
    """Let a large baseline JPEG end after the rows that are needed, by the height in its own header; whether it does.

    Everything below is then neither decompressed nor kept; one more row of blocks is, since colours are interpolated
    from the row below. Source: ITU-T T.81, B.2.2.
    """
    width, height = image.size
    rows = min(height, -(-(row + 1) // _BLOCK_ROWS) * _BLOCK_ROWS + _BLOCK_ROWS)
    if width * height < _LARGE or rows > _WORTH * height:
        return False
    assert isinstance(image.fp, io.BytesIO)
    with image.fp.getbuffer() as data:
        position = 2
        while position + 9 <= len(data):
            marker, length = struct.unpack_from(">HH", data, position)
            if marker in (0xFFC0, 0xFFC1):  # not progressive, whose scans follow each other
                struct.pack_into(">H", data, position + 5, rows)
                image._size = (width, rows)
                image.tile = [tile._replace(extents=(0, 0, width, rows)) for tile in image.tile]
                return True
            if not 0xFFC2 <= marker <= 0xFFFE or marker == 0xFFDA:
                return False
            position += 2 + length
    return False


def _scaled(
    box: Box, whole: tuple[int, int], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """The box in an image that was decoded at a reduced scale.

    libjpeg rounds its sides up: the last column and row stand for less than others, and come first in an image that is
    stored the other way round.
    """
    if whole == size:
        return box
    factor = max(next((n for n in _REDUCTIONS if -(-old // n) == new), 1) for old, new in zip(whole, size, strict=True))
    reverses = REVERSING.get(orientation, (0, 0))
    x, y = (n * (new - old / factor) for n, old, new in zip(reverses, whole, size, strict=True))
    left, top, right, bottom = (edge / factor for edge in box)
    return left + x, top + y, min(right + x, size[0]), min(bottom + y, size[1])


def _size(image: Image.Image | UInt8[np.ndarray, "H W ..."]) -> tuple[int, int]:
    """Width and height."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def _resized(
    image: Image.Image | UInt8[np.ndarray, "H W ..."],
    box: tuple[float, float, float, float],
    preprocessing: Preprocessing,
) -> UInt8[np.ndarray, "C h w"]:
    """Cut out and resize. Pixels outside the box have no part in it, but for those that its edge cuts through."""
    left, top, right, bottom = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    height, width = preprocessing.image_size
    is_rgb = image.mode == "RGB" if isinstance(image, Image.Image) else image.ndim == 3
    is_whole = (left, top, right, bottom) == tuple(box)
    if is_whole and is_rgb and preprocessing.channels == "RGB" and may_vectorise(preprocessing):
        pixels = np.asarray(image)[top:bottom, left:right]
        return vectorised(pixels, height, width, preprocessing.resize_filter)
    if isinstance(image, Image.Image):
        part = image.crop((left, top, right, bottom)) if (left, top, right, bottom) != (0, 0, *image.size) else image
    else:
        part = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    if part.mode != preprocessing.channels:
        part = part.convert(preprocessing.channels)
    inside = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    resampling = Image.Resampling[preprocessing.resize_filter.upper()]
    pixels = np.asarray(part.resize((width, height), resampling, box=inside))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if pixels.ndim == 3 else pixels[None]


def _shrunk(
    image: Image.Image,
    box: tuple[float, float, float, float],
    whole: tuple[int, int],
    preprocessing: Preprocessing,
    most: int,
) -> Image.Image:
    """The image, which stands in the box, its shorter side at most `most`, in the proportions of `whole`."""
    image = image if image.mode == preprocessing.channels else image.convert(preprocessing.channels)
    shorter = min(whole)
    if shorter <= most:
        return image
    size = (max(1, round(whole[0] * most / shorter)), max(1, round(whole[1] * most / shorter)))
    return image.resize(size, Image.Resampling[preprocessing.resize_filter.upper()], box=box)
