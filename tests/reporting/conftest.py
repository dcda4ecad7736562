"""Intervals from fewer draws than users get, so that the tests are quick; what needs all of them asks for it."""

from collections.abc import Iterator

import pytest

from vitrail.reporting import confidence, measured
from vitrail.statistics import intervals


@pytest.fixture(autouse=True)
def few_draws(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if "all_draws" not in request.fixturenames:
            patch.setattr(measured, "RESAMPLES", 40)
            patch.setattr(confidence, "RESAMPLES", 40)
            patch.setattr(confidence, "FLOOR_DRAWS", 200)
            patch.setattr(intervals, "_BCA_BELOW", 0)
        yield


@pytest.fixture
def all_draws() -> None:
    """Draws as users get them."""
