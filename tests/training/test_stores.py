"""Training does not depend on whether images are kept or decoded each time; what cannot be read counts nothing."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vitrail
from tests.support.images import encode, noise
from vitrail.config import (
    ArchitectureConfig,
    AugmentConfig,
    DataConfig,
    EvaluationConfig,
    RunConfig,
    ScheduleConfig,
)
from vitrail.data.on_demand import DecodedBatch, OnDemand, Wanted
from vitrail.errors import DataError
from vitrail.run import RunDir
from vitrail.selftest.same_run import model_content


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    rng = np.random.default_rng(0)
    for name in ("train/a", "train/b", "val/a", "val/b"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for number in range(10):
            height, width = rng.integers(10, 50, 2)
            (folder / f"{number}.png").write_bytes(encode(noise(height, width, number), "PNG"))
    return RunConfig(
        data=DataConfig(spec=str(tmp_path / "data"), image_size=8, batch_size=6, store="memory"),
        model=ArchitectureConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=4),
        augment=AugmentConfig(flip=0.5, rotation=10, mixup=0.5),
        schedule=ScheduleConfig(epochs=2),
        evaluation=EvaluationConfig(split="val"),
    )


def _with(config: RunConfig, **data: object) -> RunConfig:
    return replace(config, data=replace(config.data, **data))  # type: ignore[arg-type]


def test_files_train_the_same_model_as_memory(config: RunConfig, tmp_path: Path) -> None:
    for store in ("memory", "files"):
        vitrail.train(_with(config, store=store), tmp_path / store)
    memory, files = (model_content(tmp_path / store / "last.safetensors") for store in ("memory", "files"))
    assert memory[0] == files[0]


@pytest.mark.parametrize("store", ["memory", "files"])
def test_random_crops_go_on_in_the_middle_of_an_epoch(config: RunConfig, tmp_path: Path, store: str) -> None:
    config = replace(_with(config, store=store), augment=replace(config.augment, resized_crop=0.3))
    vitrail.train(config, tmp_path / "whole")
    first = replace(config, schedule=replace(config.schedule, max_steps=2))
    vitrail.train(first, tmp_path / "run")
    vitrail.train(config, tmp_path / "run", resume=True)
    whole, resumed = (model_content(tmp_path / name / "last.safetensors") for name in ("whole", "run"))
    assert whole[0] == resumed[0]


def test_an_unreadable_file_is_named_and_counts_nothing(config: RunConfig, tmp_path: Path) -> None:
    root = Path(config.data.spec)
    for name in ("train/a/3.png", "val/b/4.png"):
        (root / name).write_bytes((root / name).read_bytes()[:80])
    result = vitrail.train(_with(config, store="files"), tmp_path / "run")
    assert result.evaluation["num_examples"] == 20
    assert [error["path"] for error in result.evaluation["errors"]] == ["val/b/4.png"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    assert [line["unreadable"] for line in lines if "unreadable" in line] == ["train/a/3.png"]
    assert RunDir(tmp_path / "run").read_config().data.store == "files"
    kept = vitrail.evaluate(tmp_path / "run", config.data.spec, split="val")
    assert kept.num_correct == result.evaluation["num_correct"]


@pytest.mark.parametrize("recipe", ["linear-probe", "knn"])
def test_probes_leave_out_what_cannot_be_read(config: RunConfig, tmp_path: Path, recipe: str) -> None:
    root = Path(config.data.spec)
    for name in ("train/a/3.png", "val/b/4.png"):
        (root / name).write_bytes((root / name).read_bytes()[:80])
    found = [
        vitrail.finetune(
            "builtin:cifar100", root, tmp_path / store, recipe=recipe, settings={"data.store": store, "image_size": 32}
        )
        for store in ("memory", "files")
    ]
    assert found[0].evaluation["num_correct"] == found[1].evaluation["num_correct"]
    assert [error["path"] for error in found[1].evaluation["errors"]] == ["val/b/4.png"]


def test_data_that_are_gone_in_the_middle_leave_a_state_to_go_on_from(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _with(config, store="files")
    vitrail.train(config, tmp_path / "whole")
    whole_batches = OnDemand.batches

    def broken(images: OnDemand, wanted: Iterable[Wanted]) -> Iterator[DecodedBatch]:
        for number, batch in enumerate(whole_batches(images, wanted)):
            if number == 2:
                raise DataError("http://host/train-0.tar: could not be read.")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(OnDemand, "batches", broken)
        with pytest.raises(DataError, match=r"(?s)after step 2 is saved.*--resume"):
            vitrail.train(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] != []
    vitrail.train(config, tmp_path / "run", resume=True)
    whole, resumed = (model_content(tmp_path / name / "last.safetensors") for name in ("whole", "run"))
    assert whole[0] == resumed[0]
