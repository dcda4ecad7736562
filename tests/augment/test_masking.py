"""Masks: a pure function of seed, epoch and id, as many patches in every image, each patch as likely as another."""

import pytest
import torch

from vitrail.augment import patch_masks
from vitrail.config import PretrainConfig

IDS = torch.tensor([5, 2**40 + 3, 0, 77, 78])


@pytest.mark.parametrize(
    ("ratio", "unit", "grid", "expected"),
    [(0.6, 1, (8, 8), 38), (0.6, 2, (8, 8), 40), (0.5, 4, (8, 12), 48), (0.75, 1, (3, 5), 11), (0.1, 1, (2, 3), 1)],
)
def test_every_image_has_the_same_number_of_masked_patches(
    ratio: float, unit: int, grid: tuple[int, int], expected: int
) -> None:
    config = PretrainConfig(mask_ratio=ratio, mask_unit=unit)
    for epoch in range(20):
        masked = patch_masks(config, IDS, epoch, grid, seed=1)
        assert masked.shape == (5, grid[0] * grid[1])
        assert masked.sum(1).tolist() == [expected] * 5


def test_a_mask_does_not_depend_on_the_batch_it_is_in() -> None:
    config = PretrainConfig()
    whole = patch_masks(config, IDS, 3, (8, 8), seed=9)
    for row, one in enumerate(IDS.split(1)):
        assert torch.equal(patch_masks(config, one, 3, (8, 8), seed=9)[0], whole[row])
    assert torch.equal(patch_masks(config, IDS.flip(0), 3, (8, 8), seed=9).flip(0), whole)


def test_seed_epoch_and_id_each_change_the_mask() -> None:
    config = PretrainConfig()
    drawn = [
        patch_masks(config, torch.tensor([number]), epoch, (8, 8), seed=seed)[0]
        for number, epoch, seed in ((7, 0, 0), (8, 0, 0), (7, 1, 0), (7, 0, 1))
    ]
    assert len({tuple(mask.tolist()) for mask in drawn}) == 4


def test_each_patch_is_masked_as_often_as_another() -> None:
    often = patch_masks(PretrainConfig(mask_ratio=0.6), torch.arange(20_000), 0, (4, 5), seed=0).float().mean(0)
    assert float((often - 0.6).abs().max()) < 0.015  # four standard deviations


def test_a_unit_is_masked_as_a_whole_and_cut_off_at_the_edge() -> None:
    masked = patch_masks(PretrainConfig(mask_unit=3), torch.arange(50), 0, (7, 5), seed=0).view(50, 7, 5)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        for columns in (slice(0, 3), slice(3, 5)):
            unit = masked[:, rows, columns].flatten(1)
            assert torch.equal(unit.all(1), unit.any(1))
            assert 0 < int(unit.all(1).sum()) < 50
