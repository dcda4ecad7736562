"""Two models on the same images: whether one is better, by how much, where, and what could have been seen at all.

In: the answers of both image by image. Out: a `Comparison`. It compares trained models, not ways of training, unless
there are several runs a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import stats
from scipy.special import softmax

from vitrail.data.sources import nfc
from vitrail.errors import DataError, shown
from vitrail.reporting.compared import ALPHA, Answers, Seeds, Side, compared_notes, compared_verdict
from vitrail.reporting.measured import Estimate, rate
from vitrail.reporting.report import json_value
from vitrail.run.predictions import Predictions
from vitrail.statistics import Paired, bootstrap, compare_paired, expected_calibration_error, holm, mcnemar

SCHEMA_VERSION = 1
_LEAST_CHANGED = 5
"""With fewer changed images of a class no test can reach 5 %."""
_SHOWN = 24
_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """How a class fares with each.

    Args:
        fixed: images that only the second has right; broken: that only the first has.
        p_mid: McNemar's mid-p; None where fewer than five images changed.
        p_holm: adjusted for all classes that were tested.
    """

    name: str
    num_examples: int
    first_correct: int
    second_correct: int
    fixed: int
    broken: int
    p_mid: float | None
    p_holm: float | None


@dataclass(frozen=True, kw_only=True)
class Changed:
    """An image that exactly one of the two has right.

    Args:
        id: of the image in its split.
        first_probability, second_probability: of the true class, in [0, 1].
    """

    id: int
    path: str
    label: str
    first_answer: str
    second_answer: str
    first_probability: float
    second_probability: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every figure of a comparison.

    Args:
        verdict: the answer, in a sentence or two.
        answer: which is better; "unclear": the images do not tell.
        num_examples: images that both answered and whose class both know.
        num_left_out: images of classes that one of the two does not know.
        classes_of_one: names of these classes.
        paired: of the first run of each side.
        both_right, both_wrong: images; changed_wrong: both wrong, with different answers.
        loss_difference: of the second less the first, with its interval.
        seeds: None with one run a side.
        fixed, broken: those whose true class gained or lost most.
        notes: what the figures do not say.
        settings: name and value on either side, of those that differ.
    """

    schema_version: int
    verdict: str
    answer: str
    first: Side
    second: Side
    split: str
    data: str
    num_examples: int
    num_left_out: int
    classes_of_one: tuple[str, ...]
    paired: Paired
    both_right: int
    both_wrong: int
    changed_wrong: int
    loss_difference: Estimate
    seeds: Seeds | None
    per_class: tuple[ClassChange, ...]
    fixed: tuple[Changed, ...]
    broken: tuple[Changed, ...]
    notes: tuple[str, ...]
    settings: tuple[tuple[str, str, str], ...] = ()

    def to_json(self) -> dict[str, object]:
        """The object of the JSON file; what is no number is null."""
        return {"kind": "vitrail-comparison", **json_value(self)}


def compare_answers(first: Sequence[Answers], second: Sequence[Answers]) -> Comparison:
    """Compare two models, or two groups of as many runs each.

    Raises:
        DataError: the images are not the same, the two have no class in common, or the groups have different sizes.
    """
    if len(first) != len(second):
        raise DataError(
            "There are more runs on one side than on the other.",
            got=f"{len(first)} and {len(second)}",
            expected="as many on each, paired in their order",
        )
    for side in (first, second):
        names = [run.name for run in side]
        if len(set(names)) < len(names):
            raise DataError(
                "A run is named twice on one side.", got=", ".join(map(shown, names)), expected="other runs"
            )
    a, b = first[0], second[0]
    for other in (*first[1:], *second):
        _check_same_images(a, other)
    kept, classes_of_one = _common(a.predictions, b.predictions)
    if not kept.any():
        raise DataError("The two models have no class in common on these images.", got=", ".join(classes_of_one[:4]))
    right = [[one.predictions.correct[kept] for one in side] for side in (first, second)]
    sides = [_side(side, correct, kept) for side, correct in zip((first, second), right, strict=True)]
    ours, theirs = right[0][0], right[1][0]
    broken, fixed = ours & ~theirs, theirs & ~ours
    paired = compare_paired(int(broken.sum()), int(fixed.sum()), int(kept.sum()))
    losses = [one.predictions.losses[kept].astype(np.float64) for one in (a, b)]
    gap = losses[1] - losses[0]
    seeds = _seeds(sides[0].accuracies, sides[1].accuracies) if len(first) > 1 else None
    places = np.flatnonzero(kept)
    answer, verdict = compared_verdict(sides, paired, seeds)
    return Comparison(
        schema_version=SCHEMA_VERSION,
        verdict=verdict,
        answer=answer,
        first=sides[0],
        second=sides[1],
        split=a.predictions.split,
        data=a.predictions.data,
        num_examples=int(kept.sum()),
        num_left_out=int((~kept).sum()),
        classes_of_one=classes_of_one,
        paired=paired,
        both_right=int((ours & theirs).sum()),
        both_wrong=int((~ours & ~theirs).sum()),
        changed_wrong=int((~ours & ~theirs & (_named(a, kept) != _named(b, kept))).sum()),
        loss_difference=Estimate(
            float(gap.mean()), *bootstrap(lambda at: float(gap[at].mean()), len(gap), resamples=_RESAMPLES)
        ),
        seeds=seeds,
        per_class=_per_class(a.predictions, kept, ours, theirs),
        fixed=_changed(a, b, places[fixed], +1),
        broken=_changed(a, b, places[broken], -1),
        notes=compared_notes(a, b, int((~kept).sum()), seeds),
    )


def _check_same_images(first: Answers, other: Answers) -> None:
    """Raise DataError unless both answered the same images, with the same true classes."""
    a, b = first.predictions, other.predictions
    same = len(a) == len(b) and (a.ids == b.ids).all() and list(a.names) == list(b.names)
    if same:
        ours, theirs = ([nfc(p.classes[i]) for i in p.labels.tolist()] for p in (a, b))
        same = ours == theirs
    if not same:
        raise DataError(
            "The two models were not measured on the same images.",
            got=f"{shown(first.name)}: {len(a)} images of {shown(a.data)}, {a.split}; "
            f"{shown(other.name)}: {len(b)} of {shown(b.data)}, {b.split}",
            expected="the same images with the same classes",
            do="Measure both on one data set: vitrail compare A B --data SPEC",
        )


def _common(a: Predictions, b: Predictions) -> tuple[Bool[np.ndarray, "N"], tuple[str, ...]]:
    """The images whose class both models know, and the names of the other classes."""
    ours, theirs = ({nfc(name) for name in p.classes} for p in (a, b))
    known = np.array([nfc(name) in theirs for name in a.classes])
    return known[a.labels], tuple(sorted(ours ^ theirs))


def _named(one: Answers, kept: Bool[np.ndarray, "N"]) -> np.ndarray:
    names = np.array([nfc(name) for name in one.predictions.classes], dtype=object)
    return names[one.predictions.top_classes[kept, 0]]


def _side(runs: Sequence[Answers], correct: list[Bool[np.ndarray, "n"]], kept: Bool[np.ndarray, "N"]) -> Side:
    first = runs[0].predictions
    error = None
    if first.logits is not None:
        probabilities = softmax(first.logits[kept].astype(np.float64) / runs[0].temperature, axis=1)
        error = expected_calibration_error(probabilities.max(1), correct[0])
    return Side(
        names=tuple(run.name for run in runs),
        accuracies=tuple(float(right.mean()) for right in correct),
        accuracy=rate(int(correct[0].sum()), len(correct[0])),
        loss=float(first.losses[kept].astype(np.float64).mean()),
        calibration_error=error,
    )


def _seeds(first: Sequence[float], second: Sequence[float]) -> Seeds:
    differences: Float64[np.ndarray, "k"] = np.array(second) - np.array(first)
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    half = float(stats.t.ppf(1 - ALPHA / 2, len(differences) - 1)) * spread / len(differences) ** 0.5
    p = float(stats.ttest_rel(second, first).pvalue) if spread else 1.0
    return Seeds(num_pairs=len(differences), difference=Estimate(mean, mean - half, mean + half), spread=spread, p=p)


def _per_class(
    found: Predictions, kept: Bool[np.ndarray, "N"], ours: Bool[np.ndarray, "n"], theirs: Bool[np.ndarray, "n"]
) -> tuple[ClassChange, ...]:
    """The classes with the largest change first."""
    labels, count = found.labels[kept], len(found.classes)

    def counts(of: Bool[np.ndarray, "n"]) -> list[int]:
        return np.bincount(labels[of], minlength=count).tolist()

    present = np.bincount(labels, minlength=count).tolist()
    right, right_too, fixed, broken = counts(ours), counts(theirs), counts(theirs & ~ours), counts(ours & ~theirs)
    tested = [i for i in range(count) if fixed[i] + broken[i] >= _LEAST_CHANGED]
    p_mid = {i: mcnemar(broken[i], fixed[i])[1] for i in tested}
    p_holm = dict(zip(tested, holm([p_mid[i] for i in tested]), strict=True))
    rows = [
        ClassChange(
            name=found.classes[i],
            num_examples=present[i],
            first_correct=right[i],
            second_correct=right_too[i],
            fixed=fixed[i],
            broken=broken[i],
            p_mid=p_mid.get(i),
            p_holm=p_holm.get(i),
        )
        for i in range(count)
        if present[i]
    ]
    return tuple(sorted(rows, key=lambda row: (-abs(row.fixed - row.broken), -(row.fixed + row.broken))))


def _changed(a: Answers, b: Answers, places: Int64[np.ndarray, "k"], sign: int) -> tuple[Changed, ...]:
    """Images by how much the probability of their true class rose (+1) or fell (-1)."""
    first, second = (one.predictions.label_probabilities for one in (a, b))
    order = places[np.argsort(-sign * (second - first)[places], kind="stable")][:_SHOWN]
    ours, theirs = a.predictions, b.predictions
    return tuple(
        Changed(
            id=int(ours.ids[i]),
            path=ours.names[i],
            label=ours.classes[int(ours.labels[i])],
            first_answer=ours.classes[int(ours.top_classes[i, 0])],
            second_answer=theirs.classes[int(theirs.top_classes[i, 0])],
            first_probability=float(first[i]),
            second_probability=float(second[i]),
        )
        for i in map(int, order)
    )
