"""The log of a run in other viewers: equal values, no zigzag after an interruption, and a failure that ends no run."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.answered import made_run
from vitrail import tracking
from vitrail.cli import main
from vitrail.errors import ConfigError
from vitrail.run import RunDir
from vitrail.selftest.tiny import tiny_run
from vitrail.tracking import CsvFile, scalars
from vitrail.training import train

LOG = [
    {"step": 2, "epoch": 1, "loss": 2.25, "lr": 0.001},
    {"step": 3, "epoch": 1, "skipped": [{"rank": 0}]},
    {"step": 4, "epoch": 1, "loss": 2.0, "lr": 0.0005},
    {"step": 4, "epoch": 1, "accuracy": 0.5, "loss": 1.5, "split": "val"},
]


class Recorded:
    """A tracker that keeps what it is told, or fails at the n-th time."""

    def __init__(self, fails_at: int = -1) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []
        self.fails_at, self.is_closed = fails_at, False

    def write(self, records: list[dict[str, Any]]) -> None:
        if len(self.values) == self.fails_at:
            raise OSError("the server is gone\x1b[31m")
        self.values += [(record["step"], scalars(record)) for record in records]

    def close(self) -> None:
        self.is_closed = True


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _expected(run_dir: RunDir) -> list[dict[str, str]]:
    named = [{"split": "train", **record} for record in run_dir.read_metrics() if scalars(record)]
    columns = ("step", "epoch", "split", "loss", "accuracy", "lr")
    return [{name: str(record.get(name, "")) for name in columns} for record in named]


def test_names_of_values() -> None:
    assert [scalars(record) for record in LOG] == [
        {"train/loss": 2.25, "train/lr": 0.001},
        {},
        {"train/loss": 2.0, "train/lr": 0.0005},
        {"val/loss": 1.5, "val/accuracy": 0.5},
    ]
    assert scalars({"step": 0, "baseline": {"knn": 0.5}}) == {}


def test_csv_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = made_run(tmp_path / "run", log=LOG)
    assert main(["track", str(run_dir.path), "--to", "csv"]) == 0
    assert _rows(run_dir.path / "metrics.csv") == _expected(run_dir)
    assert len(_rows(run_dir.path / "metrics.csv")) == 3
    before = (run_dir.path / "metrics.csv").read_bytes()
    assert main(["track", str(run_dir.path), "--to", "csv"]) == 0
    assert (run_dir.path / "metrics.csv").read_bytes() == before
    assert "3 records to csv" in capsys.readouterr().out


def test_live_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle and taken up again: rows equal the log, and no step comes twice."""
    config = tiny_run(checkpoint={"every_steps": 4}, evaluation={"every_epochs": 1})
    short = tiny_run(checkpoint={"every_steps": 4}, evaluation={"every_epochs": 1}, schedule={"max_steps": 11})
    run_dir = RunDir(tmp_path / "run")
    train(short, run_dir.path, track=["csv"])
    assert _rows(run_dir.path / "metrics.csv") == _expected(run_dir)
    run_dir.log({"step": 12, "epoch": 1, "loss": 9.0, "lr": 0.1})  # of an attempt that was killed before it was saved
    seen: list[tuple[int, Recorded]] = []

    def make(run: Path, config: dict[str, Any], first_step: int) -> Recorded:
        seen.append((first_step, Recorded()))
        return seen[0][1]

    monkeypatch.setitem(tracking._MAKERS, "wandb", make)
    monkeypatch.delitem(tracking._MODULES, "wandb")
    train(config, run_dir.path, resume=True, track=["csv", "wandb"])
    again = RunDir(run_dir.path)
    assert _rows(run_dir.path / "metrics.csv") == _expected(again)
    ((first_step, tracker),) = seen
    assert first_step == 12
    assert tracker.is_closed
    for name in ("train/loss", "test/accuracy"):
        steps = [step for step, values in tracker.values if name in values]
        assert steps == sorted(set(steps))
        assert steps[0] >= 12
        ours = {record["step"]: scalars(record)[name] for record in again.read_metrics() if name in scalars(record)}
        assert {step: values[name] for step, values in tracker.values if name in values} == {
            step: value for step, value in ours.items() if step >= 12
        }


@pytest.mark.parametrize("fails_at", [0, 3])
def test_a_tracker_that_fails_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails_at: int
) -> None:
    monkeypatch.setitem(tracking._MAKERS, "mlflow", lambda run, config, first_step: Recorded(fails_at))
    monkeypatch.setitem(tracking._MAKERS, "wandb", _raises)
    for name in ("mlflow", "wandb"):
        monkeypatch.delitem(tracking._MODULES, name)
    train(tiny_run(schedule={"max_steps": 12}), tmp_path / "run", track=["mlflow", "wandb", "csv"])
    shown = capsys.readouterr().err
    assert shown.count("mlflow failed and is left alone, the run goes on: OSError: the server is gone") == 1
    assert shown.count("wandb failed and is left alone") == 1
    assert "\x1b[31m" not in shown
    assert _rows(tmp_path / "run" / "metrics.csv") == _expected(RunDir(tmp_path / "run"))
    with pytest.raises(ConfigError, match="wandb failed"):
        tracking.export("wandb", tmp_path / "run", {}, LOG)


def _raises(*_: object) -> Recorded:
    raise RuntimeError("not logged in")


def test_what_is_not_there_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert main(["train", "digits", "--run", str(tmp_path / "run"), "--track", "trackio"]) == 2
    assert "trackio is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="no tracker 'visdom'"):
        train(tiny_run(), tmp_path / "run", track=["visdom"])


def test_weights_and_biases_is_told_the_step_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        define_metric=lambda *a, **k: calls.append(("define", a, k)),
        log=lambda values: calls.append(("log", values)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **k: calls.append(("init", k)) or run))
    tracking.export("wandb", tmp_path / "mine", {"optim.lr": 1.0}, LOG)
    assert calls[0] == ("init", {"project": "vitrail", "name": "mine", "config": {"optim.lr": 1.0}})
    assert calls[1] == ("define", ("*",), {"step_metric": "step"})
    assert calls[2:-1] == [("log", {**scalars(record), "step": record["step"]}) for record in LOG if scalars(record)]
    assert calls[-1] == ("finish",)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir = made_run(tmp_path / "run", log=LOG)
    assert main(["track", str(run_dir.path), "--to", "tensorboard"]) == 0
    read = EventAccumulator(str(run_dir.path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(2, 2.25), (4, 2.0)]
    assert [(e.step, e.value) for e in read.Scalars("val/accuracy")] == [(4, 0.5)]
    assert main(["track", str(run_dir.path), "--to", "tensorboard"]) == 2


def test_a_table_replaces_what_stood_there(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("mine")
    table = CsvFile(tmp_path / "metrics.csv")
    table.write([])
    assert _rows(tmp_path / "metrics.csv") == []
    table.write(LOG)
    table.close()
    assert len(_rows(tmp_path / "metrics.csv")) == 3
