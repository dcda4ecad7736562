"""A decoded image -> the size and the channels that a model keeps."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitrail.config import Preprocessing

# Longest side after resizing, in units of the side that is kept.
_LONGEST = 64
_VECTOR_FILTERS = ("bilinear", "bicubic")


def size_needed(preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height below which a source of the resize would have to be magnified."""
    height, width = preprocessing.resize_size or preprocessing.decode_size
    return width, height


def fit(image: Image.Image, preprocessing: Preprocessing) -> UInt8[np.ndarray, "C h w"]:
    """Convert the channels and resize to `decode_size`; an image that has that size is not resampled.

    resize_mode "crop" scales the image until it covers the size, the other side rounded down, and takes the centre.
    Without a resize_size only the kept pixels are computed, so a very long image costs no more than another one.
    """
    if image.mode != preprocessing.channels:
        image = image.convert(preprocessing.channels)
    height, width = preprocessing.decode_size
    if preprocessing.resize_size is not None:
        image = _resized_then_cropped(image, preprocessing, preprocessing.resize_size)
    elif (image.width, image.height) != (width, height):
        image = _resized(image, preprocessing)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if pixels.ndim == 3 else pixels[None]


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    height, width = preprocessing.decode_size
    if preprocessing.resize_mode == "squash":
        return _resize(image, (width, height), preprocessing)
    scaled_width, scaled_height, left, top = _covering(image.width, image.height, width, height)
    if _is_vectorised(image, preprocessing) and scaled_width * scaled_height <= 4 * width * height:
        scaled = _resize(image, (scaled_width, scaled_height), preprocessing)
        return scaled.crop((left, top, left + width, top + height))
    box = _centre_box(image.width, image.height, width, height)
    return image.resize((width, height), Image.Resampling[preprocessing.resize_filter.upper()], box=box)


def _resize(image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing) -> Image.Image:
    """Resize the whole image to (width, height): by Pillow, or within two levels of it by torch's vector code."""
    if not _is_vectorised(image, preprocessing):
        return image.resize(size, Image.Resampling[preprocessing.resize_filter.upper()])
    import torch
    import torch.nn.functional as F

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
    resized = F.interpolate(pixels, size[::-1], mode=preprocessing.resize_filter, antialias=True)
    return Image.fromarray(resized[0].permute(1, 2, 0).contiguous().numpy())


def _is_vectorised(image: Image.Image, preprocessing: Preprocessing) -> bool:
    return preprocessing.fast_decoding and image.mode == "RGB" and preprocessing.resize_filter in _VECTOR_FILTERS


def _resized_then_cropped(
    image: Image.Image, preprocessing: Preprocessing, resize_size: tuple[int, int]
) -> Image.Image:
    """Resize the whole image, then cut the centre out: pixel for pixel what timm, torchvision and transformers do."""
    resize_height, resize_width = resize_size
    if preprocessing.resize_mode == "crop":
        side, short = min(resize_size), min(image.size)
        resize_width, resize_height = (side if n == short else int(side * n / short) for n in image.size)
    height, width = preprocessing.decode_size
    if max(resize_width / width, resize_height / height) > _LONGEST:  # a strip: not worth its memory
        resampling = Image.Resampling[preprocessing.resize_filter.upper()]
        return image.resize((width, height), resampling, box=_centre_box(image.width, image.height, width, height))
    image = _resize(image, (resize_width, resize_height), preprocessing)
    left, top = (resize_width - width) / 2, (resize_height - height) / 2
    x, y = (int(left), int(top)) if preprocessing.crop_rounding == "floor" else (round(left), round(top))
    return image.crop((x, y, x + width, y + height))


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
