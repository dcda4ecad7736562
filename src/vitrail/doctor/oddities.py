"""Images that are unlike the others, or hardly images at all."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from vitrail.doctor.pictures import Pictures

OUTLIER = 2.0
"""Mean distance to the nearest images over the median of all, from which on an image is listed as an outlier."""
FEWEST = 50
"""Images below which none is called an outlier."""
_BLANK, _NEARLY_BLANK = 1.5, 8.0
"""Standard deviation of the colours, of 255."""
_DARK = 40.0
"""Grey level, of 255, that all but a hundredth of the pixels stay below."""
_LONG = 4.0
"""The longer side over the shorter one."""
_BLURRED, _LEAST_SIDE = 0.08, 64
"""Sharpness, of which the least of 125 photographs was 0.13; the side, in pixels, of images too small to be judged."""


@dataclass(frozen=True)
class Odd:
    """An image, by index, with what is odd about it and how much."""

    index: int
    kind: str
    value: float


def odd_images(pictures: Pictures) -> list[Odd]:
    """Blank, near constant, dark, blurred and very long images, kind by kind, the oddest first."""
    spread, brightest, sharpness = pictures.numbers.T
    ratio = pictures.size.max(1, initial=1) / np.maximum(pictures.size.min(1, initial=1 << 30), 1)
    blank, dark = spread < _BLANK, (spread >= _BLANK) & (brightest < _DARK)
    flat = (spread < _NEARLY_BLANK) & ~blank & ~dark
    large = pictures.size.min(1, initial=1 << 30) >= _LEAST_SIDE
    kinds = (
        ("blank", blank, spread),
        ("near constant", flat, spread),
        ("dark", dark, brightest),
        ("blurred", (sharpness < _BLURRED) & large & ~blank & ~flat & ~dark, sharpness),
        ("extreme ratio", ratio > _LONG, -ratio),
    )
    return [
        Odd(int(i), kind, float(abs(values[i])))
        for kind, chosen, values in kinds
        for i in np.flatnonzero(chosen)[np.argsort(values[chosen], kind="stable")]
    ]


def outliers(cosines: Float32[np.ndarray, "N k"]) -> list[Odd]:
    """Images far from their nearest ones in the model's features, the farthest first."""
    if len(cosines) < FEWEST:
        return []
    distance = 1 - cosines.mean(1)
    ratio = distance / max(float(np.median(distance)), 1e-6)
    order = np.argsort(-ratio, kind="stable")
    return [Odd(int(i), "outlier", float(ratio[i])) for i in order[: int((ratio >= OUTLIER).sum())]]
