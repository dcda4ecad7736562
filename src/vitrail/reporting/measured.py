"""Answers image by image -> figures: accuracy with its interval, each class, what is taken for what, the mistakes.

Accuracy, top-5, loss, precision, recall and F1 are those of `vitrail eval --json`. An image that cannot be read counts
as a wrong answer in accuracy, and is in no other figure.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from vitrail.run.predictions import Predictions
from vitrail.statistics import bootstrap, wilson

MOST_PAIRS = 100
"""Pairs of classes that are listed, the most frequent first."""
RESAMPLES = 2000
"""Of the intervals of means over classes."""
WORST, WORST_OF_CLASS, MOST_MISTAKES = 24, 3, 120
_EXAMPLES = 4
_LOSS_UNIT = 2.0**-24
"""As in an evaluation: losses are summed as whole multiples of this."""


@dataclass(frozen=True)
class Estimate:
    """A figure, and where the true one lies with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How a class fares.

    Args:
        number: position among the classes.
        num_examples: readable images of the class.
        num_predicted: images that were taken for it.
        precision, recall, f1: in [0, 1]; None where there is no such image.
    """

    number: int
    name: str
    num_examples: int
    num_predicted: int
    num_correct: int
    precision: Estimate | None
    recall: Estimate | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Images of one class that were taken for another.

    Args:
        label, answer: numbers of the true and of the predicted class.
        share: of the class's images, in [0, 1].
        examples: ids of some of them, the most confident ones.
    """

    label: int
    answer: int
    count: int
    share: float
    examples: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A wrong answer.

    Args:
        id: of the image in its split.
        path: its file, or its place in a shard.
        label, answer: numbers of the true and of the predicted class.
        probability: of the answer, in [0, 1], after the temperature.
        label_probability: of the true class.
        loss: cross-entropy in nats, without a temperature.
    """

    id: int
    path: str
    label: int
    answer: int
    probability: float
    label_probability: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model reaches on a split.

    Args:
        step: optimiser steps that the model had taken; -1: unknown.
        top5: None where there are at most five classes.
        loss: mean cross-entropy in nats.
        balanced_accuracy: mean recall of the classes that have images.
        macro_f1: mean F1 of the same classes.
        majority: name of the most frequent class.
        majority_share: accuracy of always answering it.
        mistakes: the worst of all, by falling loss, then the worst of each class; see `num_worst`.
        num_worst: how many of them are the worst of all.
        unreadable: path and reason.
    """

    split: str
    data: str
    fingerprint: str
    engine: str
    step: int
    num_examples: int
    num_correct: int
    accuracy: Estimate
    top5: Estimate | None
    loss: float
    balanced_accuracy: Estimate
    macro_f1: Estimate
    majority: str
    majority_share: float
    per_class: tuple[ClassFigures, ...]
    pairs: tuple[Pair, ...]
    num_pairs: int
    mistakes: tuple[Mistake, ...]
    num_worst: int
    unreadable: tuple[tuple[str, str], ...]


def rate(part: int, whole: int) -> Estimate:
    """A share with its interval (Wilson)."""
    return Estimate(part / whole if whole else math.nan, *wilson(part, whole))


def confusion_counts(found: Predictions) -> Int64[np.ndarray, "L L"]:
    """Images by true class (row) and answer (column)."""
    count = len(found.classes)
    cells = found.labels.astype(np.int64) * count + found.top_classes[:, 0]
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def mean_loss(found: Predictions) -> float:
    """Mean cross-entropy as an evaluation sums it, to the last bit."""
    if not len(found) or not np.isfinite(found.losses).all():
        return math.nan
    return int(np.rint(found.losses.astype(np.float64) / _LOSS_UNIT).astype(np.int64).sum()) * _LOSS_UNIT / len(found)


def measure(
    found: Predictions,
    confidence: Float64[np.ndarray, "N"],
    label_probability: Float64[np.ndarray, "N"],
) -> Measured:
    """Count and rank the answers.

    Args:
        confidence: probability of each answer, in [0, 1], after the temperature.
        label_probability: of each true class.
    """
    num_correct, count = int(found.correct.sum()), len(found.classes)
    in_top = int((found.top_classes == found.labels[:, None]).any(1).sum())
    present = np.bincount(found.labels, minlength=count)
    balanced, macro_f1 = _macro(found)
    pairs = _pairs(found, confidence, present)
    mistakes, num_worst = _mistakes(found, confidence, label_probability)
    largest = int(present.argmax())
    return Measured(
        split=found.split,
        data=found.data,
        fingerprint=found.fingerprint,
        engine=found.engine,
        step=found.step,
        num_examples=found.num_examples,
        num_correct=num_correct,
        accuracy=rate(num_correct, found.num_examples),
        top5=rate(in_top, found.num_examples) if count > 5 else None,
        loss=mean_loss(found),
        balanced_accuracy=balanced,
        macro_f1=macro_f1,
        majority=found.classes[largest],
        majority_share=int(present[largest]) / max(1, len(found)),
        per_class=_per_class(found, present),
        pairs=pairs[:MOST_PAIRS],
        num_pairs=len(pairs),
        mistakes=mistakes,
        num_worst=num_worst,
        unreadable=found.unreadable,
    )


def _per_class(found: Predictions, present: Int64[np.ndarray, "L"]) -> tuple[ClassFigures, ...]:
    predicted = np.bincount(found.top_classes[:, 0], minlength=len(found.classes)).tolist()
    right = np.bincount(found.labels[found.correct], minlength=len(found.classes)).tolist()
    return tuple(
        ClassFigures(
            number=number,
            name=name,
            num_examples=n,
            num_predicted=p,
            num_correct=r,
            precision=rate(r, p) if p else None,
            recall=rate(r, n) if n else None,
            f1=2 * r / (n + p) if n + p else None,
        )
        for number, (name, n, p, r) in enumerate(zip(found.classes, present.tolist(), predicted, right, strict=True))
    )


def _macro(found: Predictions) -> tuple[Estimate, Estimate]:
    """Balanced accuracy and macro F1, with intervals over images drawn anew."""
    count = len(found.classes)
    # Images of one label and one answer are alike, so only their number counts.
    cells, cell_of = np.unique(found.labels.astype(np.int64) * count + found.top_classes[:, 0], return_inverse=True)
    label, answer = cells // count, cells % count
    is_right = label == answer

    def recalls_and_f1(at: np.ndarray) -> tuple[float, float]:
        drawn = np.bincount(cell_of[at], minlength=len(cells))
        present = np.bincount(label, drawn, count)
        right = np.bincount(label[is_right], drawn[is_right], count)
        predicted = np.bincount(answer, drawn, count)
        there = present > 0
        f1 = 2 * right[there] / (present[there] + predicted[there])
        return float((right[there] / present[there]).mean()), float(f1.mean())

    if not len(found):
        nothing = Estimate(math.nan, math.nan, math.nan)
        return nothing, nothing
    values = recalls_and_f1(np.arange(len(found)))
    intervals = [bootstrap(lambda at, k=k: recalls_and_f1(at)[k], len(found), resamples=RESAMPLES) for k in (0, 1)]
    balanced, macro = (Estimate(value, *interval) for value, interval in zip(values, intervals, strict=True))
    return balanced, macro


def _pairs(
    found: Predictions, confidence: Float64[np.ndarray, "N"], present: Int64[np.ndarray, "L"]
) -> tuple[Pair, ...]:
    """What is taken for what, the most frequent first; only the first ones have examples."""
    wrong = np.flatnonzero(~found.correct)
    key = found.labels[wrong].astype(np.int64) * len(found.classes) + found.top_classes[wrong, 0]
    cells, counts = np.unique(key, return_counts=True)
    order = np.lexsort((cells, -counts))
    result: list[Pair] = []
    for rank, place in enumerate(order.tolist()):
        label, answer = divmod(int(cells[place]), len(found.classes))
        examples: list[int] = []
        if rank < MOST_PAIRS:
            members = wrong[key == cells[place]]
            members = members[np.argsort(-confidence[members], kind="stable")][:_EXAMPLES]
            examples = found.ids[members].tolist()
        share = int(counts[place]) / int(present[label])
        result.append(Pair(label=label, answer=answer, count=int(counts[place]), share=share, examples=tuple(examples)))
    return tuple(result)


def _mistakes(
    found: Predictions, confidence: Float64[np.ndarray, "N"], label_probability: Float64[np.ndarray, "N"]
) -> tuple[tuple[Mistake, ...], int]:
    """The worst mistakes, then the worst of each class that are not among them; and how many the first are."""
    wrong = np.flatnonzero(~found.correct)
    ranked = wrong[np.argsort(-found.losses[wrong], kind="stable")]
    worst, rest = ranked[:WORST], ranked[WORST:]
    # The k-th worst of every class before the next worst of any.
    by_class = np.argsort(found.labels[rest], kind="stable")
    starts = np.searchsorted(found.labels[rest][by_class], found.labels[rest][by_class])
    rank = np.empty(len(rest), np.int64)
    rank[by_class] = np.arange(len(rest)) - starts
    order = np.lexsort((np.arange(len(rest)), rank))
    more = rest[order][rank[order] < WORST_OF_CLASS][: MOST_MISTAKES - WORST]
    chosen = [
        Mistake(
            id=int(found.ids[i]),
            path=found.names[i],
            label=int(found.labels[i]),
            answer=int(found.top_classes[i, 0]),
            probability=float(confidence[i]),
            label_probability=float(label_probability[i]),
            loss=float(found.losses[i]),
        )
        for i in map(int, (*worst, *more))
    ]
    return tuple(chosen), len(worst)
