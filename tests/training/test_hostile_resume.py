"""A run directory whose hashes are right and whose content is not that of the run: refused, and nothing changes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.support.hostile_runs import make_runs, sign
from vitrail.errors import RunError
from vitrail.run import RunDir
from vitrail.training import train

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "seeds"
    make_runs(folder)
    return folder


def refused(run: Path) -> str:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        train(RunDir(run).read_config(), run, resume=True)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    logs = {run / "metrics.jsonl", run / "timing.jsonl"}
    assert {p for p in before if before[p] != after.get(p)} <= logs | {p for p in before if ".lock" in p.name}
    return str(caught.value)


def _double(name: str) -> Change:
    return lambda tensors: tensors.update({name: tensors[name].double()})


def _wider(name: str) -> Change:
    return lambda tensors: tensors.update({name: torch.cat((tensors[name], tensors[name]))})


@pytest.mark.parametrize(
    ("seed", "file", "change", "message"),
    [
        ("interrupted", "model", _double("cls_token"), "tensor cls_token of the model is not that of this run"),
        ("interrupted", "model", _wider("norm.bias"), "tensor norm.bias of the model is not that of this run"),
        ("interrupted", "model", lambda t: t.pop("norm.bias"), "tensor norm.bias of the model"),
        ("interrupted", "model", lambda t: t.update(x=torch.zeros(1)), "tensor x of the model"),
        ("interrupted", "ema", _double("cls_token"), "tensor cls_token of the ema"),
        ("interrupted", "optim", _double("0.0.exp_avg"), "tensor 0.0.exp_avg of the optim"),
        ("interrupted", "optim", _wider("1.0.momentum"), "tensor 1.0.momentum of the optim"),
        ("interrupted", "optim", lambda t: t.pop("0.0.exp_avg"), "tensor 0.0 of the optim"),
        ("interrupted", "optim", lambda t: t.update({"7.0.step": torch.zeros(())}), "tensor 7.0.step of the optim"),
        ("interrupted", "optim", lambda t: t.update({"x\x1b[2J": torch.zeros(())}), "of the optim"),
        ("interrupted", "optim", lambda t: t.update({"": torch.zeros(())}), "tensor  of the optim"),
        ("fine-tuned", "optim", lambda t: t.update({"0.0.step": torch.zeros(())}), "tensor 0.0.step of the optim"),
        ("interrupted", "state", lambda s: s.update(step=3), "disagree"),
        ("interrupted", "state", lambda s: s.update(best_step=9), "contradict"),
        ("interrupted", "state", lambda s: s.update(best={}), "contradict"),
        ("interrupted", "state", lambda s: s.update(num_examples_seen=-1), "contradict"),
        ("interrupted", "state", lambda s: s.update(final={"accuracy": 0.5}), "contradict"),
        ("interrupted", "state", lambda s: s.update(best=[]), "is not that of a run"),
        ("interrupted", "state", lambda s: s.update(train_seconds="1"), "is not that of a run"),
        ("interrupted", "state", lambda s: s.update(scaler={"scale": "x"}), "contradict"),
        ("interrupted", "state", lambda s: s.update(more=1), "is not that of a run"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    runs: Path, tmp_path: Path, seed: str, file: str, change: Change, message: str
) -> None:
    run = shutil.copytree(runs / seed, tmp_path / "run")
    checkpoint = next((run / "checkpoints").iterdir())
    if file == "state":
        values = json.loads((checkpoint / "state.json").read_text())
        change(values)
        (checkpoint / "state.json").write_text(json.dumps(values))
    else:
        tensors = safetensors.torch.load_file(checkpoint / f"{file}.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, checkpoint / f"{file}.safetensors")
    sign(checkpoint)
    text = refused(run)
    assert any(part in text for part in message.split("|")), text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("environment.json", lambda v: v.update(data=[]), "data has a wrong value"),
        ("environment.json", lambda v: v["data"].update(train=3), "data has a wrong value"),
        ("environment.json", lambda v: v["data"]["train"].update(fingerprint=3), "data has a wrong value"),
        ("environment.json", lambda v: v["init"].update(audit_lines=3), "audit_lines has a wrong value"),
        ("environment.json", lambda v: v.update(resumed=[3]), "resumed has a wrong value"),
        ("environment.json", lambda v: v.pop("data"), "is not the one that this run was started with"),
    ],
)
def test_an_environment_of_another_kind_is_refused(
    runs: Path, tmp_path: Path, name: str, change: Change, message: str
) -> None:
    run = shutil.copytree(runs / "fine-tuned", tmp_path / "run")
    values = json.loads((run / name).read_text())
    change(values)
    (run / name).write_text(json.dumps(values))
    assert message in refused(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("num_correct"), "num_correct has a wrong value"),
        (lambda v: v.update(num_examples=True), "num_examples has a wrong value"),
        (lambda v: v.update(accuracy=float("nan")), "NaN is no finite number"),
        (lambda v: v.update(accuracy=2), "accuracy has a wrong value"),
        (lambda v: v.update(test=3), "test: is no JSON object"),
        (lambda v: v.update(test={}), "test: num_correct has a wrong value"),
    ],
)
def test_an_evaluation_of_another_kind_is_refused(runs: Path, tmp_path: Path, change: Change, message: str) -> None:
    run = shutil.copytree(runs / "finished", tmp_path / "run")
    values = RunDir(run).read_evaluation()
    change(values)
    (run / "evaluation.json").write_text(json.dumps(values))
    with pytest.raises(RunError) as caught:
        RunDir(run).read_evaluation()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"step": 0, "baseline": {"knn": 0.5}}, "baseline: split has a wrong value|num_examples has a wrong value"),
        ({"step": 0, "baseline": []}, "line 1: baseline has a wrong value"),
        ({"step": 0, "loss": "x"}, "line 1: loss has a wrong value"),
        ({"step": 0, "accuracy": 3}, "line 1: accuracy has a wrong value"),
    ],
)
def test_a_log_of_another_kind_is_refused(tmp_path: Path, line: dict[str, Any], message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(RunError) as caught:
        RunDir(tmp_path).read_baseline()
    assert any(part in str(caught.value) for part in message.split("|")), caught.value


@pytest.mark.parametrize("target", ["nothing", "optim.safetensors"])
def test_a_link_that_leads_nowhere_in_a_checkpoint_is_refused(runs: Path, tmp_path: Path, target: str) -> None:
    run = shutil.copytree(runs / "interrupted", tmp_path / "run")
    file = next((run / "checkpoints").iterdir()) / "optim.safetensors"
    file.unlink()
    file.symlink_to(target)
    assert "optim.safetensors is no regular file" in refused(run)


def test_a_checkpoint_of_very_many_tensors_is_refused_before_they_are_made(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "finished", tmp_path / "run")
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    entry = json.dumps({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})
    text = ("{" + ",".join(f'"{i}":{entry}' for i in range(40_000)) + "}").encode()
    (checkpoint / "optim.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    sign(checkpoint)
    assert "40000 tensors, more than 30000" in refused(run)
