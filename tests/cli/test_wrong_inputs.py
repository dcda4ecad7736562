"""Wrong inputs: one clear message, exit status 2, nothing half-written, no traceback."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from vitrail import fsio
from vitrail.cli import main


def _image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def _classes(root: Path, *names: str, count: int = 6) -> None:
    for name in names:
        for i in range(count):
            _image(root / name / f"{i}.png", i)


def _missing_folder(at: Path) -> list[str]:
    return ["train", "digits", "--data", str(at / "nowhere")]


def _empty_folder(at: Path) -> list[str]:
    (at / "data").mkdir()
    return ["train", "digits", "--data", str(at / "data")]


def _empty_class(at: Path) -> list[str]:
    _classes(at / "data" / "train", "cat", "dog")
    (at / "data" / "train" / "emu").mkdir()
    return ["train", "digits", "--data", str(at / "data")]


def _one_class(at: Path) -> list[str]:
    _classes(at / "data", "cat")
    return ["train", "digits", "--data", str(at / "data")]


def _class_only_in_test(at: Path) -> list[str]:
    _classes(at / "data" / "train", "cat", "dog")
    _classes(at / "data" / "test", "cat", "dgo")
    return ["train", "digits", "--data", str(at / "data")]


def _no_readable_image(at: Path) -> list[str]:
    _classes(at / "data", "cat", "dog")
    for path in (at / "data").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    return ["train", "digits", "--data", str(at / "data"), "--data.image-size", "16", "--evaluation.split", "val"]


def _manifest_with_a_missing_file(at: Path) -> list[str]:
    _classes(at / "images", "cat", "dog")
    (at / "data.csv").write_text("path,label\nimages/cat/0.png,cat\nimages/cat/99.png,cat\nimages/dog/0.png,dog\n")
    return ["train", "digits", "--data", str(at / "data.csv")]


def _text_as_image(at: Path) -> list[str]:
    (at / "x.jpg").write_text("hello")
    return ["predict", "MODEL", str(at / "x.jpg")]


def _truncated_jpeg(at: Path) -> list[str]:
    _image(at / "whole.jpg")
    (at / "x.jpg").write_bytes((at / "whole.jpg").read_bytes()[:300])
    return ["predict", "MODEL", str(at / "x.jpg")]


def _run_is_a_file(at: Path) -> list[str]:
    (at / "taken").write_text("x")
    return ["train", "digits", "--run", str(at / "taken")]


def _run_below_a_file(at: Path) -> list[str]:
    (at / "taken").write_text("x")
    return ["train", "digits", "--run", str(at / "taken" / "run")]


def _stopped_run(at: Path) -> list[str]:
    (at / "stopped").mkdir()
    (at / "stopped" / "environment.json").write_text("{}")
    return ["predict", "stopped", str(at)]


def _model_is_text(at: Path) -> list[str]:
    (at / "m.safetensors").write_text("hello")
    return ["eval", str(at / "m.safetensors"), "--data", "digits"]


def _classes_beyond_the_model(at: Path) -> list[str]:
    _classes(at / "data" / "test", "0", "ten")
    _classes(at / "data" / "train", "0", "ten")
    return ["eval", "MODEL", "--data", str(at / "data")]


CASES: dict[str, tuple[Callable[[Path], list[str]] | list[str], str]] = {
    "unknown verb": (["trian", "digits"], "Did you mean: vitrail train?"),
    "unknown recipe": (["train", "digit"], "Did you mean digits"),
    "no recipe": (["train"], "cifar100-cpu-conv, reference-scratch."),
    "misspelt field": (["train", "digits", "--optim.lrr", "1"], "Did you mean --optim.lr?"),
    "misspelt section": (["train", "digits", "--optimm.lr", "1"], "Did you mean --optim.lr?"),
    "misspelt flag": (["train", "digits", "--rnu", "x"], "Did you mean --run?"),
    "a word as a number": (["train", "digits", "--schedule.epochs", "many"], "many"),
    "negative learning rate": (["train", "digits", "--optim.lr", "-1"], "optim.lr is out of range"),
    "no epochs": (["train", "digits", "--schedule.epochs", "0"], "schedule.epochs is out of range"),
    "distillation from nobody": (["train", "digits", "--distill.weight", ".3"], "need a teacher"),
    "image size not divisible": (["train", "digits", "--data.image-size", "9"], "multiple of the patch"),
    "heads not dividing width": (["train", "digits", "--model.num-attention-heads", "5"], "must be a multiple"),
    "no such device": (["train", "digits", "--compute.device", "cuda:9"], "not available here"),
    "no process": (["train", "digits", "--nproc", "0"], "--nproc must be positive"),
    "resume without run": (["train", "digits", "--resume"], "--run DIR"),
    "resume of nothing": (["train", "--resume", "--run", "nowhere"], "cannot be read"),
    "missing config": (["train", "--from", "nowhere.json"], "cannot be read"),
    "missing folder": (_missing_folder, "nowhere"),
    "empty folder": (_empty_folder, "data"),
    "empty class": (_empty_class, "emu"),
    "one class": (_one_class, "cat"),
    "class only in test": (_class_only_in_test, "dgo"),
    "no readable image": (_no_readable_image, "readable"),
    "manifest with a missing file": (_manifest_with_a_missing_file, "99.png"),
    "hub data set": (["train", "digits", "--data", "hf:owner/name"], "not"),
    "run is a file": (_run_is_a_file, "not free"),
    "run below a file": (_run_below_a_file, "cannot be written"),
    "a run that was stopped": (_stopped_run, "vitrail train --run stopped --resume"),
    "no such model": (["eval", "nowhere"], "no weights here"),
    "model is text": (_model_is_text, "not a weight file"),
    "classes beyond the model": (_classes_beyond_the_model, "ten"),
    "unknown split": (["eval", "MODEL", "--split", "tset"], "Did you mean test?"),
    "negative batch": (["eval", "MODEL", "--batch-size", "-1"], "must not be negative"),
    "eval size not divisible": (["eval", "MODEL", "--image-size", "9"], "multiple of the patch"),
    "settings given to eval": (["eval", "MODEL", "--optim.lr", "1"], "takes no settings"),
    "text as image": (_text_as_image, "x.jpg"),
    "truncated JPEG": (_truncated_jpeg, "x.jpg"),
    "no such image": (["predict", "MODEL", "nowhere.png"], "no such file"),
    "download of nothing known": (["data", "download", "imagenet"], "imagenet"),
    "info about nothing": (["data", "info", "nowhere"], "nowhere"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("wrong") / "run"
    settings = ["--schedule.epochs", "1", "--model.num-hidden-layers", "1"]
    assert main(["train", "digits", "--run", str(path), *settings]) == 0
    return str(path)


def _files(at: Path) -> set[Path]:
    return set(at.rglob("*"))


@pytest.mark.parametrize("case", CASES)
def test_one_clear_message(
    case: str, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, message = CASES[case]
    args = build(tmp_path) if callable(build) else build
    monkeypatch.chdir(tmp_path)
    before = _files(tmp_path)
    capsys.readouterr()
    try:
        status = main([model if word == "MODEL" else word for word in args])
    except SystemExit as end:
        status = int(end.code or 0)
    captured = capsys.readouterr()
    assert status == 2, captured.err
    assert message in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert len(captured.err) < 3000
    assert _files(tmp_path) == before


class _FullDisk(fsio.FileSystem):
    def free_bytes(self, path: Path) -> int:
        return 1000


class _ReadOnly(fsio.FileSystem):
    def open(self, path: Path, mode: str, buffering: int = -1) -> IO[Any]:
        raise OSError(errno.EROFS, "Read-only file system", str(path))


@pytest.mark.parametrize(
    ("file_system", "message"), [(_FullDisk(), "not enough room"), (_ReadOnly(), "Read-only file system")]
)
def test_a_full_or_read_only_disk_is_found_before_the_start(
    file_system: fsio.FileSystem, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fsio.use_file_system(file_system):
        status = main(["train", "digits", "--run", str(tmp_path / "run")])
    assert status == 2
    assert message in capsys.readouterr().err
    assert _files(tmp_path) == set()


@pytest.mark.long
def test_a_disk_that_fills_up_while_saving_ends_with_74(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class FillsUp(fsio.FileSystem):
        def fsync(self, file: IO[Any]) -> None:
            if "best" in file.name:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().fsync(file)

    with fsio.use_file_system(FillsUp()):
        status = main(["train", "digits", "--run", str(tmp_path / "run"), "--schedule.epochs", "2"])
    error = capsys.readouterr().err
    assert status == 74
    assert "best.safetensors: could not be written" in error
    assert "MiB free" in error
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_a_fault_of_ours_shows_its_traceback_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(args: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("vitrail.cli.recipes.run", broken)
    assert main(["recipes"]) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError: ours" in error
    assert "internal error; please report it" in error
