"""Images that are decoded each time they are needed: the same as kept ones, in any order, errors in their place."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.folders import image_folder
from tests.support.images import encode, noise
from vitrail import data
from vitrail.config import AugmentConfig, DataConfig, RunConfig
from vitrail.data.crops import load_crop
from vitrail.data.decoded_cache import can_cache
from vitrail.data.loader import UNREADABLE
from vitrail.distributed import World
from vitrail.errors import ConfigError, DataError, SaveError
from vitrail.training.inputs import Inputs

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitrail" / "decoded"


@pytest.fixture
def photographs(tmp_path: Path) -> DataConfig:
    """Two classes of images of many sizes."""
    rng = np.random.default_rng(0)
    for name in ("train/a", "train/b b", "test/a", "test/b b"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for number in range(12):
            height, width = rng.integers(20, 90, 2)
            (folder / f"{number}.png").write_bytes(encode(noise(height, width, number), "PNG"))
    return DataConfig(spec=str(tmp_path / "data"), image_size=16, batch_size=5)


def test_files_give_what_memory_gives(photographs: DataConfig) -> None:
    kept, on_demand = (
        data.load(replace(photographs, store=store), ("train",))["train"] for store in ("memory", "files")
    )
    assert isinstance(on_demand.images, data.OnDemand)
    assert on_demand.images.shape == kept.pixels.shape
    order = data.epoch_order(3, 1, len(kept))
    for start in (0, 3):
        pairs = zip(
            data.batches(kept, order, 5, device=CPU, start=start),
            data.batches(on_demand, order, 5, device=CPU, start=start),
            strict=True,
        )
        for first, second in pairs:
            assert torch.equal(first.images, second.images)
            assert torch.equal(first.labels, second.labels)
            assert torch.equal(first.ids, second.ids)
    with pytest.raises(DataError, match="decoded each time"):
        _ = on_demand.pixels


def test_an_unreadable_image_keeps_its_place(photographs: DataConfig) -> None:
    bad = Path(photographs.spec) / "train" / "b b" / "7.png"
    bad.write_bytes(bad.read_bytes()[:100])
    found = data.load(replace(photographs, store="files"), ("train",))["train"]
    position = (
        list(found.names).index("train/b b/7.png")
        if "train/b b/7.png" in found.names
        else found.names.index("b b/7.png")
    )
    order = np.array([0, position, 1, position])
    batch = next(data.batches(found, order, 4, device=CPU))
    assert batch.labels.tolist() == [0, UNREADABLE, 0, UNREADABLE]
    assert sorted(batch.errors) == [1, 3]
    assert not batch.images[1].any()
    assert batch.images[0].any()


@pytest.mark.parametrize("mixing", [{}, {"mixup": 1.0}])
def test_an_unreadable_image_has_no_target(photographs: DataConfig, mixing: dict[str, float]) -> None:
    for path in (Path(photographs.spec) / "train" / "b b").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    config = RunConfig(data=replace(photographs, store="files", batch_size=24), augment=AugmentConfig(**mixing))
    train_set = data.load(config.data, ("train",))["train"]
    inputs = Inputs(config, data.preprocessing_for(config.data), train_set, World())
    batch = next(iter(inputs.batches(0, 0, CPU)))
    targets = inputs(batch, 0, 0, len(train_set), 1.0).targets
    lost = batch.labels == UNREADABLE
    assert 0 < int(lost.sum()) < len(lost)
    assert not targets[:, 1].any()
    if not mixing:
        assert targets.sum(1).tolist() == (~lost).float().tolist()


@pytest.mark.parametrize("store", ["memory", "files"])
def test_crops_are_cut_out_of_whole_images(photographs: DataConfig, store: str) -> None:
    """Images of up to 90 pixels are kept at most 32 wide or high: the memory store magnifies, the files do not."""
    config = RunConfig(
        data=replace(photographs, store=store, image_size=48),  # type: ignore[arg-type]
        augment=AugmentConfig(resized_crop=0.2),
        seed=5,
    )
    train_set = data.load(config.data, ("train",), random_crops=True)["train"]
    preprocessing = data.preprocessing_for(config.data)
    inputs = Inputs(config, preprocessing, train_set, World())
    root = Path(photographs.spec)
    batch = next(iter(inputs.batches(2, 1, CPU)))
    crops = inputs.augment.crops(batch.ids, 2).tolist()
    for pixels, identity, crop in zip(batch.images, batch.ids.tolist(), crops, strict=True):
        path = next(root.rglob(str(train_set.names[identity])))
        expected = load_crop(path, data.Crop(*crop), preprocessing)
        np.testing.assert_array_equal(pixels.numpy(), expected)


@pytest.mark.parametrize("mixing", [{}, {"cutmix": 1.0}])
def test_the_number_of_processes_does_not_matter(photographs: DataConfig, mixing: dict[str, float]) -> None:
    config = RunConfig(
        data=replace(photographs, store="files"), augment=AugmentConfig(resized_crop=0.3, flip=0.5, **mixing)
    )
    train_set = data.load(config.data, ("train",), random_crops=True)["train"]
    preprocessing, size = data.preprocessing_for(config.data), config.data.batch_size

    class OneOf(World):
        def __init__(self, rank: int, size: int) -> None:
            super().__init__()
            self.rank, self.size = rank, size

    def epoch(world: World) -> list[tuple[torch.Tensor, torch.Tensor]]:
        inputs = Inputs(config, preprocessing, train_set, world)
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for number, batch in enumerate(inputs.batches(1, 0, CPU)):
            given = inputs(batch, 1, number, min(size, len(train_set) - number * size), 1.0)
            found.append((given.images[: given.num_own], given.targets[: given.num_own]))
        return found

    alone, shares = epoch(World()), [epoch(OneOf(rank, 2)) for rank in range(2)]
    for number, (images, targets) in enumerate(alone):
        assert torch.equal(torch.cat([share[number][0] for share in shares]), images)
        assert torch.equal(torch.cat([share[number][1] for share in shares]), targets)


def test_the_store_is_chosen_by_size(photographs: DataConfig) -> None:
    def kind(random_crops: bool, **settings: object) -> str:
        config = replace(photographs, **settings)  # type: ignore[arg-type]
        found = data.load(config, ("train",), random_crops=random_crops)["train"]
        assert len(found.notes) == (isinstance(found.images, data.OnDemand))
        if isinstance(found.images, np.ndarray):
            return "memory"
        return "whole" if isinstance(next(found.images.split.read(np.array([0]))), np.ndarray) else "files"

    assert kind(False) == "memory"
    assert kind(True) == "whole"
    assert kind(True, decode_size=20) == "memory"
    assert kind(True, store="files") == "files"
    assert kind(True, image_size=600, ram_budget_mib=1) == "whole"
    assert kind(False, image_size=600, ram_budget_mib=1, cache_gib=0.01) == "files"
    with pytest.raises(SaveError, match="no room"):
        kind(False, image_size=600, ram_budget_mib=1, cache_gib=0.01, store="memory")


def test_images_of_the_size_that_is_kept_stay_in_memory(tmp_path: Path) -> None:
    spec = str(image_folder(tmp_path / "data", {"a": 3, "b": 3}, side=16))
    found = data.load(DataConfig(spec=spec, image_size=16), ("train",), random_crops=True)["train"]
    assert isinstance(found.images, np.ndarray)


def test_whole_images_are_shared_through_the_cache(
    photographs: DataConfig, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.data import dataset

    monkeypatch.setattr(dataset, "_WORTH_SHARING", 0)
    alone = data.load(photographs, ("train",), random_crops=True)["train"]
    shared = [data.load(photographs, ("train",), random_crops=True, shared=True)["train"] for _ in range(2)]
    assert len(list(cache.iterdir())) == 1
    assert {alone.fingerprint, *(found.fingerprint for found in shared)} == {alone.fingerprint}
    crops = [data.Crop(0.4, 0.1, 0.3, 0.9)] * 5
    walks = [
        next(data.batches(found, None, 5, device=CPU, crops=lambda *_: crops)).images for found in (alone, *shared)
    ]
    assert all(torch.equal(walks[0], walk) for walk in walks[1:])


def test_the_cache_forgets_what_was_not_used_for_longest(tmp_path: Path, cache: Path) -> None:
    specs = [str(image_folder(tmp_path / name, {"a": 300, "b": 100}, side=4)) for name in ("one", "two", "three")]
    settings = [
        DataConfig(spec=spec, image_size=64, ram_budget_mib=1, cache_gib=2 * 400 * 3 * 64 * 64 / 2**30 + 1e-4,
                   validation_fraction=0.5)
        for spec in specs
    ]  # fmt: skip
    for config in settings:
        data.load(config, ("all",))
    assert len(list(cache.iterdir())) == 2
    indices = [json.loads((folder / "index.json").read_text()) for folder in cache.iterdir()]
    assert all(len(index["kept"]) == 400 for index in indices)
    assert not can_cache(1 << 50, 1 << 60)


def test_streamed_images_cannot_be_kept(photographs: DataConfig) -> None:
    from vitrail.data.choice import choose_store
    from vitrail.data.sources import open_source

    split = open_source(photographs).splits["train"]
    streamed = replace(split, chunk_starts=np.array([0, len(split)]))
    preprocessing = data.preprocessing_for(photographs)
    assert choose_store(photographs, streamed, preprocessing, random_crops=False).kind == "files"
    with pytest.raises(ConfigError, match="Streamed"):
        choose_store(replace(photographs, store="memory"), streamed, preprocessing, random_crops=False)
