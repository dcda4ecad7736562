"""The learning-rate factor: rise, fall, end."""

import itertools

import pytest

from vitrail.config import ScheduleConfig
from vitrail.training.schedule import input_scale, lr_factor, scaled_size


def _factors(shape: str, *, total: int = 100, warmup: int = 10, final: float = 0.0) -> list[float]:
    config = ScheduleConfig(shape=shape, final_fraction=final)  # type: ignore[arg-type]
    return [lr_factor(step, total, warmup, config) for step in range(total)]


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
def test_the_warm_up_rises_linearly_and_never_starts_at_zero(shape: str) -> None:
    assert _factors(shape)[:10] == pytest.approx([i / 10 for i in range(1, 11)])


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_it_falls_to_just_above_the_final_fraction(shape: str) -> None:
    factors = _factors(shape, final=0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))
    assert 0.1 < factors[-1] < 0.12


def test_half_way_values() -> None:
    assert _factors("linear")[55] == pytest.approx(0.5)
    assert _factors("cosine")[55] == pytest.approx(0.5)
    assert _factors("cosine")[32] == pytest.approx(0.8596699, abs=1e-6)  # (1 + cos 44 degrees) / 2
    assert _factors("constant")[99] == 1.0


def test_no_warm_up_starts_at_the_peak() -> None:
    assert _factors("cosine", warmup=0)[0] == 1.0


def test_small_images_come_first() -> None:
    config = ScheduleConfig(progressive_scales=(0.5, 0.75), progressive_until=(0.35, 0.7))
    scales = [input_scale(step, 100, config) for step in range(100)]
    assert scales == [0.5] * 35 + [0.75] * 35 + [1.0] * 30
    assert input_scale(0, 100, ScheduleConfig()) == 1.0


@pytest.mark.parametrize(
    ("size", "scale", "stride", "expected"),
    [
        ((32, 32), 0.5, (4, 4), (16, 16)),
        ((32, 32), 0.75, (8, 8), (24, 24)),
        ((64, 48), 0.5, (16, 16), (32, 32)),
        ((8, 8), 0.1, (4, 2), (4, 2)),
    ],
)
def test_smaller_sizes_are_whole_tokens(
    size: tuple[int, int], scale: float, stride: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert scaled_size(size, scale, stride) == expected
