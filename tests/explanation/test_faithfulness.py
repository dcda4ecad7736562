"""Taking patches away: which stay, what the answer is worth, and that the figure is right where it is known."""

import math

import pytest
import torch

from tests.support.random_vit import random_vit
from vitrail.explanation.faithfulness import (
    area,
    curves,
    faithfulness,
    random_srg,
    steps,
    with_mean_colour,
    without_tokens,
)
from vitrail.explanation.trace import Target, embed, kept, logits_of


def test_steps_go_from_all_to_one() -> None:
    assert steps(100) == [100, 90, 80, 70, 60, 50, 40, 30, 20, 10, 1]
    assert steps(16) == [16, 14, 13, 11, 10, 8, 6, 5, 3, 2, 1]
    assert steps(2) == [2, 1]
    assert steps(1) == [1]


def test_area_is_the_mean_of_a_line() -> None:
    for count in (2, 16, 100):
        removed = torch.tensor([1 - keep / count for keep in steps(count)])
        assert float(area(torch.full((len(removed),), 0.3), count)) == pytest.approx(0.3)
        assert float(area(1 - removed, count)) == pytest.approx(1 - (1 - 1 / count) / 2)
    assert float(area(torch.tensor([0.4]), 1)) == pytest.approx(0.4)


def test_a_classifier_that_reads_one_patch() -> None:
    """Its probability is 1 with the patch and 1/2 without it, so the areas are known."""
    right = torch.tensor([3, 7])

    def answers(patches: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        has = (patches == right[images][:, None]).any(1)
        return torch.stack((torch.where(has, 40.0, 0.0), torch.zeros(len(has))), dim=1)

    maps = torch.zeros(2, 10)
    maps[torch.arange(2), right] = 1.0
    target = Target(torch.tensor([0, 0]))
    good = faithfulness(answers, maps, target)
    bad = faithfulness(answers, -maps, target)
    for one, other in zip(good, bad, strict=True):
        assert one.lerf == pytest.approx(1.0)  # the patch is the last that stays
        assert one.morf == pytest.approx(0.5 + 0.5 * (0.05 / 0.9))  # half a step with it, of 0.9 in all
        assert one.srg == pytest.approx(-other.srg)
    spread = random_srg(answers, 10, 200, target)
    assert spread.shape == (2, 200)
    assert abs(float(spread.mean())) < 3 * float(spread.std()) / math.sqrt(400)


def test_patches_that_stay_keep_their_positions() -> None:
    model = random_vit(num_registers=2)
    images = torch.randn(2, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    tokens = embed(model, images)
    some = torch.tensor([[5, 0, 23], [1, 2, 3]])
    chosen = kept(tokens, some, 3)
    assert torch.equal(chosen[:, :3], tokens[:, :3])
    assert torch.equal(chosen[0, 3:], tokens[0, 3 + some[0]])
    every = torch.stack([torch.randperm(24, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    torch.testing.assert_close(
        logits_of(model, kept(tokens, every, 3)), model(images, interpolate_pos_encoding=True)["logits"]
    )
    orders = torch.stack((every, every.flip(1)), dim=1)
    target = Target(torch.tensor([1, 2]))
    together = curves(without_tokens(model, tokens), orders, target)
    one_by_one = curves(without_tokens(model, tokens), orders, target, tokens_at_once=1)
    torch.testing.assert_close(together, one_by_one)


def test_cells_are_painted_with_the_mean_of_their_image() -> None:
    model = random_vit(pooling="mean", use_class_token=False, stem_channels=(8,), stem_strides=(2,), patch_size=2)
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    painted = images.clone()
    mean = images[1].mean((1, 2))
    painted[1] = mean[:, None, None]
    painted[1, :, 4:8, 20:24] = images[1, :, 4:8, 20:24]  # cell 11 of a grid of 4 x 6
    found = with_mean_colour(model, images, (4, 6))(torch.tensor([[11]]), torch.tensor([1]))
    torch.testing.assert_close(found, model(painted[1:], interpolate_pos_encoding=True)["logits"])


def test_what_the_probability_is() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    assert float(Target(torch.tensor([0])).probability(logits)) == pytest.approx(float(logits.softmax(1)[0, 0]))
    pair = Target(torch.tensor([0]), torch.tensor([1]))
    assert float(pair.logit(logits)) == 2.0
    assert float(pair.probability(logits)) == pytest.approx(1 / (1 + math.exp(-2)))
    alone = Target(torch.tensor([2]), is_yes_or_no=True)
    assert float(alone.probability(logits)) == pytest.approx(1 / (1 + math.e))
