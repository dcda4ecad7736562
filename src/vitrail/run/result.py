"""What a finished run came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a finished run came to.

    Args:
        run: its directory.
        model: the best model file.
        epochs: passes over the training set that the run was made for; 0 for a probe.
        steps: optimiser steps; num_examples_seen: training images, repeats counted.
        train_seconds: inside the training steps and their input; evaluation and saving not counted.
        final, best: {epoch, accuracy, loss} on evaluation["split"].
        evaluation: of the best model, as `vitrail eval --json`.
        deterministic: what repeats exactly, and why the rest may not; as in environment.json.
        baseline: accuracies of the probes on the pretrained features, where they were measured.
    """

    run: Path
    model: Path
    epochs: int
    steps: int
    num_examples_seen: int
    train_seconds: float
    images_per_second: float
    final: dict[str, float]
    best: dict[str, float]
    evaluation: dict[str, Any]
    baseline: dict[str, Any]
    deterministic: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The object of `vitrail train --json`."""
        return {**vars(self), "run": str(self.run), "model": str(self.model)}
