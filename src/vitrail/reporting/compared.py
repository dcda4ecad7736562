"""The two sides of a comparison, and what is said about them in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.reporting.measured import Estimate
from vitrail.reporting.verdict import percent
from vitrail.run.predictions import Predictions
from vitrail.statistics import Paired

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of one model.

    Args:
        name: of the model, for people.
        temperature: of its model file.
    """

    name: str
    predictions: Predictions
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two.

    Args:
        names: of its run, or of its runs.
        accuracies: of each run, in [0, 1].
        accuracy: over all images of the first run, with its interval.
        loss: mean cross-entropy in nats, of the first run.
        calibration_error: in 15 groups of equal width, of the first run, with its temperature.
    """

    names: tuple[str, ...]
    accuracies: tuple[float, ...]
    accuracy: Estimate
    loss: float
    calibration_error: float | None


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Several runs a side, paired in their order.

    Args:
        difference: mean of the differences in accuracy, with the interval of Student's t.
        spread: standard deviation of the differences.
        p: of the paired t-test.
    """

    num_pairs: int
    difference: Estimate
    spread: float
    p: float


def compared_verdict(sides: Sequence[Side], paired: Paired, seeds: Seeds | None) -> tuple[str, str]:
    """Which is better, and the sentence that says so."""
    a, b = (side.names[0] for side in sides)
    if seeds:
        low, high = seeds.difference.low, seeds.difference.high
        means = [float(np.mean(side.accuracies)) for side in sides]
        if low <= 0 <= high or not seeds.spread:
            text = f"{percent(means[1])} of {b} against {percent(means[0])}, on average of {seeds.num_pairs} runs each"
            why = f"the difference lies between {_points(low)} and {_points(high)} points"
            why = why if seeds.spread else "all pairs differ by the same, which says nothing about other runs"
            return "unclear", f"These runs do not tell which way of training is better: {text}; {why}."
        better = b if low > 0 else a
        ends = sorted(abs(100 * end) for end in (low, high))
        return ("second" if low > 0 else "first"), (
            f"The runs of {better} are better: {percent(means[low > 0])} against {percent(means[low <= 0])} on average "
            f"of {seeds.num_pairs} runs each, {ends[0]:.1f} to {ends[1]:.1f} points more (p {_p(seeds.p)})."
        )
    ours, theirs = (percent(side.accuracy.value) for side in sides)
    changed = paired.only_first + paired.only_second
    if not changed:
        text = f"{a} and {b} have the same {paired.num_examples:,} images right and wrong ({ours})"
        return "unclear", f"{text}: these do not tell which is better."
    if paired.p_mid >= ALPHA:
        return "unclear", (
            f"These {paired.num_examples:,} images do not tell which is better: {b} has {theirs} right, {a} {ours}. "
            f"A difference under {100 * paired.detectable:.1f} points cannot be seen with them."
        )
    better, worse = (b, a) if paired.difference > 0 else (a, b)
    high, low = (theirs, ours) if paired.difference > 0 else (ours, theirs)
    ends = sorted((abs(paired.low), abs(paired.high)))
    return ("second" if paired.difference > 0 else "first"), (
        f"{better} is better on these {paired.num_examples:,} images: {high} right against {low} of {worse}, "
        f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} points more (p {_p(paired.p_mid)})."
    )


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def compared_notes(a: Answers, b: Answers, num_left_out: int, seeds: Seeds | None) -> tuple[str, ...]:
    """What the figures do not say."""
    notes: list[str] = []
    if not seeds:
        notes.append(
            "This compares two trained models, not two ways of training: with another seed either could come out "
            "otherwise. Several runs a side tell more: vitrail compare A1 A2 A3 --to B1 --to B2 --to B3."
        )
    if a.predictions.split == "val":
        notes.append("Both may have been chosen on these val images, which flatters both a little.")
    if a.predictions.split == "test":
        notes.append("Choosing a model by its test images makes them part of the choice: decide on val, test once.")
    if a.predictions.split in ("train", "all"):
        notes.append("Where one of the two was trained on some of these images, it knows them by heart.")
    if a.predictions.fingerprint != b.predictions.fingerprint:
        notes.append("The two see the images differently: another size, other preprocessing, or other classes.")
    if num_left_out:
        notes.append(f"{num_left_out} images are left out, whose class only one of the two knows.")
    if unreadable := len(a.predictions.unreadable):
        notes.append(f"{unreadable} images that could not be read are left out.")
    return tuple(notes)
