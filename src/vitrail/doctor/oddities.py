"""Images that are unlike the others, or hardly images at all."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from vitrail.doctor.pictures import Pictures

OUTLIER = 4.0
"""Robust standard deviations (1.4826 times the median deviation) that the distance of an image from its nearest ones is
above the median, from which on it is listed."""
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


def outliers(rows: Float32[np.ndarray, "N D"], neighbours: Int64[np.ndarray, "N k"]) -> list[Odd]:
    """Images far from their nearest ones, the farthest first.

    Distances are Euclidean: by the cosine even noise is near something.

    Args:
        rows: standardised features.
        neighbours: the nearest images of each.
    """
    if len(rows) < FEWEST:
        return []
    columns = [np.linalg.norm(rows - rows[column], axis=1) for column in neighbours.T]
    distance = np.median(columns, axis=0)  # one of them may be an outlier itself
    usual = float(np.median(distance))
    spread = 1.4826 * float(np.median(np.abs(distance - usual)))
    deviation = (distance - usual) / max(spread, 1e-6)
    order = np.argsort(-deviation, kind="stable")
    return [Odd(int(i), "outlier", float(deviation[i])) for i in order[: int((deviation >= OUTLIER).sum())]]
