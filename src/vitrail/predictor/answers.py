"""What is answered for an image: the classes by falling probability, or that it is like none of them. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from vitrail.weights.calibration import UNKNOWN, Unknown


@dataclass(frozen=True)
class Ranked:
    """One class and its probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: the classes by falling probability.

    Args:
        distance: from the classes, in standard deviations of their features; None where the model does not know when
            an image is unknown (`vitrail calibrate --reject`).
        is_unknown: the image is like none of the classes.
    """

    path: str
    top: tuple[Ranked, ...]
    distance: float | None = None
    is_unknown: bool = False

    @property
    def label(self) -> str:
        """The most probable class; "unknown" where none is."""
        return UNKNOWN if self.is_unknown else self.top[0].label

    @property
    def probability(self) -> float:
        """Probability of the most probable class, in [0, 1]."""
        return self.top[0].probability


class Outputs(NamedTuple):
    """What a model gives for a batch."""

    probabilities: Float32[np.ndarray, "B L"]
    logits: Float32[np.ndarray, "B L"]
    """Before the temperature."""
    distances: Float32[np.ndarray, " B"] | None
    """From the classes, in standard deviations of their features; None where the model cannot answer "unknown"."""
    confidence: Float32[np.ndarray, " B"] | None = None
    """Probability by which "unknown" is decided; None: that of the most probable class."""


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of several batches of one model, one after the other."""
    distances = [part.distances for part in parts if part.distances is not None]
    confidence = [part.confidence for part in parts if part.confidence is not None]
    return Outputs(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.logits for part in parts]),
        np.concatenate(distances) if distances else None,
        np.concatenate(confidence) if confidence else None,
    )


class Answer(NamedTuple):
    """What a prediction says, but for the path."""

    top: tuple[Ranked, ...]
    distance: float | None
    is_unknown: bool


def ranked(outputs: Outputs, labels: Sequence[str], top: int, unknown: Unknown | None) -> list[Answer]:
    """The classes of each image by falling probability, equal ones in the order of the labels.

    Args:
        top: how many, at most all.
        unknown: when an image is like none of the classes.
    """
    probabilities, distances = outputs.probabilities, outputs.distances
    best = _largest(probabilities, min(top, len(labels)))
    places: list[list[int]] = best.tolist()
    values: list[list[float]] = np.take_along_axis(probabilities, best, 1).tolist()
    tops = [
        tuple(Ranked(labels[i], value) for i, value in zip(row, found, strict=True))
        for row, found in zip(places, values, strict=True)
    ]
    if unknown is None or distances is None:
        return [Answer(found, None, False) for found in tops]
    least, most = unknown.min_probability, unknown.max_distance
    sure = [found[0].probability for found in tops] if outputs.confidence is None else outputs.confidence.tolist()
    return [
        Answer(found, distance, confidence < least or distance > most)
        for found, confidence, distance in zip(tops, sure, distances.tolist(), strict=True)
    ]


def _largest(values: Float32[np.ndarray, "B L"], count: int) -> Int[np.ndarray, "B k"]:
    """Places of the largest values of each row, by falling value."""
    if values.shape[1] <= 8 * count:
        return np.argsort(-values, axis=1, kind="stable")[:, :count]
    candidates = np.sort(np.argpartition(-values, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(values, candidates, 1), axis=1, kind="stable")
    return np.take_along_axis(candidates, order, 1)
