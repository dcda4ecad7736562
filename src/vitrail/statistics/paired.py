"""Two models on the same images: is one better, by how much, and what could have been seen at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from vitrail.statistics.intervals import Z


@dataclass(frozen=True)
class Paired:
    """What the answers of two models to the same images say.

    Args:
        only_first: images that the first alone has right (b).
        only_second: images that the second alone has right (c).
        num_examples: all images.
        difference: accuracy of the second less that of the first, in [-1, 1].
        low, high: its 95 % interval.
        p_exact, p_mid: McNemar's test, exact and mid-p, that the difference is chance.
        detectable: the least difference that so many images with so many changes could have shown.
    """

    only_first: int
    only_second: int
    num_examples: int
    difference: float
    low: float
    high: float
    p_exact: float
    p_mid: float
    detectable: float


def compare_paired(only_first: int, only_second: int, num_examples: int) -> Paired:
    """Compare two models by the images that one of them alone has right.

    Source: Bonett and Price 2012, doi:10.3102/1076998611411915 (interval); Fagerland et al. 2013,
        doi:10.1186/1471-2288-13-91 (mid-p).
    """
    b, c, n = only_first, only_second, num_examples
    p_exact, p_mid = mcnemar(b, c)
    first, second = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = Z * math.sqrt((first + second - (second - first) ** 2) / (n + 2))
    return Paired(
        only_first=b,
        only_second=c,
        num_examples=n,
        difference=(c - b) / n if n else 0.0,
        low=max(-1.0, second - first - half),
        high=min(1.0, second - first + half),
        p_exact=p_exact,
        p_mid=p_mid,
        detectable=detectable_points(b, c, n) / 100,
    )


def mcnemar(only_first: int, only_second: int) -> tuple[float, float]:
    """The chance of a difference at least as large, if neither model were better: exact, and mid-p.

    Source: McNemar 1947, doi:10.1007/BF02295996; mid-p: Fagerland et al. 2013, doi:10.1186/1471-2288-13-91.
    """
    fewer, changed = min(only_first, only_second), only_first + only_second
    if only_first == only_second:
        return 1.0, 1.0
    tail = 2 * float(stats.binom.cdf(fewer, changed, 0.5))
    return min(1.0, tail), tail - float(stats.binom.pmf(fewer, changed, 0.5))


def detectable_points(only_first: int, only_second: int, num_examples: int) -> float:
    """The difference, in points of accuracy, below which these images cannot tell it from chance.

    Where no image changed, as if one had.
    """
    return 100 * Z * math.sqrt(max(1, only_first + only_second)) / num_examples if num_examples else math.inf


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p-values, adjusted for looking at all of them. Source: Holm 1979, jstor.org/stable/4615733."""
    order, adjusted, worst = sorted(range(len(p_values)), key=p_values.__getitem__), [1.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = worst
    return adjusted
