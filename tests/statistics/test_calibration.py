"""Calibration: by hand, by simulation, and beside scikit-learn."""

import math

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from vitrail.statistics import (
    brier,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    noise_floor,
    reliability,
    risk_coverage,
    threshold_for,
)

CONFIDENCE = np.array([0.95, 0.9, 0.85, 0.8, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4])
CORRECT = np.array([1, 1, 1, 0, 1, 0, 1, 0, 1, 0], bool)


def _logits(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth: a calibrated model."""
    draw = np.random.default_rng(seed)
    logits = 2 * draw.normal(size=(count, classes))
    probabilities = softmax(logits, axis=1)
    return logits, (probabilities.cumsum(1) < draw.random((count, 1))).sum(1)


def test_ten_rows_by_hand() -> None:
    # Of the fifteenths, ((m - 1) / 15, m / 15], 0.6 and 0.55 alone share one.
    groups = [(1, 1, 0.95), (1, 1, 0.9), (1, 1, 0.85), (1, 0, 0.8), (1, 1, 0.7), (1, 0, 0.65), (2, 1, 0.575)]
    groups += [(1, 1, 0.5), (1, 0, 0.4)]
    by_hand = sum(n / 10 * abs(right / n - mean) for n, right, mean in groups)
    assert expected_calibration_error(CONFIDENCE, CORRECT) == pytest.approx(by_hand, abs=1e-6)
    bins = reliability(CONFIDENCE, CORRECT, bins=5)
    assert bins.counts.tolist() == [2] * 5
    assert bins.correct.tolist() == [1, 1, 1, 1, 2]
    assert bins.confidence == pytest.approx([0.45, 0.575, 0.675, 0.825, 0.925], abs=1e-6)


def test_the_order_of_the_images_does_not_matter() -> None:
    draw = np.random.default_rng(0)
    confidence, correct = draw.random(997), draw.random(997) < 0.5
    order = draw.permutation(997)
    for adaptive in (False, True):
        one = expected_calibration_error(confidence, correct, adaptive=adaptive)
        assert one == expected_calibration_error(confidence[order], correct[order], adaptive=adaptive)


def test_proper_scores_are_those_of_scikit_learn() -> None:
    logits, labels = _logits(300, 5)
    probabilities = softmax(logits, axis=1)
    assert negative_log_likelihood(logits, labels) == pytest.approx(log_loss(labels, probabilities, labels=range(5)))
    theirs = brier_score_loss(labels, probabilities, labels=range(5), scale_by_half=False)
    assert brier(probabilities, labels) == pytest.approx(theirs)


@pytest.mark.parametrize(("count", "mean"), [(100, 0.089), (1000, 0.029), (10_000, 0.0093)])
def test_the_noise_floor_of_a_perfect_model(count: int, mean: float) -> None:
    confidence = np.clip(np.random.default_rng(0).beta(3.2, 0.8, count), 0.1, 1)  # accuracy 80 %
    found, high = noise_floor(confidence, draws=300)
    assert found == pytest.approx(mean, rel=0.2)
    assert high > found
    correct = np.random.default_rng(1).random(count) < confidence
    assert expected_calibration_error(confidence, correct) < 2.5 * high


def test_a_temperature_is_found_again() -> None:
    logits, labels = _logits(4000, 10)
    assert fit_temperature(3 * logits, labels).value == pytest.approx(
        3 * fit_temperature(logits, labels).value, rel=0.06
    )
    tripled = fit_temperature(3 * logits, labels)
    assert tripled.value == pytest.approx(3, rel=0.05)
    assert tripled.after < tripled.before
    assert (3 * logits / tripled.value).argmax(1).tolist() == logits.argmax(1).tolist()


def test_where_there_is_nothing_to_fit_there_is_a_reason() -> None:
    logits, labels = _logits(1000, 4)
    assert fit_temperature(logits[:20], labels[:20]).value == 1
    assert "too few" in fit_temperature(logits[:20], labels[:20]).reason
    right = fit_temperature(logits, logits.argmax(1))
    assert (right.value, math.isnan(right.after)) == (1.0, True)
    assert fit_temperature(logits[:, :1], np.zeros(1000, np.int64)).value == 1


def test_answering_only_where_sure() -> None:
    found = risk_coverage(CONFIDENCE, CORRECT)
    assert found.coverage.tolist() == pytest.approx([i / 10 for i in range(1, 11)])
    assert found.risk[[2, 3, 9]].tolist() == pytest.approx([0, 0.25, 0.4])
    assert found.accuracy_at(0.5) == pytest.approx(0.8)
    assert threshold_for(0.8, CONFIDENCE, CORRECT) == pytest.approx((0.7, 0.5))
    assert threshold_for(1.0, CONFIDENCE, CORRECT) == pytest.approx((0.85, 0.3))
    assert threshold_for(0.9, CONFIDENCE[3:4], CORRECT[3:4]) is None
    tied = risk_coverage(np.full(4, 0.5), np.array([True, False, True, False]))
    assert (tied.coverage.tolist(), tied.risk.tolist(), tied.area) == ([1.0], [0.5], 0.5)


def test_the_temperature_is_that_of_scikit_learn() -> None:
    images, digits = load_digits(return_X_y=True)
    model = LogisticRegression(C=100.0, max_iter=2000).fit(images[:700] / 16, digits[:700])  # it is too sure
    held, labels = images[700:] / 16, digits[700:]
    logits = model.decision_function(held)
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature").fit(held, labels)
    found = fit_temperature(logits, labels.astype(np.int64))
    assert found.value > 1.3
    beta = float(theirs.calibrated_classifiers_[0].calibrators[0].beta_)
    assert found.value == pytest.approx(1 / beta, abs=1e-3)
    np.testing.assert_allclose(softmax(logits / found.value, axis=1), theirs.predict_proba(held), atol=1e-4)
