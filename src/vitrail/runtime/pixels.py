"""The second step of preprocessing, in numbers that any engine can multiply: as `augment.prepare`. No torch."""

import numpy as np
from jaxtyping import Float32, UInt8

from vitrail.config import Preprocessing


def scale_and_shift(preprocessing: Preprocessing) -> tuple[Float32[np.ndarray, "C 1 1"], Float32[np.ndarray, "C 1 1"]]:
    """What a pixel in [0, 255] is multiplied by, and what is added, to normalise it."""
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return np.float32(1) / (np.float32(255) * std), -mean / std


def resize_matrix(size: int, new_size: int) -> Float32[np.ndarray, "N n"]:
    """Weights of the old pixels in each new one along an axis: bilinear, antialiased where it shrinks.

    Source: the triangle filter as Pillow (Resample.c) and torch (antialias=True) stretch it.
    """
    scale = np.float32(size / new_size)
    reach = np.maximum(scale, np.float32(1))
    centres = (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)[:, None]
    last = np.minimum((centres + reach + 0.5).astype(np.int64), size)[:, None]
    places = np.arange(size)
    weights = np.maximum(0.0, 1 - np.abs(places - centres[:, None] + 0.5) / reach)
    weights[(places < first) | (places >= last)] = 0
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def normalised(pixels: UInt8[np.ndarray, "B C h w"], preprocessing: Preprocessing) -> Float32[np.ndarray, "B C H W"]:
    """Images as they are decoded -> the model's input."""
    scale, shift = scale_and_shift(preprocessing)
    images = pixels.astype(np.float32) * scale + shift
    if preprocessing.decode_size == preprocessing.image_size:
        return images
    rows, columns = (
        resize_matrix(*pair) for pair in zip(preprocessing.decode_size, preprocessing.image_size, strict=True)
    )
    return rows @ images @ columns.T
