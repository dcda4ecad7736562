"""The run directory and its checkpoints."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.config import RunConfig
from vitrail.errors import ConfigError, RunError
from vitrail.run import RunDir, describe_environment, load_checkpoint, newest_checkpoint, save_checkpoint
from vitrail.selftest.tiny import tiny_run

TENSORS = {"model": {"w": torch.arange(6.0).view(2, 3)}, "optim": {"0.0.step": torch.tensor(5.0)}}
ENVIRONMENT = describe_environment(RunConfig(), torch.device("cpu"))
STATE = {"step": 5, "best": {"accuracy": 0.5}}


def test_a_run_starts_in_a_new_or_empty_directory(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "a")
    run.start(RunConfig(seed=3), ENVIRONMENT)
    assert run.read_config() == RunConfig(seed=3)
    assert json.loads((run.path / "environment.json").read_text()) == ENVIRONMENT.to_json()
    with pytest.raises(RunError, match="holds a run already"):
        run.start(RunConfig(), ENVIRONMENT)


def test_other_files_are_not_trodden_on(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not free"):
        RunDir(tmp_path).start(RunConfig(), ENVIRONMENT)
    with pytest.raises(RunError, match="not free"):
        RunDir(tmp_path / "thesis.txt").start(RunConfig(), ENVIRONMENT)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_config_that_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        RunDir(tmp_path).read_config()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="not JSON"):
        RunDir(tmp_path).read_config()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="lacks the field"):
        RunDir(tmp_path).read_config()


def test_a_mistyped_run_names_the_one_beside_it(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"Did you mean .*/mine\?"):
        RunDir(tmp_path / "mien").read_config()
    with pytest.raises(RunError, match="simply started again"):
        RunDir(tmp_path / "othr").read_config()


def test_metrics_are_cut_back_to_a_step(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_metrics() == []
    for step in (1, 2, 3):
        run.log({"step": step, "loss": 0.5})
    run.cut_metrics(2)
    assert [record["step"] for record in run.read_metrics()] == [1, 2]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log({"step": 1, "loss": 0.5})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert [record["step"] for record in run.read_metrics()] == [1]
    run.cut_metrics(5)
    run.log({"step": 2, "loss": 0.5})
    assert [record["step"] for record in run.read_metrics()] == [1, 2]


def test_settings_that_are_no_json_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        RunDir(tmp_path / "run").start(RunConfig(), replace(ENVIRONMENT, linear={"seconds": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, TENSORS, STATE, keep=1)
    assert path.name == "step-0000005"
    assert newest_checkpoint(tmp_path) == (path, [])
    found = load_checkpoint(path)
    assert found.state == STATE
    assert torch.equal(found.tensors["model"]["w"], TENSORS["model"]["w"])
    assert torch.equal(found.tensors["optim"]["0.0.step"], TENSORS["optim"]["0.0.step"])


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (5, 40, 300, 12_000_000):
        save_checkpoint(tmp_path, step, TENSORS, STATE, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000300", "step-12000000"]
    assert newest_checkpoint(tmp_path)[0] == tmp_path / "step-12000000"
    save_checkpoint(tmp_path, 41, TENSORS, STATE, keep=1)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["step-0000041", "step-0000300", "step-12000000"], "what is newer is not this run's to remove"


def test_unfinished_checkpoints_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / "step-0000009.tmp-abc").mkdir()
    assert newest_checkpoint(tmp_path) == (None, [])


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, TENSORS, STATE, keep=1)
    for name in ("model.safetensors", "optim.safetensors", "state.json"):
        whole = (path / name).read_bytes()
        for position in (0, len(whole) // 2, len(whole) - 1):
            flipped = bytearray(whole)
            flipped[position] ^= 1
            (path / name).write_bytes(flipped)
            with pytest.raises(RunError, match=name):
                load_checkpoint(path)
        (path / name).write_bytes(whole)
    load_checkpoint(path)
    (path / "optim.safetensors").unlink()
    with pytest.raises(RunError, match=r"optim.safetensors: No such file"):
        load_checkpoint(path)


def test_the_best_one_stays_as_well_when_asked(tmp_path: Path) -> None:
    tensors = {"model": {"w": torch.zeros(2)}}
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step, tensors, {"step": step}, keep=1, best_step=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000010", "step-0000030"]
    save_checkpoint(tmp_path, 40, tensors, {"step": 40}, keep=1, best_step=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000030", "step-0000040"]


def test_the_best_checkpoint_of_a_run_has_epoch_accuracy_weights_and_optimiser(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    sections = {"checkpoint": {"keep_best": True}, "evaluation": {"every_epochs": 1}, "optim": {"lr": 3e-2}}
    result = vitrail.train(tiny_run(**sections, schedule={"epochs": 4}), run.path)
    kept = [load_checkpoint(path) for path in sorted(run.checkpoints_dir.iterdir())]
    best = next(c for c in kept if c.state["step"] == c.state["best_step"])
    assert best.state["best"] == vars(result.best)
    assert {"epoch", "accuracy", "loss"} <= best.state["best"].keys()
    model, _ = vitrail.load(run.best_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(best.tensors["model"][name], tensor)
    assert any(name.endswith("exp_avg") or "momentum" in name for name in best.tensors["optim"])
