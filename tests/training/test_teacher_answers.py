"""The kept answers of a teacher: the next run with the same views asks them, and no other run does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrail
from vitrail import data, fsio
from vitrail.locations import teacher_cache
from vitrail.run import RunDir
from vitrail.selftest.tiny import tiny_run
from vitrail.training.teacher import Teacher, load_teacher
from vitrail.training.teacher_answers import open_answers

EPOCH_BYTES = 1438 * 10 * 2


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "run"
    vitrail.train(tiny_run(schedule={"max_steps": 2}), path)
    return str(path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images a teacher was asked about, a batch a number."""
    sizes: list[int] = []
    answer = Teacher.__call__

    def counted(self: Teacher, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return answer(self, images)

    monkeypatch.setattr(Teacher, "__call__", counted)
    return sizes


def _train(path: Path, teacher: str, cache: bool = True, **sections: dict[str, Any]) -> tuple[Any, bytes]:
    """The log of a run of two epochs of three steps, and its weights."""
    distill = {"teacher": teacher, "cache": cache, **sections.pop("distill", {})}
    vitrail.train(tiny_run(distill=distill, data={"batch_size": 512, **sections.pop("data", {})}, **sections), path)
    return RunDir(path).read_metrics(), _weights(path)


def _weights(path: Path) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in vitrail.load(path)[0].state_dict().values())


def _files() -> list[Path]:
    return sorted(teacher_cache().rglob("*.f16"))


def test_a_run_with_kept_answers_is_the_same_run(tmp_path: Path, teacher: str, asked: list[int]) -> None:
    without = _train(tmp_path / "without", teacher, cache=False)
    assert (sum(asked), _files()) == (2 * 1438, [])
    first = _train(tmp_path / "first", teacher)
    assert sum(asked) == 4 * 1438
    assert [(f.name, f.stat().st_size) for f in _files()] == [
        ("epoch-00001.f16", EPOCH_BYTES), ("epoch-00002.f16", EPOCH_BYTES)
    ]  # fmt: skip
    second = _train(tmp_path / "second", teacher)
    assert sum(asked) == 4 * 1438, "the teacher was not asked again"
    assert without == first == second
    _train(tmp_path / "weight", teacher, distill={"weight": 0.9}, optim={"lr": 1e-4})
    assert sum(asked) == 4 * 1438, "nor by a trial with another student"


def test_other_views_and_other_teachers_are_asked_anew(tmp_path: Path, teacher: str) -> None:
    vitrail.train(tiny_run(schedule={"max_steps": 1}), tmp_path / "other")

    def folder(seed: int = 0, source: str = teacher, **sections: dict[str, Any]) -> Path | None:
        distill = {"teacher": source, **sections.pop("distill", {})}
        config = replace(tiny_run(distill=distill, **sections), seed=seed)
        preprocessing = data.preprocessing_for(config.data)
        split = data.load(config.data, ("train", config.evaluation.split))["train"]
        found = load_teacher(config, preprocessing, split, torch.device("cpu"))
        return open_answers(found, config, preprocessing, split, processes=1).folder

    same = folder()
    assert same == folder(model={"hidden_size": 32}, optim={"lr": 1.0}, distill={"weight": 1.0})
    others = [
        folder(1), folder(source=str(tmp_path / "other")), folder(augment={"rotation": 9.0}),
        folder(data={"batch_size": 64}), folder(data={"image_size": 8}), folder(data={"mean": (0.4,)}),
        folder(evaluation={"split": "val"}),
    ]  # fmt: skip
    assert len({same, *others}) == 8


def test_several_processes_keep_none(teacher: str) -> None:
    config = tiny_run(distill={"teacher": teacher})
    preprocessing, split = data.preprocessing_for(config.data), data.load(config.data, ("train",))["train"]
    found = load_teacher(config, preprocessing, split, torch.device("cpu"))
    assert open_answers(found, config, preprocessing, split, processes=2).folder is None


def test_only_whole_epochs_are_kept(tmp_path: Path, teacher: str, asked: list[int]) -> None:
    """A run that stops in the second epoch and goes on has not seen that epoch from its beginning."""
    whole = _train(tmp_path / "whole", teacher, cache=False)
    _train(tmp_path / "parts", teacher, schedule={"max_steps": 4})
    assert [f.name for f in _files()] == ["epoch-00001.f16"]
    config = tiny_run(distill={"teacher": teacher}, data={"batch_size": 512})
    vitrail.train(config, tmp_path / "parts", resume=True)
    assert [f.name for f in _files()] == ["epoch-00001.f16"]
    assert _weights(tmp_path / "parts") == whole[1]
    assert sum(asked) == 4 * 1438


def test_checkpoints_within_an_epoch_do_not_keep_it_from_being_kept(tmp_path: Path, teacher: str) -> None:
    _train(tmp_path / "run", teacher, checkpoint={"every_steps": 2})
    assert len(_files()) == 2


def test_a_torn_file_is_made_again(tmp_path: Path, teacher: str, asked: list[int]) -> None:
    first = _train(tmp_path / "first", teacher)
    _files()[1].write_bytes(_files()[1].read_bytes()[:-2])
    assert _train(tmp_path / "second", teacher) == first
    assert sum(asked) == 3 * 1438
    assert _files()[1].stat().st_size == EPOCH_BYTES


def test_a_full_disk_does_not_end_a_run(tmp_path: Path, teacher: str, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(fsio.FileSystem):
        def replace(self, source: Path, target: Path) -> None:
            if target.suffix == ".f16":
                raise OSError(28, "No space left on device")
            super().replace(source, target)

    with fsio.use_file_system(Full()):
        _train(tmp_path / "run", teacher)
    told = capsys.readouterr().err
    assert told.count("the teacher's answers are not kept from here on") == 1
    assert "No space left" in told
    assert _files() == []


def test_what_was_not_used_for_longest_makes_room(
    tmp_path: Path, teacher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = teacher_cache() / "old"
    fsio.write_bytes(old / "epoch-00001.f16", b"0" * EPOCH_BYTES)
    room = {"cache_gib": 2.5 * EPOCH_BYTES / 2**30}
    _train(tmp_path / "run", teacher, data=room)
    assert not old.exists()
    assert len(_files()) == 2
    assert capsys.readouterr().err == ""
    _train(tmp_path / "longer", teacher, data=room, schedule={"epochs": 3})
    assert len(_files()) == 2, "its own answers stay"
    assert "no room for the teacher's answers" in capsys.readouterr().err
