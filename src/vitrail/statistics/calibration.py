"""Is a model as often right as it says? Calibration error with its noise floor, proper scores, one temperature.

Everywhere: `confidence` is the largest probability of an image, `correct` whether its class is the right one.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import optimize
from scipy.special import log_softmax

NUM_BINS = 15
_UNIT = 2.0**-24
"""Confidences are summed as whole multiples of this, so that no sum depends on who added what first."""
_FLOOR_DRAWS = 1000
MOST_TEMPERATURE = 20.0
_FEWEST, _FOLDS = 200, 5


@dataclass(frozen=True)
class Bins:
    """Images grouped by confidence.

    Args:
        counts: images of each group.
        correct: right ones among them.
        confidence: their mean confidence; nan where a group is empty.
    """

    counts: Int64[np.ndarray, "m"]
    correct: Int64[np.ndarray, "m"]
    confidence: Float64[np.ndarray, "m"]

    @property
    def error(self) -> float:
        """Mean distance of accuracy and confidence over the groups, weighted by their images."""
        used = self.counts > 0
        gaps = np.abs(self.correct[used] / self.counts[used] - self.confidence[used])
        return float(np.sum(self.counts[used] * gaps) / max(1, self.counts.sum()))


def reliability(
    confidence: Float64[np.ndarray, "N"], correct: Bool[np.ndarray, "N"], *, adaptive: bool = True, bins: int = NUM_BINS
) -> Bins:
    """Group images by confidence.

    Args:
        confidence: in [0, 1].
        adaptive: groups of equal size; False: of equal width, ((m - 1) / bins, m / bins].
        bins: how many groups at most.
    Source: Guo et al. 2017, arXiv:1706.04599, section 2 (equal width); Nguyen and O'Connor 2015 (equal size).
    """
    units = np.rint(confidence / _UNIT).astype(np.int64)
    if adaptive:
        place = np.empty(len(units), np.int64)
        place[np.argsort(units, kind="stable")] = np.arange(len(units)) * bins // max(1, len(units))
    else:
        place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    right = np.bincount(place[correct], minlength=bins)
    sums = np.zeros(bins, np.int64)
    np.add.at(sums, place, units)
    with np.errstate(invalid="ignore"):
        return Bins(counts, right, np.where(counts > 0, sums * _UNIT / counts, math.nan))


def expected_calibration_error(
    confidence: Float64[np.ndarray, "N"], correct: Bool[np.ndarray, "N"], *, adaptive: bool = False
) -> float:
    """Expected calibration error of the top class in 15 groups, in [0, 1]. No proper score: compare with its floor."""
    return reliability(confidence, correct, adaptive=adaptive).error


def noise_floor(
    confidence: Float64[np.ndarray, "N"], *, adaptive: bool = False, seed: int = 0, draws: int = _FLOOR_DRAWS
) -> tuple[float, float]:
    """What calibration error a perfectly calibrated model would show on so few images: mean and 95th percentile.

    Args:
        confidence: of each image; whether it is right is drawn with this probability.
    """
    draw = np.random.default_rng(seed)
    groups = reliability(confidence, np.zeros(len(confidence), bool), adaptive=adaptive)
    order = np.argsort(np.rint(confidence / _UNIT).astype(np.int64), kind="stable")
    ends = np.cumsum(groups.counts)
    errors = np.empty(draws)
    for i in range(draws):
        right = np.concatenate(([0], np.cumsum(draw.random(len(confidence)) < confidence[order])))
        correct = right[ends] - right[ends - groups.counts]
        errors[i] = Bins(groups.counts, correct, groups.confidence).error
    return float(errors.mean()), float(np.quantile(errors, 0.95))


def negative_log_likelihood(logits: Float64[np.ndarray, "N L"], labels: Int64[np.ndarray, "N"]) -> float:
    """Mean of -ln p of the right class, in nats: a proper score."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def brier(probabilities: Float64[np.ndarray, "N L"], labels: Int64[np.ndarray, "N"]) -> float:
    """Mean squared distance of the probabilities and the answer, in [0, 2]: a proper score. Source: Brier 1950."""
    own = probabilities[np.arange(len(labels)), labels]
    return float((np.square(probabilities).sum(1) - 2 * own + 1).mean())


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by before the softmax.

    Args:
        value: 1 where there is none.
        reason: why it is kept, or why it is 1.
        before, after: negative log-likelihood out of fold, without and with it; nan where it was not fitted.
    """

    value: float
    reason: str
    before: float = math.nan
    after: float = math.nan


def fit_temperature(
    logits: Float64[np.ndarray, "N L"], labels: Int64[np.ndarray, "N"], *, seed: int = 0
) -> Temperature:
    """One temperature from validation logits, kept only where it helps on images that it was not fitted to.

    Args:
        logits: of the validation images.
        seed: of the five folds.
    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2; here in 1 / T, in which the likelihood is convex.
    """
    if len(labels) < _FEWEST:
        return Temperature(1.0, f"{len(labels)} validation images are too few, at least {_FEWEST} are needed")
    if logits.shape[1] < 2:
        return Temperature(1.0, "there is a single class")
    if (logits.argmax(1) == labels).all():
        return Temperature(1.0, "no validation image is wrong, so nothing says how sure is too sure")
    folds = np.random.default_rng(seed).permutation(len(labels)) % _FOLDS
    before, after = np.empty(_FOLDS), np.empty(_FOLDS)
    for fold in range(_FOLDS):
        held, rest = folds == fold, folds != fold
        found = _best_temperature(logits[rest], labels[rest])
        before[fold], after[fold] = (negative_log_likelihood(logits[held] / t, labels[held]) for t in (1.0, found))
    if after.mean() >= before.mean():
        return Temperature(1.0, "out of fold it does not help", float(before.mean()), float(after.mean()))
    value = _best_temperature(logits, labels)
    return Temperature(value, "out of fold it helps", float(before.mean()), float(after.mean()))


def _best_temperature(logits: Float64[np.ndarray, "N L"], labels: Int64[np.ndarray, "N"]) -> float:
    def loss(inverse: float) -> float:
        return negative_log_likelihood(inverse * logits, labels)

    bounds = (1 / MOST_TEMPERATURE, MOST_TEMPERATURE)
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return 1 / float(found.x)
