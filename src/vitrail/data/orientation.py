"""Which way up an image is stored. Source: EXIF 2.32, tag 0x0112."""

import struct

from PIL import Image, ImageFile, TiffImagePlugin

TRANSPOSITIONS = {
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
REVERSING = {2: (1, 0), 3: (1, 1), 4: (0, 1), 6: (1, 0), 7: (1, 1), 8: (0, 1)}
"""Orientations whose upright columns (1, .) or rows (., 1) run against those that are stored."""


def is_turned(image: ImageFile.ImageFile) -> bool:
    """Whether an image file, upright, is as wide as it is stored high; of one that is not loaded."""
    return orientation_in(image.info.get("exif") or b"") in _SWAPPING


def orientation_of_loaded(image: Image.Image) -> int:
    """The orientation of a loaded image."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1  # Pillow turned it
    if "exif" in image.info or isinstance(image, ImageFile.ImageFile):
        return orientation_in(image.info.get("exif") or b"")
    return image.getexif().get(0x0112, 1)  # of an image that was made in memory


def orientation_in(exif: bytes) -> int:
    """The EXIF orientation 1 to 8; 1 where there is none or the data is damaged."""
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
