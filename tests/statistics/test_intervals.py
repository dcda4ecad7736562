"""Intervals hold what they promise: against published values, SciPy, and simulation."""

import numpy as np
import pytest
from scipy import stats

from vitrail.statistics import bootstrap, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"), [(95, 100, 0.8882, 0.9785), (8418, 10_000, 0.8345, 0.8488), (0, 20, 0.0, 0.1611)]
)
def test_wilson(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    theirs = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    assert wilson(right, count) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_nothing_measured_is_nothing_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("count", [100, 1000])
def test_wilson_covers(count: int) -> None:
    draws = np.random.default_rng(0).binomial(count, 0.8, 2000)
    covered = [low <= 0.8 <= high for low, high in (wilson(int(k), count) for k in draws)]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_bootstrap_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=120)
    found = bootstrap(lambda chosen: float(values[chosen].mean()), len(values))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=9999, method="BCa", random_state=1).confidence_interval
    assert found == pytest.approx((theirs.low, theirs.high), rel=0.03)


def test_bootstrap_covers() -> None:
    draw, hits = np.random.default_rng(1), 0
    for _ in range(150):
        values = draw.normal(size=60)
        low, high = bootstrap(lambda chosen, v=values: float(v[chosen].mean()), 60, resamples=400)
        hits += low <= 0 <= high
    assert 0.89 <= hits / 150 <= 0.99


def test_whole_groups_are_drawn() -> None:
    groups = np.repeat(np.arange(30), 20)
    values = np.random.default_rng(0).normal(size=30)[groups]
    alone = bootstrap(lambda chosen: float(values[chosen].mean()), len(values))
    together = bootstrap(lambda chosen: float(values[chosen].mean()), len(values), groups=groups)
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])


def test_equal_seeds_equal_intervals() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap(lambda c: float(values[c].std()), 50, seed=3) == bootstrap(
        lambda c: float(values[c].std()), 50, seed=3
    )
    constant = bootstrap(lambda chosen: 0.5, 10)
    assert constant == (0.5, 0.5)
