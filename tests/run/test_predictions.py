"""Answers image by image: written, read back, refused where damaged."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from vitrail.cli import main
from vitrail.errors import RunError
from vitrail.run import Predictions, RunDir, read_predictions
from vitrail.run.predictions import keeps_logits, ordered_by_id
from vitrail.selftest.tiny import tiny_run
from vitrail.training import train


def made(count: int = 7, num_labels: int = 3) -> Predictions:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(count, num_labels)).astype(np.float32)
    labels = draw.integers(0, num_labels, count).astype(np.int32)
    order = np.argsort(-logits, axis=1)[:, :5].astype(np.int32)
    logs = log_softmax(logits, axis=1).astype(np.float32)
    return Predictions(
        split="test",
        fingerprint="f" * 64,
        classes=tuple(f"class {i}" for i in range(num_labels)),
        names=[f"a/\udcff {i}.png" for i in range(count)],
        ids=np.arange(count, dtype=np.int64) * 2,
        labels=labels,
        top_classes=order,
        top_probabilities=np.exp(np.take_along_axis(logs, order, 1)),
        losses=-logs[np.arange(count), labels],
        log_sum_exp=(logits - logs)[:, 0],
        logits=logits,
        unreadable=(("b/bad.png", "is truncated"),),
    )


@pytest.mark.parametrize("count", [1, 7])
def test_what_is_written_is_read(tmp_path: Path, count: int) -> None:
    written = made(count)
    written.save(tmp_path / "p.safetensors")
    found = read_predictions(tmp_path / "p.safetensors")
    assert list(found.names) == list(written.names)
    assert found.num_examples == count + 1
    assert (found.correct == written.correct).all()
    for name, value in vars(written).items():
        if isinstance(value, np.ndarray):
            assert (getattr(found, name) == value).all(), name
        elif name != "names":
            assert getattr(found, name) == value, name
    written.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "p.safetensors").read_bytes()


def test_without_logits(tmp_path: Path) -> None:
    replace(made(), logits=None).save(tmp_path / "p.safetensors")
    assert read_predictions(tmp_path / "p.safetensors").logits is None
    assert keeps_logits(50_000, 1000)
    assert not keeps_logits(50_001, 1000)


def test_rows_are_ordered_by_id() -> None:
    written = made()
    mixed = replace(written, ids=written.ids[::-1].copy())
    found = ordered_by_id(mixed)
    assert found.ids.tolist() == written.ids.tolist()
    assert found.labels.tolist() == written.labels[::-1].tolist()
    assert list(found.names) == list(written.names)[::-1]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    made().save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RunError, match="is not a predictions file, or is damaged"):
            read_predictions(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(RunError, match="is not a predictions file"):
        read_predictions(path)
    with pytest.raises(RunError, match="No such file"):
        read_predictions(tmp_path / "missing")


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", np.full(7, 3, np.int32)),
        ("ids", np.zeros(7, np.int64)),
        ("losses", np.zeros(6, np.float32)),
        ("names", ["a"]),
        ("logits", np.zeros((7, 4), np.float32)),
    ],
)
def test_rows_that_contradict_each_other_are_refused(tmp_path: Path, field: str, value: object) -> None:
    replace(made(), **{field: value}).save(tmp_path / "p.safetensors")
    with pytest.raises(RunError, match="is not a predictions file"):
        read_predictions(tmp_path / "p.safetensors")


def test_a_run_and_eval_leave_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, other = RunDir(tmp_path / "run"), tmp_path / "other.safetensors"
    result = train(tiny_run(), run_dir.path)
    found = read_predictions(run_dir.predictions_path("test"))
    assert int(found.correct.sum()) == result.evaluation["num_correct"]
    assert float(found.losses.mean()) == pytest.approx(result.evaluation["loss"], rel=1e-5)
    assert found.step == run_dir.read_metrics()[-1]["step"]
    before = run_dir.predictions_path("test").read_bytes()
    assert main(["eval", str(run_dir.path), "--predictions", str(other)]) == 0
    assert main(["eval", str(run_dir.path), "--split", "train"]) == 0
    assert main(["eval", str(run_dir.path), "--merge", "1"]) == 0
    assert run_dir.predictions_path("test").read_bytes() == before
    assert [line["split"] for line in run_dir.evaluations.read()] == ["test", "train"]
    again = read_predictions(other)
    assert (again.top_classes == found.top_classes).all()
    assert (again.fingerprint, again.step) == (found.fingerprint, found.step)
    assert len(read_predictions(run_dir.predictions_path("train"))) == 1438
    capsys.readouterr()


def test_they_are_read_without_torch(tmp_path: Path) -> None:
    made().save(tmp_path / "p.safetensors")
    script = "import sys; from vitrail.run import RunDir, read_predictions; RunDir; read_predictions(sys.argv[1]); "
    command = [sys.executable, "-c", script + "print('torch' in sys.modules)", str(tmp_path / "p.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
