"""The design and the arithmetic of bench/screen.py."""

import itertools
import math

import pytest

from bench import screen


@pytest.mark.parametrize("count", range(1, screen.MOST_FACTORS + 1))
def test_main_effects_are_not_mixed_up(count: int) -> None:
    levels = screen.design(count)
    signs = [[1 if row[i] else -1 for row in levels] for i in range(count)]
    assert len(set(levels)) == len(levels) == 2 ** min(count, 4)
    for one in signs:
        assert sum(one) == 0
    for one, other in itertools.combinations(signs, 2):
        assert sum(a * b for a, b in zip(one, other, strict=True)) == 0
    for three in itertools.combinations(signs, 3):
        assert abs(sum(math.prod(values) for values in zip(*three, strict=True))) == 0


def test_effects_are_those_that_were_put_in() -> None:
    levels = screen.design(6)
    true = (3.0, -2.0, 0.5, 0.0, 1.0, 0.0)
    scores = [70 + sum(e * (0.5 if on else -0.5) for e, on in zip(true, row, strict=True)) for row in levels]
    scores = [score + (2 if row[0] == row[1] else -2) for score, row in zip(scores, levels, strict=True)]
    found = screen.effects(levels, scores)
    assert [one["effect"] for one in found] == pytest.approx(true)
    # What is left over is the interaction alone: 16 times 2 squared, 9 degrees of freedom, t = 2.262.
    assert found[0]["half_width"] == pytest.approx(2.262157 * 2 * math.sqrt(64 / 9 / 16), rel=1e-4)


def test_flop_of_an_image_are_those_of_the_formula() -> None:
    config = screen.recipes.get("cifar10-cpu")
    width, depth, macs = config.model.hidden_size, config.model.num_hidden_layers, 0.0
    for tokens, share in ((16, 0.35), (36, 0.35), (64, 0.3)):
        layer = tokens * width**2 * (4 + 2 * config.model.mlp_ratio) + 2 * tokens**2 * width
        macs += share * (depth * layer + 48 * tokens * width + 10 * width)
    assert screen.flop_of_image(config) == pytest.approx(6 * macs)
