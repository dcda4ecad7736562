"""Pillow's reader of each format, quiet, and given only what of a file decides its pixels."""

import contextlib
import ctypes
import functools
import io
from collections.abc import Callable

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

from vitrail.data.containers import NotRead, bare_jpeg, bare_png, bare_tiff, check_bmp
from vitrail.errors import install_hint


def opened(data: bytes, kind: str) -> ImageFile.ImageFile:
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
