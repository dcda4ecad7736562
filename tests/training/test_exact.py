"""A run that was killed, interrupted or damaged ends like the one that was not, to the last byte."""

import contextlib
import dataclasses
import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrail
from vitrail import data, fsio
from vitrail.errors import RunError, SaveError
from vitrail.run import RunDir
from vitrail.selftest.checks import EVERYTHING
from vitrail.selftest.fork_server import ForkServer
from vitrail.selftest.same_run import differences, model_content
from vitrail.selftest.tiny import tiny_run
from vitrail.training import loop
from vitrail.training.run import Run, State
from vitrail.training.step import TrainStep

# 12 steps in two epochs, with everything that has a state.
SECTIONS = EVERYTHING | {"checkpoint": {"every_steps": 2}}
JOBS = "tests.support.jobs"


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Path:
    """The run that nothing happened to."""
    path = tmp_path_factory.mktemp("whole") / "run"
    ended = server.run(f"{JOBS}:train_tiny", {"run": str(path), "sections": SECTIONS})
    assert ended.statuses == [0]
    return path


def _finished(server: ForkServer, run: Path) -> None:
    assert server.run(f"{JOBS}:train_tiny", {"run": str(run), "resume": True, "sections": SECTIONS}).statuses == [0]


def _kill_at_random(server: ForkServer, whole: Path, tmp_path: Path, points: int, seed: int) -> int:
    """Kill runs up to three times each at any moment; the number of kills that found the process alive."""
    draw = random.Random(seed)
    job = f"{JOBS}:train_tiny"
    length = server.run(job, {"run": str(tmp_path / "timing"), "sections": SECTIONS}).seconds
    killed = 0
    for number in itertools.count():
        run = tmp_path / str(number)
        for _ in range(draw.randint(1, 3)):
            after = draw.uniform(0.02, length)
            arguments = {"run": str(run), "resume": True, "sections": SECTIONS}
            ended = server.run(job, arguments, kill_after=after)
            assert ended.statuses in ([0], [-9])
            killed += ended.statuses == [-9]
        _finished(server, run)
        assert differences(whole, run) == [], f"run {number} after kills"
        shutil.rmtree(run)
        if killed >= points:
            return killed
    raise AssertionError


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_at_random_moments(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert _kill_at_random(server, whole, tmp_path, points=12, seed=0) >= 12


def test_killed_at_two_random_moments(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert _kill_at_random(server, whole, tmp_path, points=2, seed=2) >= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_three_hundred_random_moments(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert _kill_at_random(server, whole, tmp_path, points=300, seed=1) >= 300


def _die_at(server: ForkServer, whole: Path, tmp_path: Path, every: int | None) -> int:
    """Die before and after every n-th operation of a run's file system (of the one in the middle), and go on."""
    sections = SECTIONS | {"checkpoint": {"every_steps": 2, "asynchronous": False}}
    job, base = f"{JOBS}:train_and_die", {"sections": sections, "after": False}
    assert server.run(job, base | {"run": str(tmp_path / "count" / "run"), "at": -1}).statuses == [0]
    num_operations = int((tmp_path / "count" / "operations").read_text())
    places = range(0, num_operations, every) if every else [num_operations // 2]
    points = [(at, after) for at in places for after in (False, True)]
    for at, after in points:
        run = tmp_path / f"{at}-{after}"
        ended = server.run(job, base | {"run": str(run), "at": at, "after": after})
        assert ended.statuses == [9], (at, after)
        if not (run / "config.json").exists():  # it died before there was a run: the same command starts it
            assert RunDir(run).check_free() is None
        _finished(server, run)
        assert [d for d in differences(whole, run) if d != "config.json"] == [], (at, after)
        shutil.rmtree(run)
    return len(points)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_death_at_operations_of_a_whole_run(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert _die_at(server, whole, tmp_path, every=197) >= 6


@pytest.mark.long
@pytest.mark.timeout(600)
def test_death_before_there_is_a_run_leaves_a_directory_that_is_free(server: ForkServer, tmp_path: Path) -> None:
    sections = SECTIONS | {"schedule": SECTIONS["schedule"] | {"max_steps": 1}}
    seen: set[str] = set()
    for at in range(40):
        run = tmp_path / str(at)
        arguments = {"run": str(run), "at": at, "after": True, "sections": sections}
        assert server.run(f"{JOBS}:train_and_die", arguments).statuses == [9]
        if (run / "config.json").exists():
            break
        seen |= {path.name.split(".tmp-")[0] for path in run.iterdir()} if run.exists() else set()
        RunDir(run).check_free()
    assert {"checkpoints", "environment.json", ".config.json", ".environment.json", "..lock-1"} <= seen
    (tmp_path / "0").mkdir(exist_ok=True)
    (tmp_path / "0" / "environment.json.bak").write_text("mine")
    with pytest.raises(RunError, match="is not free"):
        RunDir(tmp_path / "0").check_free()


def test_death_in_the_middle_of_a_run(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert _die_at(server, whole, tmp_path, every=None) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_death_at_every_operation_of_a_whole_run(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    assert _die_at(server, whole, tmp_path, every=1) > 300


@pytest.mark.long
@pytest.mark.timeout(600)
def test_resumed_after_every_single_step_and_three_times_in_a_row(
    server: ForkServer, whole: Path, tmp_path: Path
) -> None:
    total = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    stops = [(step,) for step in range(1, total + 1)] + [(1, 2, 3), (3, 7, 10), (2, 5, total - 1)]
    _stop_and_go_on(server, whole, tmp_path, stops)


def test_stopped_twice_and_resumed(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    _stop_and_go_on(server, whole, tmp_path, [(3, 8)])


def _stop_and_go_on(server: ForkServer, whole: Path, tmp_path: Path, stops: list[tuple[int, ...]]) -> None:
    for steps in stops:
        run = tmp_path / "-".join(map(str, steps))
        for number, step in enumerate(steps):
            arguments = {"run": str(run), "at_step": step, "resume": number > 0, "sections": SECTIONS}
            assert server.run(f"{JOBS}:train_and_stop", arguments).statuses == [143], (steps, step)
        _finished(server, run)
        assert differences(whole, run) == [], steps


def test_a_damaged_checkpoint_is_passed_over_and_said(
    server: ForkServer, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    sections = SECTIONS | {
        "checkpoint": {"every_steps": 2, "keep": 3},
        "schedule": SECTIONS["schedule"] | {"max_steps": 8},
    }
    server.run(f"{JOBS}:train_tiny", {"run": str(run), "sections": sections})
    newest = run / "checkpoints" / "step-0000008"
    data = bytearray((newest / "ema.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "ema.safetensors").write_bytes(data)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        vitrail.train(tiny_run(**SECTIONS), run, resume=True, progress=True)
    finally:
        torch.set_num_threads(threads)
    shown = capsys.readouterr().err
    assert "step-0000008 refused: ema.safetensors has another SHA-256" in shown
    assert "step-0000006 verified (SHA-256): the run goes on from step 6, bit-exactly" in shown
    assert (run / "checkpoints" / "refused-step-0000008").is_dir()
    assert model_content(run / "last.safetensors") == model_content(whole / "last.safetensors")
    resumed = RunDir(run).read_environment()["resumed"]
    assert [(entry["step"], entry["exact"]) for entry in resumed] == [(6, True)]


def test_another_number_of_threads_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vitrail.train(tiny_run(schedule={"max_steps": 3}, compute={"num_threads": 1}), tmp_path / "run")
    vitrail.train(tiny_run(compute={"num_threads": 2}), tmp_path / "run", resume=True, progress=True)
    assert "not bit-exact: threads: 1 before, 2 now" in capsys.readouterr().err
    entry = RunDir(tmp_path / "run").read_environment()["resumed"][0]
    assert not entry["exact"]
    assert entry["reasons"] == ["threads: 1 before, 2 now"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_stops_the_run_or_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asynchronous: bool
) -> None:
    class Full(fsio.FileSystem):
        def replace(self, source: Path, target: Path) -> None:
            if target.name == "step-0000006":
                raise OSError(28, "No space left on device")
            super().replace(source, target)

    sections = {"checkpoint": {"every_steps": 6, "asynchronous": asynchronous, "keep": 9}}
    with fsio.use_file_system(Full()), pytest.raises(SaveError, match="No space left"):
        vitrail.train(tiny_run(**sections), tmp_path / "stop")
    sections["checkpoint"]["on_error"] = "retry"
    with fsio.use_file_system(Full()):
        result = vitrail.train(tiny_run(**sections), tmp_path / "retry")
    assert result.steps == 24
    assert "training goes on and saves again later" in capsys.readouterr().err
    kept = sorted(p.name for p in (tmp_path / "retry" / "checkpoints").iterdir())
    assert kept == ["step-0000012", "step-0000018", "step-0000024"], "all but the one that the disk had no room for"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("failing", "kept"), [((6,), 12), ((12,), 12), ((6, 12), 0)])
def test_a_save_that_fails_takes_no_other_one_with_it(
    tmp_path: Path, asynchronous: bool, failing: tuple[int, ...], kept: int
) -> None:
    """Saves at steps 6 and 12, the last; the last one is tried twice."""

    class Failing(fsio.FileSystem):
        def __init__(self) -> None:
            self.left = {f"step-{step:07}": 2 if kept == 0 else 1 for step in failing}

        def replace(self, source: Path, target: Path) -> None:
            if self.left.get(target.name):
                self.left[target.name] -= 1
                raise OSError(28, "No space left on device")
            super().replace(source, target)

    config = tiny_run(
        checkpoint={"every_steps": 6, "asynchronous": asynchronous, "on_error": "retry", "keep": 2},
        schedule={"max_steps": 12}, evaluation={"every_epochs": 0},
    )  # fmt: skip
    with fsio.use_file_system(Failing()), contextlib.nullcontext() if kept else pytest.raises(SaveError):
        vitrail.train(config, tmp_path / "run")
    names = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.startswith("step")]
    assert (f"step-{kept:07}" in names) == bool(kept)
    assert ("step-0000006" in names) == (6 not in failing)


# ---- numbers that are not finite ---------------------------------------------------------------------------------


def _spoil(monkeypatch: pytest.MonkeyPatch, layer: str, steps: set[int], *, backward: bool) -> None:
    """Make the output, or the gradient, of a layer NaN in some steps."""
    build, call = TrainStep.__init__, TrainStep.__call__
    now = {"step": -1}

    def built(self: TrainStep, model: Any, *args: Any, **kwargs: Any) -> None:
        build(self, model, *args, **kwargs)

        def forward_hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            if now["step"] not in steps:
                return None
            if not backward:
                return output * torch.nan
            output.register_hook(lambda grad: grad * torch.nan)
            return None

        dict(model.named_modules())[layer].register_forward_hook(forward_hook)

    def called(self: TrainStep, images: Any, targets: Any, step: int, *args: Any, **kwargs: Any) -> torch.Tensor:
        now["step"] = step
        return call(self, images, targets, step, *args, **kwargs)

    monkeypatch.setattr(TrainStep, "__init__", built)
    monkeypatch.setattr(TrainStep, "__call__", called)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("layer", ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.1.mlp.fc2", "head"])
def test_a_step_that_is_not_finite_is_skipped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str, backward: bool
) -> None:
    _spoil(monkeypatch, layer, {4, 5, 9}, backward=backward)
    vitrail.train(tiny_run(optim={"ema_decay": 0.9}), tmp_path / "run")
    found = [record for record in RunDir(tmp_path / "run").read_metrics() if "skipped" in record]
    assert [record["step"] for record in found] == [5, 6, 10]
    for record in found:
        named = record["skipped"][0]
        assert named["rank"] == 0
        assert len(named["ids"]) == 128
        if not backward:
            assert named["where"] == f"the output of {layer}"
        else:
            assert named["where"].startswith("the gradient of ")
    for name in ("best", "last"):
        model, _ = vitrail.load(tmp_path / "run" / f"{name}.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def test_a_weight_that_is_not_finite_stops_the_run_with_the_last_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop.take_step

    def spoilt(run: Run, state: State, batch: data.Batch) -> loop.Done:
        if state.step == 7:
            with torch.no_grad():
                run.train_step.model.blocks[1].mlp.fc1.weight[3, 2] = torch.inf
        return step(run, state, batch)

    monkeypatch.setattr(loop, "take_step", spoilt)
    config = tiny_run(checkpoint={"every_steps": 3})
    with pytest.raises(RunError, match=r"3 steps in a row.*step 10\.\n.*the weight blocks.1.mlp.fc1.weight"):
        vitrail.train(config, tmp_path / "run")
    kept = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert kept == ["step-0000006"]
    monkeypatch.setattr(loop, "take_step", step)
    vitrail.train(config, tmp_path / "run", resume=True)
    vitrail.train(config, tmp_path / "whole")
    assert differences(tmp_path / "whole", tmp_path / "run") == []


def test_a_learning_rate_that_ruins_the_weights_leaves_no_ruined_file(tmp_path: Path) -> None:
    config = tiny_run(optim={"name": "sgd", "lr": 1e30}, schedule={"warmup_fraction": 0.0})
    with pytest.raises(RunError):
        vitrail.train(dataclasses.replace(config), tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert not (tmp_path / "run" / "last.safetensors").exists()
