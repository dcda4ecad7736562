"""Pillow's reader of each format, quiet, and given only what of a file decides its pixels."""

import contextlib
import ctypes
import functools
import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vitrail.data.containers import NotRead, bare_jpeg, bare_png, bare_tiff, check_bmp, webp_size
from vitrail.errors import install_hint

try:  # Pillow's own decoder, which it may be built without
    from PIL._webp import WebPAnimDecoder
except ImportError:
    WebPAnimDecoder = None

SMALL_PIXELS = 1 << 16
"""Images up to this size take little memory, even those of all threads together."""
_SMALL_BYTES = 1 << 16


def open_image(data: bytes, kind: str) -> ImageFile.ImageFile:
    """The lazy image of what of the file decides its pixels."""
    if kind == "PNG":
        data, info = bare_png(data)
        image = _READERS[kind](io.BytesIO(data))
        image.info |= info
        return image
    if kind == "BMP":
        check_bmp(data)
    if kind in ("JPEG", "TIFF"):
        data = bare_jpeg(data) if kind == "JPEG" else bare_tiff(data)
    return _READERS[kind](io.BytesIO(data))


def load(image: Image.Image) -> None:
    """Decode the pixels of a file, and let go of what else the decoder keeps: canvases, the pixels in another form."""
    image.load()
    vars(image).update(fp=None, _decoder=None)


def small_webp(data: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    """The pixels of a small file with one opaque image and nothing else in it, as those of CIFAR's Parquet files.

    Pillow decodes the same with as much Python around it as there is decoding, for which threads wait for each other.
    None: another file, or a damaged one, of which Pillow says what is wrong.
    """
    if WebPAnimDecoder is None or data[12:16] not in (b"VP8 ", b"VP8L") or not 30 <= len(data) <= _SMALL_BYTES:
        return None
    width, height = webp_size(data)
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or width * height > SMALL_PIXELS:
        return None
    try:
        decoder = WebPAnimDecoder(data)
        canvas, *_, mode = decoder.get_info()
        frame = decoder.get_next() if (canvas, mode) == ((width, height), "RGBX") else None
    except (OSError, ValueError, RuntimeError, MemoryError, SyntaxError):
        return None
    return None if frame is None else np.frombuffer(frame[0], np.uint8).reshape(height, width, 4)[:, :, :3]


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """Pillow's JPEG reader without its search for a resolution, which warns when the EXIF data is damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


class _TiffFile(TiffImagePlugin.TiffImageFile):
    """Pillow's TIFF reader without its warning about large images, whose size was looked at before."""

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = Image.core.new(self.mode, self._tile_size)
        super().load_prepare()


def _tiff_file(file: io.BytesIO) -> ImageFile.ImageFile:
    _silence_libtiff()
    return _TiffFile(file)


@functools.cache
def _silence_libtiff() -> None:
    """What libtiff finds wrong with a file it prints to stderr, in C; the decoder's status says it as well."""
    with contextlib.suppress(OSError, AttributeError):  # Pillow may be linked with it in another way
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def _heic_file(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile  # extra `heif`
    except ImportError as error:
        raise NotRead(f"reading it needs the package pillow-heif. {install_hint('pillow-heif')}") from error
    return HeifImageFile(file)


_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": _JpegFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": _tiff_file,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "HEIC": _heic_file,
}
