"""An image in whatever form a program has it -> the pixels that a model's preprocessing wants. No torch."""

import os
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitrail.config import Preprocessing
from vitrail.data import load_image
from vitrail.errors import ImageError, InputError, shown


@runtime_checkable
class ReadsBytes(Protocol):
    """A file opened for reading bytes, or what behaves so: io.BytesIO, an upload of a web server."""

    def read(self, size: int = -1, /) -> bytes: ...


@runtime_checkable
class TensorLike(Protocol):
    """A tensor of torch, which need not be installed."""

    @property
    def ndim(self) -> int: ...
    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    def is_floating_point(self) -> bool: ...
    def detach(self) -> Self: ...
    def cpu(self) -> Self: ...
    def float(self) -> Self: ...
    def numpy(self) -> np.ndarray: ...


ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | ReadsBytes | Image.Image | np.ndarray | TensorLike
"""A path; the bytes of a file; a file opened for reading bytes; an image of Pillow; an array [H, W], [H, W, 1],
[H, W, 3] or [H, W, 4], or a tensor [H, W], [1, H, W], [3, H, W] or [4, H, W], uint8 or floating-point in [0, 1]."""

_FILE_BYTES = 256 << 20


def decode(image: ImageLike, preprocessing: Preprocessing, *, with_torch: bool = True) -> UInt8[np.ndarray, "C h w"]:
    """The pixels of an image as a model's preprocessing wants them decoded.

    Args:
        with_torch: False: as where torch is not installed, which `fast_decoding` would resize with.
    Raises:
        ImageError: it cannot be read.
        InputError: it is nothing of this kind.
    """
    return load_image(_source(image), preprocessing, name=name_of(image), with_torch=with_torch)


def name_of(image: ImageLike) -> str:
    """How messages and predictions call an image."""
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    name = getattr(image, "name", None)  # of an open file
    return name if isinstance(name, str) and hasattr(image, "read") else type(image).__name__


def listed(images: Any) -> list[ImageLike]:
    """One image or several, in a form of `ImageLike`, one by one. Raises InputError."""
    single = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)
    if single or hasattr(images, "read") or (isinstance(images, np.ndarray | TensorLike) and images.ndim != 4):
        return [images]
    try:
        return list(cast(Any, images))
    except TypeError as error:
        raise _no_image(images) from error


def _source(image: ImageLike) -> bytes | Path | Image.Image:
    """What the one decoder takes: pixels in memory go the same way as a file."""
    match image:
        case Image.Image():
            return image
        case np.ndarray() | TensorLike():
            return Image.fromarray(_pixels(image))
        case bytes():
            return image
        case bytearray() | memoryview():
            return bytes(image)
        case str() if image.startswith(("http://", "https://")):
            raise ImageError("is an address, not a file: download it first, then give its path or bytes", shown(image))
        case str() | os.PathLike():
            return Path(os.fsdecode(image))
        case ReadsBytes():
            return _read(image)
        case _:
            raise _no_image(image)


def _read(file: ReadsBytes) -> bytes:
    try:
        data = cast(object, file.read(_FILE_BYTES))
    except (OSError, ValueError) as error:  # ValueError: it is closed, or was opened for writing
        raise ImageError(f"cannot be read ({error})", shown(name_of(file))) from error
    if not isinstance(data, bytes):
        raise InputError(
            "An open file gives no bytes.",
            got=f"{type(data).__name__} from read()",
            do='Open it with open(path, "rb").',
        )
    return data


def _pixels(image: np.ndarray | TensorLike) -> UInt8[np.ndarray, "..."]:
    """An array [H, W, C] or tensor [C, H, W] as uint8 [H, W] or [H, W, C]."""
    is_tensor, form = isinstance(image, TensorLike), f"{image.dtype} {list(image.shape)}"
    if isinstance(image, TensorLike):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image
    is_float = image.dtype.kind == "f" and bool(((image >= 0) & (image <= 1)).all())
    has_form = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    if not has_form or not image.size or not (is_float or image.dtype == np.uint8):
        axes = "[H, W], [1, H, W], [3, H, W] or [4, H, W]" if is_tensor else "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        raise InputError(
            f"An image {'tensor' if is_tensor else 'array'} has the wrong shape, type or range.",
            got=form + (", not all of it in [0, 1]" if image.dtype.kind == "f" and not is_float else ""),
            expected=f"uint8, or floating-point in [0, 1], {axes}",
            do="Give it as it is before mean and std are applied: the model's own are applied here.",
        )
    if is_float:
        image = np.rint(image * 255).astype(np.uint8)
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


def _no_image(image: object) -> InputError:
    return InputError(
        "This is not an image.",
        got=type(image).__name__,
        expected="a path, bytes, an open file, an image of Pillow, an array or a tensor; or several of them",
    )
