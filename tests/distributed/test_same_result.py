"""However many processes share a run, the same images are trained on and counted."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.jobs import tiny_evaluation
from vitrail.distributed import World
from vitrail.run import RunDir, read_predictions
from vitrail.selftest.fork_server import ForkServer
from vitrail.selftest.same_run import differences
from vitrail.training import evaluate

# Without dropout, which draws for each process: then everything else has to agree.
SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"batch_size": 90},
    "model": {
        "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2.0,
        "projection_dropout": 0.0,
    },
    "optim": {"name": "adamw", "ema_decay": 0.9},
    "augment": {"mixup": 0.2, "cutmix": 1.0, "erasing": 0.2, "flip": 0.5},
    "schedule": {"epochs": 2, "max_steps": 20},
    "evaluation": {"every_epochs": 1},
    "compute": {"accumulation_steps": 2},
    "checkpoint": {"every_steps": 7},
}  # fmt: skip
LOSS_TOLERANCE = 1e-6
JOBS = "tests.support.jobs"


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Path:
    path = tmp_path_factory.mktemp("alone")
    arguments = {"run": str(path / "run"), "sections": SECTIONS, "log": str(path / "log")}
    assert server.run(f"{JOBS}:log_batches", arguments).statuses == [0]
    return path


def _losses(run: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in RunDir(run).read_metrics() if "lr" in record}


def _same_losses(a: Path, b: Path) -> None:
    ours, theirs = _losses(a), _losses(b)
    assert ours.keys() == theirs.keys()
    worst = max(abs(ours[step] - theirs[step]) for step in ours)
    assert worst < LOSS_TOLERANCE, worst
    counts = [json.loads((run / "evaluation.json").read_text())["num_correct"] for run in (a, b)]
    assert counts[0] == counts[1]


def _batches(log: Path, size: int) -> dict[int, tuple[list[int], list[float]]]:
    """Ids and sums of pixels of every step, the ranks one after the other."""
    found: dict[int, tuple[list[int], list[float]]] = {}
    for rank in range(size):
        for line in Path(f"{log}.{rank}").read_text().splitlines():
            record = json.loads(line)
            ids, images = found.setdefault(record["step"], ([], []))
            ids += record["ids"]
            images += record["images"]
    return found


@pytest.mark.parametrize("size", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 4))])
def test_the_same_images_in_the_same_order_and_the_same_losses(
    server: ForkServer, alone: Path, tmp_path: Path, size: int
) -> None:
    arguments = {"run": str(tmp_path / "run"), "sections": SECTIONS, "log": str(tmp_path / "log")}
    ended = server.run(f"{JOBS}:log_batches", arguments, ranks=size, log=tmp_path / "stderr")
    assert ended.statuses == [0] * size, (tmp_path / "stderr").read_text()
    expected, found = _batches(alone / "log", 1), _batches(tmp_path / "log", size)
    assert expected.keys() == found.keys()
    for step, (ids, images) in expected.items():
        assert found[step][0] == ids, step
        assert found[step][1] == pytest.approx(images, abs=1e-4), "augmented and mixed alike"
    _same_losses(alone / "run", tmp_path / "run")


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.long)])
def test_weights_spread_over_processes_train_alike(server: ForkServer, alone: Path, tmp_path: Path, size: int) -> None:
    sections = SECTIONS | {"parallel": {"strategy": "fsdp"}}
    arguments = {"run": str(tmp_path / "run"), "sections": sections}
    ended = server.run(f"{JOBS}:train_tiny", arguments, ranks=size, log=tmp_path / "stderr")
    assert ended.statuses == [0] * size, (tmp_path / "stderr").read_text()
    _same_losses(alone / "run", tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize(("strategy", "sizes"), [("ddp", (4, 2, 1)), ("fsdp", (4, 2, 1)), ("ddp", (1, 3))])
def test_a_run_goes_on_with_another_number_of_processes(
    server: ForkServer, alone: Path, tmp_path: Path, strategy: str, sizes: tuple[int, ...]
) -> None:
    run = tmp_path / "run"
    for number, size in enumerate(sizes):
        last = number == len(sizes) - 1
        stop = {"job": f"{JOBS}:train_tiny"} if last else {"job": f"{JOBS}:train_and_stop"}
        arguments: dict[str, Any] = {"run": str(run), "sections": SECTIONS | {"parallel": {"strategy": strategy}}}
        arguments |= {"resume": number > 0} | ({} if last else {"at_step": 5 + 4 * number})
        ended = server.run(stop["job"], arguments, ranks=size, log=tmp_path / "stderr")
        assert ended.statuses == [0 if last else 143] * size, (tmp_path / "stderr").read_text()
    _same_losses(alone / "run", run)
    resumed = RunDir(run).read_environment()["resumed"]
    assert [entry["processes"] for entry in resumed] == list(sizes[1:])
    assert all(not entry["exact"] for entry in resumed)


def test_two_processes_resume_to_the_last_byte(server: ForkServer, tmp_path: Path) -> None:
    sections = SECTIONS | {"model": SECTIONS["model"] | {"projection_dropout": 0.1, "stochastic_depth": 0.1}}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert server.run(f"{JOBS}:train_tiny", {"run": str(whole), "sections": sections}, ranks=2).statuses == [0, 0]
    for number, step in enumerate((3, 11)):
        arguments = {"run": str(parts), "sections": sections, "at_step": step, "resume": number > 0}
        assert server.run(f"{JOBS}:train_and_stop", arguments, ranks=2).statuses == [143, 143]
    arguments = {"run": str(parts), "sections": sections, "resume": True}
    assert server.run(f"{JOBS}:train_tiny", arguments, ranks=2, kill_after=0.8).statuses in ([-9, -9], [0, 0])
    assert server.run(f"{JOBS}:train_tiny", arguments, ranks=2).statuses == [0, 0]
    assert differences(whole, parts) == []


# ---- evaluation --------------------------------------------------------------------------------------------------


T = TypeVar("T")


class _NotAll(Exception):
    pass


class _OneOf(World):
    """One of several processes that run one after the other; the last one gets the sum."""

    def __init__(self, rank: int, size: int, said: list[torch.Tensor]) -> None:
        super().__init__()
        self.rank, self.size, self.said = rank, size, said

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.said.append(values.clone())
        if self.rank < self.size - 1:
            raise _NotAll
        return torch.stack(self.said).sum(0)

    def gather_on_first(self, value: T) -> list[T] | None:
        return None


def _in_shards(count: int, batch_size: int, size: int) -> dict[str, Any]:
    model, image_set, steps = tiny_evaluation(count)
    said: list[torch.Tensor] = []
    for rank in range(size):
        try:
            result = evaluate(model, image_set, steps, batch_size=batch_size, world=_OneOf(rank, size, said))
        except _NotAll:
            continue
        return result.to_json()
    raise AssertionError


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 9), size=st.integers(1, 4))
def test_every_image_is_counted_once(count: int, batch_size: int, size: int) -> None:
    model, image_set, steps = tiny_evaluation(count)
    expected = evaluate(model, image_set, steps, batch_size=64).to_json()
    found = _in_shards(count, batch_size, size)
    assert found["num_examples"] == count
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    for name in ("num_correct", "confusion", "per_class", "top5_accuracy"):
        assert found[name] == expected[name]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_combination_of_images_batch_and_processes() -> None:
    for count in range(1, 41):
        model, image_set, steps = tiny_evaluation(count)
        expected = evaluate(model, image_set, steps, batch_size=64).confusion
        for batch_size in range(1, 10):
            for size in range(1, 5):
                assert _in_shards(count, batch_size, size)["confusion"] == [list(row) for row in expected]


@pytest.mark.parametrize("size", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 4))])
def test_real_processes_count_as_one_does(server: ForkServer, tmp_path: Path, size: int) -> None:
    cases = [(1, 1), (2, 3), (3, 9), (7, 2), (40, 9), (39, 5)]
    out = tmp_path / "found.json"
    ended = server.run(f"{JOBS}:evaluate_shards", {"cases": cases, "out": str(out)}, ranks=size, log=tmp_path / "log")
    assert ended.statuses == [0] * size, (tmp_path / "log").read_text()
    for number, ((count, _), found) in enumerate(zip(cases, json.loads(out.read_text()), strict=True)):
        model, image_set, steps = tiny_evaluation(count)
        expected = evaluate(model, image_set, steps, batch_size=64, with_mirror=True)
        rows, alone = read_predictions(tmp_path / f"{number}.safetensors"), expected.predictions
        assert alone is not None
        assert list(rows.names) == list(alone.names)
        for name in ("ids", "labels", "top_classes"):
            assert (getattr(rows, name) == getattr(alone, name)).all(), name
        assert rows.logits is not None
        np.testing.assert_allclose(rows.logits, alone.logits, atol=1e-6)
        assert found["confusion"] == [list(row) for row in expected.confusion]
        assert found["num_examples"] == count
        assert expected.with_mirror
        assert found["with_mirror"]["num_correct"] == expected.with_mirror.num_correct


def test_of_equal_logits_the_rows_and_the_counts_take_the_same_class() -> None:
    model, image_set, steps = tiny_evaluation(40)
    image_set = dataclasses.replace(image_set, classes=tuple(map(str, range(50))))
    found = evaluate(model, image_set, steps, batch_size=9, runtime=lambda images: torch.zeros(len(images), 50))
    assert found.predictions is not None
    assert int(found.predictions.correct.sum()) == found.num_correct == int((image_set.labels == 0).sum())
    assert all(len(set(row)) == 5 for row in found.predictions.top_classes.tolist())
