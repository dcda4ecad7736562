"""Balanced sampling: the same input whatever the number of processes, and no image twice in the same form."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.folders import image_folder
from vitrail import data
from vitrail.config import AugmentConfig, DataConfig, RunConfig
from vitrail.distributed import World
from vitrail.training.inputs import Inputs

COUNTS = {"train/rare": 2, "train/common": 13, "test/rare": 1, "test/common": 1}


class _OneOf(World):
    """One of several processes, without the others."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size


def _epoch(config: RunConfig, world: World, epoch: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What one process trains on in an epoch."""
    train_set = data.load(config.data, ("train",))["train"]
    preprocessing = data.preprocessing_for(config.data)
    inputs, size = Inputs(config, preprocessing, train_set, world), config.data.batch_size
    count = len(inputs.order(epoch))
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for number, batch in enumerate(inputs.batches(epoch, 0, torch.device("cpu"))):
        given = inputs(batch, epoch, number, min(size, count - number * size), 1.0)
        found.append((given.images[: given.num_own], given.targets[: given.num_own]))
    return found


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_balanced_batches_do_not_depend_on_the_number_of_processes(tmp_path: Path, cutmix: float) -> None:
    spec = str(image_folder(tmp_path, COUNTS, side=8))
    config = RunConfig(
        data=DataConfig(spec=spec, image_size=16, batch_size=6, balance="sampling"),
        augment=AugmentConfig(flip=0.5, crop_padding=2, cutmix=cutmix),
    )
    alone = _epoch(config, World())
    shares = [_epoch(config, _OneOf(rank, 3)) for rank in range(3)]
    for number, (images, targets) in enumerate(alone):
        assert torch.equal(torch.cat([share[number][0] for share in shares]), images)
        assert torch.equal(torch.cat([share[number][1] for share in shares]), targets)


def test_two_processes_show_both_sides_of_every_image_in_two_epochs(tmp_path: Path) -> None:
    spec = str(image_folder(tmp_path, COUNTS, side=8))
    config = RunConfig(
        data=DataConfig(spec=spec, image_size=16, batch_size=4),
        augment=AugmentConfig(flip=0.5, flip_kind="alternating"),
    )
    first, second = (
        torch.cat([images for rank in range(2) for images, _ in _epoch(config, _OneOf(rank, 2), epoch)])
        for epoch in (4, 5)
    )
    assert len(first) == 15
    distances = torch.cdist(first.flip(3).flatten(1), second.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert sorted(distances.argmin(1).tolist()) == list(range(15))
    assert distances.amin(1).max() < 1e-4  # the images are enlarged, which mirrors to the last bits


def test_an_image_that_comes_again_is_augmented_anew(tmp_path: Path) -> None:
    spec = str(image_folder(tmp_path, COUNTS, side=8))
    config = RunConfig(
        data=DataConfig(spec=spec, image_size=16, batch_size=6, balance="sampling"),
        augment=AugmentConfig(flip=0.5, crop_padding=4),
    )
    images, labels = (torch.cat(parts) for parts in zip(*_epoch(config, World()), strict=True))
    assert np.bincount(labels.numpy()).tolist() in ([7, 8], [8, 7])
    rare = data.load(config.data, ("train",))["train"].classes.index("rare")
    seen = {image.numpy().tobytes() for image in images[labels == rare]}
    assert len(seen) > 2  # of two photographs
