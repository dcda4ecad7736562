"""Where a figure lies with 95 % confidence: from exact counts, or by drawing the images anew."""

import itertools
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Int64
from scipy import stats

Z = 1.959964
"""Of the normal distribution, 95 % lie within so many standard deviations."""
RESAMPLES = 2000
_BCA_BELOW = 500
"""Below so many independent images a skewed figure is corrected (BCa)."""


def wilson(num_correct: int, num_examples: int) -> tuple[float, float]:
    """Where the true rate lies with 95 % confidence.

    Args:
        num_correct: successes, in [0, num_examples].
        num_examples: trials; 0: nothing is known, [0, 1].
    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    if not num_examples:
        return 0.0, 1.0
    z2, rate = Z**2, num_correct / num_examples
    centre = (rate + z2 / (2 * num_examples)) / (1 + z2 / num_examples)
    half = Z * math.sqrt(rate * (1 - rate) / num_examples + z2 / (4 * num_examples**2)) / (1 + z2 / num_examples)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(
    figure: Callable[[Int64[np.ndarray, "n"]], float],
    num_examples: int,
    *,
    groups: Int64[np.ndarray, "N"] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The interval of a figure over images that are drawn anew, with replacement.

    Args:
        figure: of the images at some positions, which may come several times.
        num_examples: N, how many images there are.
        groups: the group of each image, as its video or its patient: whole groups are drawn; None: single images.
        seed: equal seeds, equal intervals.
        resamples: how often they are drawn.
    Returns:
        The 2.5 and 97.5 % percentiles; with fewer than 500 groups or images corrected for bias and skewness (BCa).
    Source: Efron 1987, doi:10.1080/01621459.1987.10478410 (BCa).
    """
    if not num_examples:
        return math.nan, math.nan
    numbers = np.arange(num_examples) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(numbers.max() + 2))
    members = [order[a:b] for a, b in itertools.pairwise(starts)]
    draw, count = np.random.default_rng(seed), len(members)

    def of(chosen: Int64[np.ndarray, "g"]) -> float:
        return figure(chosen if groups is None else np.concatenate([members[i] for i in chosen]))

    values = np.array([of(draw.integers(0, count, count)) for _ in range(resamples)])
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = 0.025, 0.975
    if 2 <= count < _BCA_BELOW and np.ptp(values) > 0:
        low, high = _bca_levels(values, figure(np.arange(num_examples)), of, count)
    return float(np.quantile(values, low)), float(np.quantile(values, high))


def _bca_levels(
    values: np.ndarray, observed: float, of: Callable[[Int64[np.ndarray, "g"]], float], count: int
) -> tuple[float, float]:
    """The percentiles that take the place of 2.5 and 97.5 %: bias of the draws, and skewness by leaving one out."""
    below = (np.count_nonzero(values < observed) + np.count_nonzero(values == observed) / 2) / len(values)
    bias = stats.norm.ppf(min(max(below, 1 / (2 * len(values))), 1 - 1 / (2 * len(values))))
    everything = np.arange(count)
    left_out = np.array([of(np.delete(everything, i)) for i in range(count)])
    left_out = left_out[np.isfinite(left_out)]
    away = left_out.mean() - left_out
    spread = np.sum(away**2)
    skewness = np.sum(away**3) / (6 * spread**1.5) if spread > 0 else 0.0
    levels = [stats.norm.cdf(bias + (bias + z) / (1 - skewness * (bias + z))) for z in (-Z, Z)]
    return float(levels[0]), float(levels[1])
