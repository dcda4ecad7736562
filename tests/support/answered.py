"""Answers, and runs that hold them, made up: no model is trained for them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from vitrail.config import RunConfig
from vitrail.run import Determinism, Environment, Predictions, RunDir
from vitrail.run.predictions import TOP


def answers(
    labels: Sequence[int] | np.ndarray,
    logits: np.ndarray,
    classes: Sequence[str],
    *,
    split: str = "test",
    names: Sequence[str] | None = None,
    unreadable: Sequence[tuple[str, str]] = (),
    keep_logits: bool = True,
    **about: Any,
) -> Predictions:
    """The answers that these logits [N, L] are."""
    labels, logits = np.asarray(labels, np.int32), logits.astype(np.float32)
    size = len(labels)
    logs = log_softmax(logits.astype(np.float64), axis=1)
    top = np.argsort(-logs, axis=1, kind="stable")[:, :TOP]
    rows = {
        "labels": labels,
        "top_classes": top.astype(np.int32),
        "top_probabilities": np.exp(np.take_along_axis(logs, top, 1)).astype(np.float32),
        "losses": -logs[np.arange(size), labels].astype(np.float32),
        "log_sum_exp": logsumexp(logits, axis=1).astype(np.float32),
        **({"logits": logits} if keep_logits else {}),
    }
    return Predictions(
        names=names if names is not None else [f"img/{i:05}.png" for i in range(size)], ids=np.arange(size),
        split=split,
        fingerprint="f" * 64, classes=tuple(classes), unreadable=tuple(unreadable), **rows, **about,
    )  # fmt: skip


def drawn_answers(size: int, num_classes: int, *, seed: int = 0, scale: float = 3.0, **more: Any) -> Predictions:
    """Random logits in which the true class has more, labels drawn evenly."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, num_classes, size)
    logits = draw.normal(size=(size, num_classes))
    logits[np.arange(size), labels] += scale
    return answers(labels, logits, [f"class {i:04}" for i in range(num_classes)], **more)


def made_run(
    path: Path, *found: Predictions, spec: str = "nowhere", log: Sequence[dict[str, Any]] | None = None
) -> RunDir:
    """A run directory with a log and these answers, and no model."""
    config = RunConfig(recipe="digits")
    config = replace(config, data=replace(config.data, spec=spec), schedule=replace(config.schedule, steps=40))
    environment = Environment(
        versions={"python": "3.11"}, commit=None, command=["train", "digits"], platform="Linux", device="cpu",
        cpu={"name": "a processor", "cores": 2, "threads": 1}, processes=1, linear=None, init=None,
        deterministic=Determinism(
            order_and_augmentation=True, weights=True, same="the same machine", reasons=[], other_number_of_processes=[]
        ),
        data={"train": {"fingerprint": "0" * 64, "num_examples": 100, "errors": []}},
    )  # fmt: skip
    run = RunDir(path)
    run.start(config, environment)
    for line in default_log() if log is None else log:
        run.log(line)
    for one in found:
        one.save(run.predictions_path(one.split))
    return run


def default_log() -> list[dict[str, Any]]:
    """40 steps, four evaluations on the val split."""
    lines: list[dict[str, Any]] = []
    for step in range(1, 41):
        lines.append({"step": step, "epoch": 1, "loss": 2.0 / step, "lr": 1e-3})
        if step % 10 == 0:
            score = {"accuracy": step / 50, "loss": 1.0 / step, "split": "val"}
            lines.append({"step": step, "epoch": step // 10, **score})
    return lines
