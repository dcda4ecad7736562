"""What a finished run came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.run.environment import Determinism


@dataclass(frozen=True)
class Score:
    """What an evaluation during a run found.

    Args:
        epoch: the epoch that ended, or was under way; 0: before the first step.
        accuracy: right answers over all examples, in [0, 1]; None: nothing is answered, as without labels.
        loss: mean cross-entropy in nats; without labels, of the masked pixels.
    """

    epoch: int
    accuracy: float | None
    loss: float


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Accuracies in [0, 1] of classifiers on the frozen pretrained features, before any fine-tuning.

    Args:
        knn: of the nearest neighbours' vote.
        linear: of logistic regression.
        num_train: images they were fitted to.
        num_examples: images they were measured on.
        split: from which these are.
        seconds: that it took.
    """

    knn: float
    linear: float
    num_train: int
    num_examples: int
    split: str
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a finished run came to.

    Args:
        run: its directory.
        model: the best model file.
        epochs: passes over the training set that the run was made for; 0 for a probe.
        steps: optimiser steps.
        num_examples_seen: training images, repeats counted.
        train_seconds: inside the training steps and their input; evaluation and saving not counted.
        final, best: on evaluation["split"].
        evaluation: of the best model, as `vitrail eval --json`; without labels, what reconstruction.json holds.
        deterministic: what repeats exactly, and why the rest may not; as in environment.json.
        baseline: accuracies of the probes on the pretrained features; None where they were not measured.
        teacher: whose answers the run learnt from, as model files tell it; None: there was none.
    """

    run: Path
    model: Path
    epochs: int
    steps: int
    num_examples_seen: int
    train_seconds: float
    images_per_second: float
    final: Score
    best: Score
    evaluation: dict[str, Any]
    baseline: Baseline | None
    deterministic: Determinism
    teacher: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The object of `vitrail train --json`."""
        parts = {name: vars(getattr(self, name)) for name in ("final", "best", "deterministic")}
        baseline = vars(self.baseline) if self.baseline else {}
        return {
            **vars(self),
            "run": str(self.run),
            "model": str(self.model),
            **parts,
            "baseline": baseline,
            "teacher": self.teacher or {},
        }
