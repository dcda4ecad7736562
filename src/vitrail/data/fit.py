"""A decoded image -> the size and the channels that a model keeps."""

import functools
import importlib.util

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitrail.config import Preprocessing
from vitrail.data.colour import AT_ONCE_PIXELS, pieces

# Longest side after resizing, in units of the side that is kept.
_LONGEST = 64
_VECTOR_FILTERS = ("bilinear", "bicubic")
# A resize of the whole image that computes more than so many times the pixels that are kept is left to Pillow.
_LARGEST_SURPLUS = 4


def size_needed(preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height below which a source of the resize would have to be magnified."""
    height, width = preprocessing.resize_size or preprocessing.decode_size
    return width, height


def fit(
    image: Image.Image | UInt8[np.ndarray, "H W 3"], preprocessing: Preprocessing, *, with_torch: bool = True
) -> UInt8[np.ndarray, "C h w"]:
    """Convert the channels and resize to `decode_size`; an image that has that size is not resampled.

    resize_mode "crop" scales the image until it covers the size, the other side rounded down, and takes the centre.
    Without a resize_size only the kept pixels are computed, so a very long image costs no more than another one.

    Args:
        image: of any mode, or RGB pixels.
        preprocessing: how.
        with_torch: False: `fast_decoding` resizes with Pillow, as where torch is not installed.
    """
    if isinstance(image, Image.Image) and image.mode != preprocessing.channels:
        image = image.convert(preprocessing.channels)
    if preprocessing.fast_decoding and with_torch and _has_torch():
        quick = _quick_fit(image, preprocessing)
        if quick is not None:
            return quick
    if isinstance(image, np.ndarray):
        is_as_kept = image.shape[:2] == preprocessing.decode_size and preprocessing.resize_size is None
        if is_as_kept and preprocessing.channels == "RGB":
            return np.ascontiguousarray(image.transpose(2, 0, 1))
        image = Image.fromarray(image).convert(preprocessing.channels)
    height, width = preprocessing.decode_size
    if (image.width, image.height) != (width, height) or preprocessing.resize_size is not None:
        if preprocessing.resize_size is not None:
            image = _resized_then_cropped(image, preprocessing, preprocessing.resize_size)
        else:
            image = _resized(image, preprocessing)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if pixels.ndim == 3 else pixels[None]


@functools.cache
def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def array_of(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an RGB image; Pillow's own way makes two copies more, which is much where an image is large."""
    if image.width * image.height <= AT_ONCE_PIXELS:
        return np.array(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for box in pieces(image.size):
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = np.asarray(image.crop(box))
    return pixels


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    height, width = preprocessing.decode_size
    resampling = Image.Resampling[preprocessing.resize_filter.upper()]
    if preprocessing.resize_mode == "squash":
        return image.resize((width, height), resampling)
    return image.resize((width, height), resampling, box=_centre_box(image.width, image.height, width, height))


def _resized_then_cropped(
    image: Image.Image, preprocessing: Preprocessing, resize_size: tuple[int, int]
) -> Image.Image:
    """Resize the whole image, then cut the centre out: pixel for pixel what timm, torchvision and transformers do."""
    height, width = preprocessing.decode_size
    resampling = Image.Resampling[preprocessing.resize_filter.upper()]
    new_width, new_height, x, y = _resized_centre(image.size, preprocessing, resize_size)
    if max(new_width / width, new_height / height) > _LONGEST:  # a strip: not worth its memory
        return image.resize((width, height), resampling, box=_centre_box(image.width, image.height, width, height))
    return image.resize((new_width, new_height), resampling).crop((x, y, x + width, y + height))


def _quick_fit(
    image: Image.Image | UInt8[np.ndarray, "H W 3"], preprocessing: Preprocessing
) -> UInt8[np.ndarray, "C h w"] | None:
    """The same within two levels, by torch's vector code; None where Pillow has to do it, or nothing is to be done."""
    height, width = preprocessing.decode_size
    size = image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])
    if preprocessing.resize_size is not None:
        new_width, new_height, x, y = _resized_centre(size, preprocessing, preprocessing.resize_size)
    elif preprocessing.resize_mode == "squash":
        new_width, new_height, x, y = width, height, 0, 0
    else:
        new_width, new_height, x, y = _covering(*size, width, height)
    is_whole = size == (width, height) and preprocessing.resize_size is None
    is_strip = new_width * new_height > _LARGEST_SURPLUS * width * height
    is_inside = min(x, y) >= 0 and x + width <= new_width and y + height <= new_height
    if (
        preprocessing.channels != "RGB"
        or preprocessing.resize_filter not in _VECTOR_FILTERS
        or is_whole
        or is_strip
        or not is_inside
    ):
        return None
    pixels = image if isinstance(image, np.ndarray) else array_of(image)
    return vectorised(pixels, new_height, new_width, preprocessing.resize_filter, (y, x, height, width))


def may_vectorise(preprocessing: Preprocessing) -> bool:
    """Whether torch is there, and knows the filter."""
    return preprocessing.resize_filter in _VECTOR_FILTERS and _has_torch()


def vectorised(
    pixels: UInt8[np.ndarray, "H W 3"],
    height: int,
    width: int,
    resize_filter: str,
    part: tuple[int, int, int, int] | None = None,
) -> UInt8[np.ndarray, "3 h w"]:
    """Resize by torch's vector code: within two levels of 255 of Pillow.

    Args:
        resize_filter: bilinear or bicubic.
        part: top, left, height and width of what is kept of the result; None: all.
    """
    import torch
    import torch.nn.functional as F

    # One image is resized by the thread that asks for it, and numpy copies by the same: no pool starts threads.
    source = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
    resized = F.interpolate(source.permute(2, 0, 1).unsqueeze(0), (height, width), mode=resize_filter, antialias=True)[
        0
    ].numpy()
    top, left, rows, columns = part or (0, 0, height, width)
    return np.ascontiguousarray(resized[:, top : top + rows, left : left + columns])


def _resized_centre(
    size: tuple[int, int], preprocessing: Preprocessing, resize_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Width and height after resizing the whole image, and left and top edge of the centre there."""
    new_height, new_width = resize_size
    if preprocessing.resize_mode == "crop":
        side, short = min(resize_size), min(size)
        new_width, new_height = (side if n == short else int(side * n / short) for n in size)
    height, width = preprocessing.decode_size
    left, top = (new_width - width) / 2, (new_height - height) / 2
    x, y = (int(left), int(top)) if preprocessing.crop_rounding == "floor" else (round(left), round(top))
    return new_width, new_height, x, y


def _covering(width: int, height: int, new_width: int, new_height: int) -> tuple[int, int, int, int]:
    """Size of the image scaled until it covers the new size, and left and top edge of the centre there."""
    scale = max(new_width / width, new_height / height)
    scaled_width = max(new_width, int(width * scale + 1e-6))
    scaled_height = max(new_height, int(height * scale + 1e-6))
    return scaled_width, scaled_height, round((scaled_width - new_width) / 2), round((scaled_height - new_height) / 2)


def _centre_box(width: int, height: int, new_width: int, new_height: int) -> tuple[float, float, float, float]:
    """The part of the source that remains after scaling to cover the new size and cropping the centre."""
    scaled_width, scaled_height, left, top = _covering(width, height, new_width, new_height)
    step_x, step_y = width / scaled_width, height / scaled_height
    right, bottom = min(width, (left + new_width) * step_x), min(height, (top + new_height) * step_y)
    return left * step_x, top * step_y, right, bottom
