"""Whose matrix products train a run: measured on its own shapes, kept, and the same again when it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrail
from tests.support.random_vit import random_vit
from vitrail import fsio
from vitrail.config import ComputeConfig, OptimConfig
from vitrail.errors import SaveError
from vitrail.run import RunDir, load_checkpoint, newest_checkpoint
from vitrail.selftest.same_run import differences
from vitrail.selftest.tiny import tiny_run
from vitrail.training import linear_kernels
from vitrail.training.linear_kernels import LinearKernels, Shape, choose_linear_kernels, from_settings, linear_shapes
from vitrail.training.onednn_linear import has_onednn_linear
from vitrail.training.optim import build_optimizers
from vitrail.training.step import TrainStep

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(not has_onednn_linear(), reason="torch without oneDNN")


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[int]]:
    """Makes every model worth a measurement, in a cache folder of its own, and decides what a clock would say."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(linear_kernels, "WORTH_MEASURING", 0)
    count: list[int] = []

    def wins(name: str) -> list[int]:
        times = {False: 1.0, True: {"onednn": 0.9, "mkl": 1.1, "nobody": 0.99}[name]}

        def seconds(*args: Any) -> float:
            count.append(1)
            return times[args[-1]]

        monkeypatch.setattr(linear_kernels, "_seconds", seconds)
        return count

    return wins


def test_what_settings_decide_is_not_measured() -> None:
    assert from_settings(ComputeConfig(), torch.device("cuda")) == LinearKernels("", "no CPU")
    for compute in (ComputeConfig(cpu_linear="mkl"), ComputeConfig(compile=True, cpu_linear="onednn")):
        assert getattr(from_settings(compute, CPU), "by", None) == "mkl"


@needs_onednn
def test_with_onednn_there_is_something_to_measure() -> None:
    assert from_settings(ComputeConfig(), CPU) is None
    assert getattr(from_settings(ComputeConfig(cpu_linear="onednn"), CPU), "by", None) == "onednn"


@needs_onednn
@pytest.mark.parametrize(("winner", "by"), [("onednn", "onednn"), ("mkl", "mkl"), ("nobody", "mkl")])
def test_the_faster_one_is_chosen_once_a_machine(faster: Callable[[str], list[int]], winner: str, by: str) -> None:
    count = faster(winner)
    model = random_vit()
    found = choose_linear_kernels(ComputeConfig(), model, 8)
    assert (found.by, found.why) == (by, "measured")
    measured = len(count)
    assert measured > 0
    faster("mkl" if winner == "onednn" else "onednn")  # the next time a clock would say something else
    assert choose_linear_kernels(ComputeConfig(), model, 8) == found
    assert len(count) == measured
    choose_linear_kernels(ComputeConfig(), model, 16)  # other shapes
    assert len(count) > measured


@needs_onednn
def test_where_it_cannot_be_kept_torch_multiplies(
    faster: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    faster("onednn")

    def refuse(path: Path, data: bytes) -> bool:
        raise SaveError("full")

    monkeypatch.setattr(fsio, "create_exclusively", refuse)
    assert choose_linear_kernels(ComputeConfig(), random_vit(), 8).by == "mkl"


@needs_onednn
def test_of_two_processes_that_measure_the_first_one_counts(
    faster: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    faster("onednn")
    create = fsio.create_exclusively

    def late(path: Path, data: bytes) -> bool:
        create(path, data.replace(b'"onednn"', b'"mkl"'))
        return create(path, data)

    monkeypatch.setattr(fsio, "create_exclusively", late)
    assert choose_linear_kernels(ComputeConfig(), random_vit(), 8).by == "mkl"


@needs_onednn
def test_a_damaged_note_is_measured_again(faster: Callable[[str], list[int]], tmp_path: Path) -> None:
    faster("onednn")
    choose_linear_kernels(ComputeConfig(), random_vit(), 8)
    (note,) = (tmp_path / "cache" / "vitrail" / "products").iterdir()
    note.write_bytes(note.read_bytes()[:20])
    assert choose_linear_kernels(ComputeConfig(), random_vit(), 8).by == "onednn"
    assert b"onednn" in note.read_bytes()


@needs_onednn
def test_small_models_are_never_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_kernels, "measure", lambda shapes: pytest.fail("measured"))
    assert choose_linear_kernels(ComputeConfig(), random_vit(), 128).by == "mkl"


def test_the_measurement_is_of_the_runs_own_layers_and_changes_nothing() -> None:
    model = random_vit(num_hidden_layers=3, projection_dropout=0.2).train()
    model.blocks[0].requires_grad_(False)
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.random.get_rng_state()
    shapes = linear_shapes(model, 8)
    found = linear_kernels.measure(shapes)
    assert found.mkl_seconds > 0
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    width, rows = model.config.hidden_size, 8 * (model.config.grid[0] * model.config.grid[1] + 1)
    assert shapes[Shape(rows, width, 3 * width, True, True, True)] == 2
    assert shapes[Shape(rows, width, 3 * width, True, True, False)] == 1  # frozen, behind tokens that move
    assert shapes[Shape(8, width, model.config.num_labels, True, True, True)] == 1


@needs_onednn
def test_a_step_multiplies_as_it_was_told() -> None:
    model, optim = random_vit(), OptimConfig()
    optimizers = build_optimizers(model, optim)
    assert TrainStep(model, optimizers, optim, ComputeConfig(), seed=0).linear == "mkl"
    assert TrainStep(model, optimizers, optim, ComputeConfig(cpu_linear="onednn"), seed=0).linear == "onednn"
    assert TrainStep(model, optimizers, optim, ComputeConfig(), seed=0, linear="onednn").linear == "onednn"


@pytest.mark.long
@needs_onednn
def test_a_run_goes_on_with_the_products_that_it_began_with(
    faster: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faster("onednn")
    sections: dict[str, Any] = {"compute": {"num_threads": 1}, "evaluation": {"every_epochs": 1}}
    config = tiny_run(**sections)
    vitrail.train(config, tmp_path / "whole")
    vitrail.train(tiny_run(**sections, schedule={"max_steps": 12}), tmp_path / "parts")
    described = RunDir(tmp_path / "whole").read_environment()["linear"]
    assert (described["by"], described["why"]) == ("onednn", "measured")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))  # the note is lost, and the clock says otherwise
    faster("mkl")
    vitrail.train(config, tmp_path / "parts", resume=True)
    resumed = RunDir(tmp_path / "parts").read_environment()["resumed"][0]
    assert (resumed["linear"], resumed["exact"]) == ("onednn", True)
    newest, _ = newest_checkpoint(tmp_path / "parts" / "checkpoints")
    assert newest
    assert load_checkpoint(newest).about["linear"] == "onednn"
    assert differences(tmp_path / "whole", tmp_path / "parts") == ["config.json"]  # the stop at step 12
