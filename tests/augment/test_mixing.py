"""Mixup, CutMix and erasing: targets match pixels, parameters follow (seed, epoch, batch number)."""

import pytest
import torch
from torch import Tensor

from vitrail.augment import Mix
from vitrail.augment.mixing import erase
from vitrail.config import AugmentConfig

TOLERANCE = 1e-5
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def constant_images() -> Tensor:
    """Image i is i + 1 everywhere: the mean of a mixed image tells its proportion."""
    return (torch.arange(6.0) + 1).view(6, 1, 1, 1).repeat(1, 3, 10, 14)


def proportions(mixed: Tensor) -> Tensor:
    """Share of image i's own pixels, for constant images whose partner is the same number of places further on."""
    originals = constant_images()[:, 0, 0, 0]
    for shift in range(1, 6):
        partners = originals.roll(shift)
        share = (mixed.mean((1, 2, 3)) - partners) / (originals - partners)
        if share.max() - share.min() < 1e-4:
            return share
    raise AssertionError("no partner explains all images")


@pytest.mark.parametrize("config", [AugmentConfig(mixup=0.8), AugmentConfig(cutmix=1.0)])
@pytest.mark.parametrize("batch_number", range(8))
def test_targets_have_the_proportion_of_the_pixels(config: AugmentConfig, batch_number: int) -> None:
    images = constant_images()
    mixed, targets = Mix(config, 6, seed=0)(images, torch.arange(6), 0, batch_number)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    torch.testing.assert_close(targets.diagonal(), proportions(mixed), atol=1e-4, rtol=0)
    assert torch.equal(images, constant_images())
    assert ((targets > 0).sum(1) <= 2).all()


def test_cutmix_pastes_one_box_of_whole_pixels() -> None:
    mix = Mix(AugmentConfig(cutmix=1.0), 4, seed=0)
    num_boxes = 0
    for batch_number in range(20):
        mixed, _ = mix(constant_images(), LABELS, 0, batch_number)
        own = mixed == constant_images()
        assert torch.equal(own, own[:1, :1].expand_as(own))
        foreign = ~own[0, 0]
        rows, columns = foreign.any(1), foreign.any(0)
        assert torch.equal(foreign, rows.unsqueeze(1) & columns)
        num_boxes += int(foreign.any())
    assert num_boxes > 10


def test_mixup_proportions_follow_beta() -> None:
    mix = Mix(AugmentConfig(mixup=0.4), 6, seed=1)
    shares = torch.tensor([mix(constant_images(), torch.arange(6), 0, i)[1][0, 0] for i in range(800)])
    variance = 1 / (4 * (2 * 0.4 + 1))  # of Beta(a, a)
    assert abs(shares.mean() - 0.5) < 5 * (variance / 800) ** 0.5
    assert abs(shares.var() - variance) < 0.15 * variance


def test_mixing_is_a_function_of_seed_epoch_and_batch_number() -> None:
    config = AugmentConfig(mixup=1.0, cutmix=1.0)

    def mixed(seed: int, epoch: int, batch_number: int) -> Tensor:
        return Mix(config, 4, seed=seed)(constant_images(), LABELS, epoch, batch_number)[1]

    assert torch.equal(mixed(0, 1, 2), mixed(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(mixed(0, 1, 2), mixed(*other))


def test_both_take_turns_and_some_batches_stay_whole() -> None:
    mix = Mix(AugmentConfig(mixup=1.0, cutmix=1.0, mix_probability=0.6), 4, seed=0)
    counts = {"whole": 0, "cutmix": 0, "mixup": 0}
    for batch_number in range(300):
        mixed, targets = mix(constant_images(), LABELS, 0, batch_number)
        is_whole = torch.equal(mixed, constant_images())
        has_box = not is_whole and bool((mixed == mixed.round()).all())
        counts["whole" if is_whole else "cutmix" if has_box else "mixup"] += 1
        if is_whole:
            assert torch.equal(targets.argmax(1), LABELS)
    assert 90 < counts["whole"] < 160  # 0.4 of 300, and CutMix boxes of no pixel
    assert min(counts["cutmix"], counts["mixup"]) > 60


def test_nothing_asked_for_gives_one_hot_targets() -> None:
    images = constant_images()
    mixed, targets = Mix(AugmentConfig(), 4, seed=0)(images, LABELS, 0, 0)
    assert mixed is images
    assert torch.equal(targets, torch.eye(4)[LABELS])


def test_one_image_alone_is_left_alone() -> None:
    images = constant_images()[:1]
    mixed, targets = Mix(AugmentConfig(mixup=1.0), 4, seed=0)(images, LABELS[:1], 0, 0)
    assert torch.equal(mixed, images)
    assert targets.tolist() == [[1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
def test_erasing_zeroes_one_rectangle_of_the_wanted_area(size: tuple[int, int]) -> None:
    draws = torch.rand(5, 400, generator=torch.Generator().manual_seed(0))
    erased = erase(torch.ones(400, 3, *size), draws, 0.5, (0.1, 0.3)) == 0
    assert torch.equal(erased, erased[:, :1].expand_as(erased))
    rows, columns = erased[:, 0].any(2), erased[:, 0].any(1)
    assert torch.equal(erased[:, 0], rows.unsqueeze(2) & columns.unsqueeze(1))
    for line in (rows, columns):
        assert (line.int().diff(dim=1).abs().sum(1) <= 2).all()  # in one piece
    areas = erased[:, 0].float().mean((1, 2))
    chosen = draws[0] < 0.5
    assert (areas[~chosen] == 0).all()
    wanted = 0.1 + 0.2 * draws[1][chosen]
    one_line = 1.1 * max(size) / (size[0] * size[1])  # both sides are rounded to whole pixels
    assert ((areas[chosen] - wanted).abs() < one_line).all()
    assert rows[chosen].any(0).all()
    assert columns[chosen].any(0).all()


def test_erasing_everything_and_nothing() -> None:
    draws = torch.rand(5, 10, generator=torch.Generator().manual_seed(0))
    assert (erase(torch.ones(10, 1, 8, 12), draws, 1.0, (1.0, 1.0)) == 0).all()
    assert (erase(torch.ones(10, 1, 8, 12), draws, 1.0, (0.0, 0.0)) == 1).all()
    assert (erase(torch.ones(10, 1, 8, 12), draws, 0.0, (0.5, 0.5)) == 1).all()
