"""Is the model as often right as it says, and what is gained where it may abstain?

Probabilities are those after the temperature that the model file holds; without one, the softmax as it is.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
from jaxtyping import Float64
from scipy.special import log_softmax

from vitrail.reporting.measured import Estimate, rate
from vitrail.run.predictions import Predictions
from vitrail.schema import number
from vitrail.statistics import (
    bootstrap,
    expected_calibration_error,
    fit_temperature,
    noise_floor,
    reliability,
    risk_coverage,
    threshold_for,
)
from vitrail.statistics.calibration import MOST_TEMPERATURE, NUM_BINS

FEWEST = 200
"""Images below which nothing is said about calibration."""
COVERAGES, GOALS = (0.5, 0.8, 0.9, 0.95), (0.9, 0.95, 0.99)
RESAMPLES, FLOOR_DRAWS = 2000, 1000
_CURVE_POINTS, _HISTOGRAM = 200, 20
_AT_ONCE, _FEWEST_OF_GROUP = 1 << 20, 20
_MOST_FITTED = 5_000_000
"""Logits from which a temperature is fitted for the report."""
_FINITE = number(-math.inf, math.inf)
_TEMPERATURE = number(1 / MOST_TEMPERATURE, MOST_TEMPERATURE)


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by.

    Args:
        value: 1: nothing.
        applied: whether the probabilities of this report have it.
        source: where it comes from.
        reason: why it is kept, or why it is 1.
    """

    value: float
    applied: bool
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images of about equal confidence.

    Args:
        confidence: their mean.
        accuracy: share that is right.
        expected_low, expected_high: where the accuracy of a calibrated model would lie, 95 %.
    """

    count: int
    confidence: float
    accuracy: Estimate
    expected_low: float
    expected_high: float


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What is gained by answering only where the model is sure.

    Args:
        threshold: least confidence that is answered.
        coverage: share of the images that is answered.
        accuracy: of these.
    """

    threshold: float
    coverage: float
    accuracy: Estimate


@dataclass(frozen=True)
class Unknown:
    """When the answer is "unknown" instead of a class.

    Args:
        reject: share of validation images that it was allowed to refuse.
        min_probability: least probability of an answer.
        max_distance: largest Mahalanobis distance to the nearest class.
    """

    reject: float
    min_probability: float
    max_distance: float


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How far the model's probabilities can be believed.

    Args:
        temperature: of the model file, or the one that would help; None: unknown.
        mean: mean confidence of all answers.
        ece: expected calibration error in 15 groups of equal width.
        ece_adaptive: in 15 groups of equal size.
        floor_mean, floor_95: what a perfectly calibrated model would show on so many images.
        nll: mean negative log-likelihood in nats, after the temperature.
        brier: in [0, 2]; None where not all logits were kept.
        groups: of equal size, at least 20 images each, by rising confidence.
        histogram: images in 20 bins of equal width over [0, 1].
        at_coverage: answering the most confident 50, 80, 90, 95 %.
        at_goal: answering as many as reach 90, 95 and 99 % accuracy; None where no threshold does.
        curve: coverage and error among the answered.
        aurc: area under that curve.
        unknown: when the model refuses to answer; None: never.
    """

    num_examples: int
    temperature: Temperature | None
    mean: float
    ece: Estimate
    ece_adaptive: float
    floor_mean: float
    floor_95: float
    nll: float
    brier: float | None
    groups: tuple[Group, ...]
    histogram: tuple[int, ...]
    at_coverage: tuple[Answered, ...]
    at_goal: tuple[tuple[float, Answered | None], ...]
    curve: tuple[tuple[float, float], ...]
    aurc: float
    unknown: Unknown | None

    @property
    def is_judged(self) -> bool:
        """Whether there are enough images for a word about calibration."""
        return self.num_examples >= FEWEST

    @property
    def fits(self) -> bool:
        """Whether the error is one that a calibrated model might show on so many images."""
        return self.ece.value <= self.floor_95


def stored_temperature(calibration: object) -> Temperature | None:
    """The temperature that a model file holds; None where it says nothing usable."""
    if not isinstance(calibration, dict):
        return None
    said = cast(dict[str, Any], calibration)
    value = said.get("temperature")
    if not _TEMPERATURE.fits(value):
        return None
    return Temperature(float(cast(float, value)), True, "from the model file", str(said.get("reason", "")))


def probabilities(
    found: Predictions, temperature: float
) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"], float | None]:
    """Probability of each answer, of each true class, and the Brier score (None without logits).

    Args:
        temperature: needs logits unless it is 1.
    """
    if found.logits is None:
        assert temperature == 1
        with np.errstate(over="ignore"):
            own = np.exp(-found.losses.astype(np.float64))
        return _proper(found.top_probabilities[:, 0].astype(np.float64)), _proper(own), None
    confidence, own, brier = np.empty(len(found)), np.empty(len(found)), 0.0
    rows = max(1, _AT_ONCE // found.logits.shape[1])
    for start in range(0, len(found), rows):
        at = slice(start, start + rows)
        with np.errstate(invalid="ignore"):
            p = _proper(np.exp(log_softmax(found.logits[at].astype(np.float64) / temperature, axis=1)))
        row = np.arange(len(p))
        confidence[at], own[at] = p[row, found.top_classes[at, 0]], p[row, found.labels[at]]
        brier += float((np.square(p).sum(1) - 2 * own[at] + 1).sum())
    return confidence, own, brier / max(1, len(found))


def _proper(p: np.ndarray) -> np.ndarray:
    """Probabilities; 0 in place of what is no number, as where a model overflowed."""
    return np.clip(np.nan_to_num(p, nan=0.0), 0.0, 1.0)


def stored_unknown(calibration: object) -> Unknown | None:
    """The limits that a model file holds; None where it says nothing usable."""
    said: Any = cast(dict[str, Any], calibration).get("unknown") if isinstance(calibration, dict) else None
    names = [field.name for field in fields(Unknown)]
    if not isinstance(said, dict):
        return None
    values = [cast(dict[str, Any], said).get(name) for name in names]
    return Unknown(*map(float, cast(list[float], values))) if all(map(_FINITE.fits, values)) else None


def suggested_temperature(val: Predictions | None) -> Temperature | None:
    """The temperature that validation answers ask for; None where there are none, or too many to fit here."""
    if val is None or val.logits is None or val.logits.size > _MOST_FITTED or not len(val):
        return None
    if not np.isfinite(val.logits).all():
        return None
    fitted = fit_temperature(val.logits.astype(np.float64), val.labels.astype(np.int64))
    return Temperature(fitted.value, False, f"fitted for this report to {len(val)} validation images", fitted.reason)


def judge(
    found: Predictions,
    confidence: Float64[np.ndarray, "N"],
    label_probability: Float64[np.ndarray, "N"],
    brier: float | None,
    temperature: Temperature | None,
    unknown: Unknown | None = None,
) -> Confidence | None:
    """Everything about confidence; None without a single image."""
    if not len(found):
        return None
    correct = found.correct
    low, high = _interval_of_error(confidence, correct)
    floor_mean, floor_95 = noise_floor(confidence, draws=FLOOR_DRAWS)
    groups = reliability(confidence, correct, bins=max(1, min(NUM_BINS, len(found) // _FEWEST_OF_GROUP)))
    curve = risk_coverage(confidence, correct)
    kept = np.unique(np.linspace(0, len(curve.coverage) - 1, _CURVE_POINTS).astype(int))
    with np.errstate(divide="ignore"):
        nll = float(-np.log(label_probability).mean())
    return Confidence(
        num_examples=len(found),
        temperature=temperature,
        mean=float(confidence.mean()),
        ece=Estimate(expected_calibration_error(confidence, correct), low, high),
        ece_adaptive=expected_calibration_error(confidence, correct, adaptive=True),
        floor_mean=floor_mean,
        floor_95=floor_95,
        nll=nll,
        brier=brier,
        groups=tuple(_groups(groups.counts.tolist(), groups.correct.tolist(), groups.confidence.tolist())),
        histogram=tuple(np.histogram(confidence, _HISTOGRAM, (0.0, 1.0))[0].tolist()),
        at_coverage=tuple(_most_confident(confidence, correct, share) for share in COVERAGES),
        at_goal=tuple((goal, _for_goal(confidence, correct, goal)) for goal in GOALS),
        curve=tuple(zip(curve.coverage[kept].tolist(), curve.risk[kept].tolist(), strict=True)),
        aurc=curve.area,
        unknown=unknown,
    )


def _interval_of_error(confidence: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """Of the calibration error: the bin of an image stays the same, whichever images are drawn."""
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    gaps = correct - confidence

    def error(at: np.ndarray) -> float:
        return float(np.abs(np.bincount(bins[at], gaps[at])).sum() / len(at))

    return bootstrap(error, len(confidence), resamples=RESAMPLES)


def _groups(counts: list[int], right: list[int], means: list[float]) -> list[Group]:
    found: list[Group] = []
    for count, correct, mean in zip(counts, right, means, strict=True):
        if count:
            half = 1.96 * math.sqrt(max(0.0, mean * (1 - mean)) / count)
            low, high = max(0.0, mean - half), min(1.0, mean + half)
            found.append(
                Group(
                    count=count,
                    confidence=mean,
                    accuracy=rate(correct, count),
                    expected_low=low,
                    expected_high=high,
                )
            )
    return found


def _answered(confidence: np.ndarray, correct: np.ndarray, threshold: float) -> Answered:
    chosen = confidence >= threshold
    count = int(chosen.sum())
    accuracy = rate(int(correct[chosen].sum()), count)
    return Answered(threshold=threshold, coverage=count / len(confidence), accuracy=accuracy)


def _most_confident(confidence: np.ndarray, correct: np.ndarray, share: float) -> Answered:
    place = max(1, round(share * len(confidence)))
    return _answered(confidence, correct, float(np.sort(confidence)[::-1][place - 1]))


def _for_goal(confidence: np.ndarray, correct: np.ndarray, goal: float) -> Answered | None:
    found = threshold_for(goal, confidence, correct)
    return None if found is None else _answered(confidence, correct, found[0])
