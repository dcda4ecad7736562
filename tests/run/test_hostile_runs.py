"""A run directory from a stranger: nothing outside it is touched, and what does not fit is one error."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.config import RunConfig, from_json, to_json
from vitrail.errors import ConfigError, RunError
from vitrail.run import RunDir, describe_environment, next_free_run, remove_unfinished, save_checkpoint
from vitrail.run.checkpoint import damage_of

TENSORS = {"model": {"w": torch.arange(6.0)}}


def test_a_link_in_place_of_the_checkpoints_is_refused_and_nothing_behind_it_goes(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "step-0000001.tmp-00aa").mkdir()
    save_checkpoint(tmp_path / "other", 5, TENSORS, {"step": 5}, keep=1)
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.checkpoints_dir.symlink_to(tmp_path / "other")
    for act in (
        run.check_own,
        lambda: remove_unfinished(run.checkpoints_dir),
        lambda: save_checkpoint(run.checkpoints_dir, 6, TENSORS, {"step": 6}, keep=1),
    ):
        with pytest.raises(RunError, match="link"):
            act()
    assert {p.name for p in (tmp_path / "other").iterdir()} == {"step-0000005", "step-0000001.tmp-00aa"}


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", ".lock-3", "checkpoints/step-0000001"])
def test_a_link_in_place_of_what_a_run_writes_is_refused(tmp_path: Path, name: str) -> None:
    run = RunDir(tmp_path / "run")
    run.start(RunConfig(), describe_environment(RunConfig(), torch.device("cpu")))
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="link"):
        run.check_own()


def test_the_run_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    run = RunDir(tmp_path / "run")
    run.start(RunConfig(), describe_environment(RunConfig(), torch.device("cpu")))
    run.check_own()


@pytest.mark.parametrize("name", ["../../x", "..", ".", "a/b", "/tmp/x", "a\n"])
def test_a_recipe_cannot_lead_out_of_the_runs(name: str) -> None:
    with pytest.raises(ConfigError, match="recipe is out of range"):
        RunConfig(recipe=name)
    with pytest.raises(ConfigError):
        next_free_run(name)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("compute", "num_threads", 100_000),
        ("data", "batch_size", 10**12),
        ("data", "image_size", 10**9),
        ("schedule", "epochs", 10**18),
        ("augment", "policy_ops", 10**9),
        ("probe", "num_neighbors", 10**400),
        ("optim", "lr", 10**400),
        ("optim", "lr", float("inf")),
        ("data", "mean", [0.5] * 1_000_000),
        ("data", "spec", "a\0b"),
        ("data", "root", "x" * 100_000),
    ],
)
def test_a_setting_without_measure_is_one_error(section: str, name: str, value: Any) -> None:
    values = to_json(RunConfig())
    values[section][name] = value
    with pytest.raises(ConfigError, match=f"{section}.{name}".replace("_", "[_-]")) as caught:
        from_json(RunConfig, values)
    assert len(str(caught.value)) < 4000


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, TENSORS, {"step": 5}, keep=1)
    assert not damage_of(path)
    renamed = path.rename(tmp_path / "step-0000009")
    assert "is of step 5" in damage_of(renamed)


def test_a_holder_of_a_lock_that_is_no_object_holds_nothing(tmp_path: Path) -> None:
    from vitrail.run.lock import hold_lock

    for content in ("[1]", "9" * 5000, json.dumps({"machine": None, "pid": "x"}), "[" * 100_000):
        (tmp_path / ".lock-1").write_text(content)
        assert RunDir(tmp_path).read_metrics() == []
    (tmp_path / ".lock-1").write_text("[1]")
    with hold_lock(tmp_path):
        pass
