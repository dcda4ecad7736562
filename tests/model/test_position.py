"""Position embeddings: the formula, the resampling rule, and where each row lies."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.support.random_vit import random_vit
from vitrail.model.position import resample_positions, sincos_positions

SINE_ATOL = 1e-6


@pytest.mark.parametrize(("grid", "width"), [((3, 5), 16), ((2, 2), 4)])
def test_sincos_is_the_formula_at_every_patch(grid: tuple[int, int], width: int) -> None:
    rows = sincos_positions(grid, width)[0]
    quarter = width // 4
    for y in range(grid[0]):
        for x in range(grid[1]):
            frequencies = [10_000 ** (-j / max(quarter - 1, 1)) for j in range(quarter)]
            expected = [
                f(c * w) for c, f in ((x, math.sin), (x, math.cos), (y, math.sin), (y, math.cos)) for w in frequencies
            ]
            torch.testing.assert_close(rows[y * grid[1] + x], torch.tensor(expected), rtol=0, atol=SINE_ATOL)


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (1, 5)])
def test_the_same_grid_gives_the_same_positions_bit_for_bit(grid: tuple[int, int]) -> None:
    positions = torch.randn(1, grid[0] * grid[1], 8)
    assert torch.equal(resample_positions(positions, grid, grid), positions)


def test_resampling_is_bicubic_without_antialiasing_row_major() -> None:
    positions = torch.randn(1, 4 * 6, 8)
    got = resample_positions(positions, (4, 6), (3, 9))
    for channel in range(8):
        image = positions[0, :, channel].reshape(1, 1, 4, 6)
        expected = F.interpolate(image, size=(3, 9), mode="bicubic", align_corners=False, antialias=False)
        torch.testing.assert_close(got[0, :, channel], expected.flatten(), rtol=0, atol=1e-6)


def test_low_precision_positions_are_resampled_in_fp32() -> None:
    positions = torch.randn(1, 16, 8).half()
    got = resample_positions(positions, (4, 4), (7, 7))
    assert got.dtype == torch.float16
    assert torch.equal(got, resample_positions(positions.float(), (4, 4), (7, 7)).half())


@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_interpolating_to_the_own_size_changes_nothing(position: str) -> None:
    model = random_vit(position=position)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(images)["logits"], model(images, interpolate_pos_encoding=True)["logits"])


def test_sincos_is_no_parameter_and_leaves_the_class_token_alone() -> None:
    model = random_vit(position="sincos", num_registers=2)
    assert "pos_embed" not in model.state_dict()
    assert model.pos_embed.shape == (1, 17, 32)
    assert not model.pos_embed[0, 0].any()
    assert torch.equal(model.pos_embed[:, 1:], sincos_positions((4, 4), 32))


def test_sincos_of_another_grid_is_computed_not_resampled() -> None:
    small = random_vit(position="sincos")
    large = random_vit(position="sincos", image_size=(16, 32))
    large.load_state_dict(small.state_dict())
    images = torch.randn(2, 3, 16, 32)
    assert torch.equal(small(images, interpolate_pos_encoding=True)["logits"], large(images)["logits"])


def test_the_class_tokens_position_is_not_resampled() -> None:
    model = random_vit(num_registers=1)
    assert torch.equal(model._positions((7, 3), interpolate=True)[:, 0], model.pos_embed[:, 0])
