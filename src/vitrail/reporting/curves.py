"""How a run went, from its log: loss, learning rate, evaluations, where it was taken up again."""

import math
from dataclasses import dataclass
from typing import Any

from vitrail.config import RunConfig
from vitrail.run import RunDir

_MOST_POINTS = 600


@dataclass(frozen=True)
class Point:
    """A logged value."""

    step: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation during the run.

    Args:
        epoch: 0: before the first step.
        loss: mean cross-entropy in nats.
    """

    step: int
    epoch: int
    accuracy: float
    loss: float
    split: str


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What metrics.jsonl holds.

    Args:
        loss: of the training batches.
        averaged: how many logged losses a point of it is the mean of.
        best: the evaluation that best.safetensors is of; None before the first.
        resumed: steps at which the run was taken up again.
        skipped: steps whose gradient was not finite.
    """

    loss: tuple[Point, ...]
    averaged: int
    lr: tuple[Point, ...]
    evaluations: tuple[Evaluated, ...]
    best: Evaluated | None
    resumed: tuple[int, ...]
    skipped: int
    last_step: int
    total_steps: int


def read_curves(run: RunDir, config: RunConfig, environment: dict[str, Any]) -> Curves:
    """What metrics.jsonl of a run holds. Raises RunError where it is damaged."""
    lines = run.read_metrics()
    losses = [Point(line["step"], line["loss"]) for line in lines if "lr" in line and "loss" in line]
    rates = [Point(line["step"], line["lr"]) for line in lines if "lr" in line]
    evaluations = [
        Evaluated(**{name: line[name] for name in ("step", "epoch", "accuracy", "loss", "split")})
        for line in lines
        if {"step", "epoch", "accuracy", "loss", "split"} <= line.keys()
    ]
    best: Evaluated | None = None
    for one in evaluations:  # as the run chooses
        if best is None or (one.accuracy, -one.loss) > (best.accuracy, -best.loss):
            best = one
    train: Any = environment["data"].get("train") or {}
    averaged = math.ceil(len(losses) / _MOST_POINTS) or 1
    return Curves(
        loss=tuple(_averaged(losses, averaged)),
        averaged=averaged,
        lr=tuple(rates[:: max(1, len(rates) // _MOST_POINTS)]),
        evaluations=tuple(evaluations),
        best=best,
        resumed=tuple(int(entry["step"]) for entry in environment.get("resumed", ()) if type(entry.get("step")) is int),
        skipped=sum("skipped" in line for line in lines),
        last_step=max((line["step"] for line in lines), default=0),
        total_steps=_total_steps(config, train.get("num_examples")),
    )


def _averaged(points: list[Point], count: int) -> list[Point]:
    parts = [points[start : start + count] for start in range(0, len(points), count)]
    return [Point(part[-1].step, math.fsum(p.value for p in part) / len(part)) for part in parts]


def _total_steps(config: RunConfig, num_train: object) -> int:
    """How many steps the run is to have; 0: unknown."""
    schedule = config.schedule
    total = schedule.steps
    if not total and type(num_train) is int and num_train > 0:
        asked = schedule.epochs * math.ceil(num_train / config.data.batch_size)
        total = asked * max(1, math.ceil(schedule.min_steps / asked))
    return min(total, schedule.max_steps or total)


def chosen_on(curves: Curves) -> str:
    """The split on which the best of several evaluations was chosen."""
    return curves.evaluations[0].split if len(curves.evaluations) > 1 else ""
