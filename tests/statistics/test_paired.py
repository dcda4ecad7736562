"""Two models on the same images."""

import pytest
from scipy import stats

from vitrail.statistics import compare_paired, detectable_points, holm, mcnemar


@pytest.mark.parametrize(
    ("only_first", "only_second", "exact", "mid"),
    [(3, 12, 0.0352, 0.0213), (10, 25, 0.0167, 0.0113), (40, 60, 0.0569, 0.0460), (0, 5, 0.0625, 0.0313), (7, 7, 1, 1)],
)
def test_mcnemar(only_first: int, only_second: int, exact: float, mid: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx((exact, mid), abs=5e-5)
    assert mcnemar(only_second, only_first) == mcnemar(only_first, only_second)
    theirs = stats.binomtest(only_first, only_first + only_second).pvalue
    assert mcnemar(only_first, only_second)[0] == pytest.approx(theirs, abs=1e-9)


def test_a_model_and_itself() -> None:
    same = compare_paired(0, 0, 100)
    assert (same.p_exact, same.p_mid, same.difference) == (1.0, 1.0, 0.0)
    assert same.detectable == pytest.approx(0.0196, abs=1e-4)  # what one changed image would show
    assert same.low < 0 < same.high


def test_the_difference_and_its_interval() -> None:
    found = compare_paired(10, 25, 200)
    assert found.difference == pytest.approx(0.075)
    first, second = 11 / 202, 26 / 202
    half = 1.959964 * ((first + second - (second - first) ** 2) / 202) ** 0.5
    assert (found.low, found.high) == pytest.approx((second - first - half, second - first + half))
    assert detectable_points(10, 25, 200) == pytest.approx(100 * 1.959964 * 35**0.5 / 200)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
