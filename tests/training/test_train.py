"""A run from start to end: what it writes, how it goes on, what it refuses."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vitrail
from vitrail import data, fsio
from vitrail.config import RunConfig
from vitrail.errors import ConfigError, DataError, Interrupted, RunError, SaveError
from vitrail.run import RunDir, check_resumable
from vitrail.selftest.tiny import tiny_run


def _same_files(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    return vitrail.load(path)[0].state_dict()


def _assert_same_weights(a: Path, b: Path) -> None:
    ours, theirs = _tensors(a), _tensors(b)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def _metrics(run: Path) -> list[dict[str, Any]]:
    return RunDir(run).read_metrics()


def test_a_run_leaves_everything_the_interface_promises(tmp_path: Path) -> None:
    config = tiny_run(evaluation={"split": "val", "every_epochs": 1}, schedule={"epochs": 3})
    result = vitrail.train(config, tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json", "environment.json", "metrics.jsonl", "checkpoints", "best.safetensors", "last.safetensors",
        "evaluation.json", "timing.jsonl", ".lock-1", "predictions-val.safetensors",
    }  # fmt: skip
    assert result.steps == 3 * -(-result.num_examples_seen // 3 // 128)
    evaluations = [record for record in _metrics(tmp_path / "run") if "accuracy" in record]
    assert [record["epoch"] for record in evaluations] == [1, 2, 3]
    best = max(evaluations, key=lambda record: (record["accuracy"], -record["loss"]))
    assert vars(result.best) == {key: best[key] for key in ("epoch", "accuracy", "loss")}
    assert vars(result.final) == {key: evaluations[-1][key] for key in ("epoch", "accuracy", "loss")}
    assert result.evaluation["accuracy"] == result.best.accuracy
    _, card = vitrail.load(result.model)
    assert card.classes == tuple(map(str, range(10)))
    assert card.metrics["accuracy"] == result.best.accuracy
    assert card.provenance["kind"] == "plain ViT"
    assert json.loads(json.dumps(result.to_json()))["model"].endswith("best.safetensors")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["deterministic"]["weights"]
    assert set(environment["data"]) == {"train", "val"}


def test_the_loss_falls_and_the_model_beats_chance(tmp_path: Path) -> None:
    result = vitrail.train(tiny_run(schedule={"epochs": 12}, optim={"lr": 5e-3}), tmp_path / "run")
    losses = [record["loss"] for record in _metrics(tmp_path / "run") if "lr" in record]
    assert losses[-1] < 0.8 * losses[0]
    assert result.evaluation["accuracy"] > 0.4


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        vitrail.train(dataclasses.replace(tiny_run(), seed=seed), tmp_path / name)
    _assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert _metrics(tmp_path / "a") == _metrics(tmp_path / "b") != _metrics(tmp_path / "c")


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.long)])
def test_a_run_interrupted_in_mid_epoch_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    augment = {"mixup": 0.2, "cutmix": 1.0, "erasing": 0.2}
    schedule = {"epochs": 2, "progressive_scales": (0.5,), "progressive_until": (0.4,)}
    optim = {"name": optimizer, "ema_decay": 0.9}
    config = tiny_run(evaluation={"every_epochs": 1}, optim=optim, augment=augment, schedule=schedule)
    whole = vitrail.train(config, tmp_path / "whole")

    log = RunDir.log
    for at_step in (5, 14):  # in the first epoch, then in the second, of 12 steps each

        def log_and_interrupt(self: RunDir, record: dict[str, Any], at_step: int = at_step) -> None:
            log(self, record)
            if record["step"] == at_step and "lr" in record:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(RunDir, "log", log_and_interrupt)
        with pytest.raises(Interrupted, match="--resume") as caught:
            vitrail.train(config, tmp_path / "parts", resume=at_step != 5)
        assert caught.value.exit_status == 143
    monkeypatch.setattr(RunDir, "log", log)
    parts = vitrail.train(config, tmp_path / "parts", resume=True)

    for name in ("best.safetensors", "last.safetensors"):
        _assert_same_weights(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert _same_files(tmp_path / "whole" / "evaluation.json", tmp_path / "parts" / "evaluation.json")
    assert _same_files(tmp_path / "whole" / "metrics.jsonl", tmp_path / "parts" / "metrics.jsonl")
    for name in ("best.safetensors", "last.safetensors"):
        assert _same_files(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert (parts.steps, parts.num_examples_seen) == (whole.steps, whole.num_examples_seen)


def test_the_handlers_of_signals_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    vitrail.train(tiny_run(), tmp_path / "run")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_max_steps_stops_early_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    vitrail.train(tiny_run(), tmp_path / "whole")
    first = vitrail.train(tiny_run(schedule={"max_steps": 5}), tmp_path / "parts")
    assert first.steps == 5
    vitrail.train(tiny_run(), tmp_path / "parts", resume=True)
    _assert_same_weights(tmp_path / "whole" / "last.safetensors", tmp_path / "parts" / "last.safetensors")


def test_resuming_a_finished_run_gives_its_result_again(tmp_path: Path) -> None:
    first = vitrail.train(tiny_run(), tmp_path / "run")
    assert vitrail.train(tiny_run(), tmp_path / "run", resume=True) == first


def test_checkpoints_every_few_steps_keep_the_newest(tmp_path: Path) -> None:
    vitrail.train(tiny_run(checkpoint={"every_steps": 3, "keep": 2}), tmp_path / "run")
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-0000021", "step-0000024"]


def test_accumulation_sees_the_same_batches(tmp_path: Path) -> None:
    model = {"projection_dropout": 0.0}
    vitrail.train(tiny_run(model=model), tmp_path / "whole")
    vitrail.train(tiny_run(model=model, compute={"accumulation_steps": 3}), tmp_path / "parts")
    ours, theirs = (_metrics(tmp_path / name) for name in ("whole", "parts"))
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], abs=1e-3)


def test_a_used_directory_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("x")
    with pytest.raises(RunError, match="not free"):
        vitrail.train(tiny_run(data={"spec": "/does/not/exist"}), tmp_path / "run")


def test_missing_data_leaves_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        vitrail.train(tiny_run(data={"spec": str(tmp_path / "nothing")}), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_resume_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        vitrail.train(tiny_run(), tmp_path / "run", resume=True)


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    whole = vitrail.train(tiny_run(), tmp_path / "whole")
    vitrail.train(tiny_run(), tmp_path / "early")
    for checkpoint in (tmp_path / "early" / "checkpoints").iterdir():
        fsio.remove(checkpoint)
    again = vitrail.train(tiny_run(), tmp_path / "early", resume=True)
    assert again.evaluation == whole.evaluation
    assert _metrics(tmp_path / "early") == _metrics(tmp_path / "whole")


def test_resume_refuses_other_data(tmp_path: Path) -> None:
    vitrail.train(tiny_run(schedule={"max_steps": 3}), tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    environment["data"]["train"]["fingerprint"] = "0" * 64
    fsio.write_json(tmp_path / "run" / "environment.json", environment)
    with pytest.raises(RunError, match="train split is not the one"):
        vitrail.train(tiny_run(), tmp_path / "run", resume=True)


def test_the_number_of_threads_is_put_back(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    vitrail.train(tiny_run(compute={"num_threads": threads + 1}, schedule={"max_steps": 1}), tmp_path / "run")
    assert torch.get_num_threads() == threads


def test_an_unreadable_training_image_is_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = data.load(tiny_run().data, ("test",))["test"]
    for i in range(60):
        folder = tmp_path / "data" / digits.classes[digits.labels[i]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[i, 0]).save(folder / f"{i}.png")
    (tmp_path / "data" / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    config = tiny_run(
        data={"spec": str(tmp_path / "data"), "batch_size": 16, "validation_fraction": 0.3},
        evaluation={"split": "val"}, schedule={"epochs": 1, "warmup_fraction": 0.0},
    )  # fmt: skip
    result = vitrail.train(config, tmp_path / "run", progress=True)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    errors = [e["path"] for split in environment["data"].values() for e in split["errors"]]
    assert [Path(path).name for path in errors] == ["broken.png"]
    shown = capsys.readouterr().err
    assert ("skipped in training" in shown) == (environment["data"]["train"]["errors"] != [])
    assert result.num_examples_seen == environment["data"]["train"]["num_examples"]


def test_resuming_a_finished_run_says_so_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = vitrail.train(tiny_run(), tmp_path / "run")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("metrics.jsonl", "last.safetensors")}
    again = vitrail.train(tiny_run(), tmp_path / "run", resume=True, progress=True)
    shown = capsys.readouterr().err
    assert "the run is finished: 24 of 24 steps are done" in shown
    assert "--schedule.epochs above 2" in shown
    assert "goes on" not in shown
    assert (again.steps, again.best) == (first.steps, first.best)
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}
    vitrail.train(tiny_run(schedule={"max_steps": 12}), tmp_path / "part")
    vitrail.train(tiny_run(schedule={"max_steps": 12}), tmp_path / "part", resume=True, progress=True)
    assert "--resume --schedule.max-steps 0" in capsys.readouterr().err


@pytest.mark.long
def test_a_finished_run_can_be_made_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From where it stands on, the learning rate is that of the longer schedule."""
    vitrail.train(tiny_run(), tmp_path / "run")
    longer = tiny_run(schedule={"epochs": 4})
    result = vitrail.train(longer, tmp_path / "run", resume=True, progress=True)
    assert "longer: 48 steps instead of 24; from step 24 on" in capsys.readouterr().err
    assert (result.steps, result.epochs) == (48, 4)
    run_dir = RunDir(tmp_path / "run")
    assert run_dir.read_config() == longer
    rates = {record["step"]: record["lr"] for record in run_dir.read_metrics() if "lr" in record}
    shorter = {r["step"]: r["lr"] for r in _whole(tmp_path / "two", tiny_run()) if "lr" in r}
    whole = {r["step"]: r["lr"] for r in _whole(tmp_path / "four", longer) if "lr" in r}
    assert rates == {**shorter, **{step: rate for step, rate in whole.items() if step > 24}}

    with pytest.raises(ConfigError, match="longer, not shorter"):
        vitrail.train(tiny_run(), tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="longer, not shorter"):
        vitrail.train(tiny_run(schedule={"epochs": 4, "steps": 47}), tmp_path / "run", resume=True)
    assert vitrail.train(longer, tmp_path / "run", resume=True).steps == 48


def _whole(path: Path, config: RunConfig) -> list[dict[str, Any]]:
    vitrail.train(config, path)
    return RunDir(path).read_metrics()


def test_a_probe_is_finished_in_one_go(tmp_path: Path) -> None:
    vitrail.train(tiny_run(), tmp_path / "run")
    config = tiny_run(init={"weights": str(tmp_path / "run")}, probe={"method": "knn"})
    vitrail.train(config, tmp_path / "probe")
    with pytest.raises(RunError, match="is finished"):
        vitrail.train(config, tmp_path / "probe", resume=True)


def test_resume_refuses_settings_that_change_the_result() -> None:
    stored = tiny_run()
    with pytest.raises(ConfigError, match="compute.precision differs"):
        check_resumable(tiny_run(compute={"precision": "fp16"}), stored)
    check_resumable(tiny_run(schedule={"max_steps": 3}, compute={"num_threads": 1}), stored)
    with pytest.raises(ConfigError, match="optim.lr differs"):
        check_resumable(tiny_run(optim={"lr": 1.0}), stored)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    config = tiny_run(optim={"name": "sgd", "lr": 1e12}, schedule={"warmup_fraction": 0.0})
    with pytest.raises(RunError, match="3 steps in a row had no finite gradient"):
        vitrail.train(config, tmp_path / "run")


def test_a_disk_that_fills_up_keeps_what_was_saved(tmp_path: Path) -> None:
    class Full(fsio.FileSystem):
        def replace(self, source: Path, target: Path) -> None:
            if target.name == "step-0000024":
                raise OSError(28, "No space left on device")
            super().replace(source, target)

    with fsio.use_file_system(Full()), pytest.raises(SaveError, match="No space left"):
        vitrail.train(tiny_run(), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000012"]
    resumed = vitrail.train(tiny_run(), tmp_path / "run", resume=True)
    assert resumed.steps == 24


def test_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = vitrail.train(tiny_run()), vitrail.train(tiny_run())
    assert (str(first.run), str(second.run)) == ("runs/digits", "runs/digits-2")
