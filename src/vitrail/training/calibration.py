"""One temperature from the answers for validation images; and what makes an image unknown, from its features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from scipy.special import softmax

from vitrail import weights
from vitrail.errors import ConfigError, RunError
from vitrail.run import Predictions, read_predictions
from vitrail.statistics import expected_calibration_error, fit_temperature
from vitrail.weights.calibration import Calibration, Unknown
from vitrail.weights.mahalanobis import Mahalanobis, fit_mahalanobis

MOST_IMAGES = 10_000
"""A single number needs no more; of more images as many are drawn, by a fixed seed."""
_FEWEST_UNKNOWN, _FOLDS = 100, 5


def calibration_of(found: Predictions) -> Calibration:
    """Fit one temperature; 1 with the reason where there is nothing to fit, or where it does not help out of fold."""
    start = Calibration(
        temperature=1.0, reason="", split=found.split, num_images=len(found), fingerprint=found.fingerprint
    )
    if found.logits is None:
        reason = "the answers hold no logits: there are too many images times classes"
        return replace(start, reason=reason)
    chosen = np.arange(len(found))
    if len(found) > MOST_IMAGES:
        chosen = np.sort(np.random.default_rng(0).permutation(len(found))[:MOST_IMAGES])
    logits, labels = found.logits[chosen].astype(np.float64), found.labels[chosen].astype(np.int64)
    fitted = fit_temperature(logits, labels)
    errors = [_calibration_error(logits / t, labels) for t in (1.0, fitted.value)]
    nll = [None if np.isnan(value) else value for value in (fitted.before, fitted.after)]
    return replace(
        start,
        temperature=fitted.value,
        reason=fitted.reason,
        nll_before=nll[0],
        nll_after=nll[1],
        ece_before=errors[0],
        ece_after=errors[1],
    )


def _calibration_error(logits: Float64[np.ndarray, "N L"], labels: Int64[np.ndarray, "N"]) -> float:
    return expected_calibration_error(softmax(logits, axis=1).max(1), logits.argmax(1) == labels)


def unknown_of(
    found: Predictions, features: Float32[np.ndarray, "N D"], temperature: float, reject: float
) -> tuple[Unknown, Mahalanobis]:
    """Find the two thresholds at which a share of validation images would be called unknown.

    The distances are out of fold, so that images which the class means were fitted to do not look nearer than others.

    Args:
        found: the answers, with logits.
        features: pooled, of the same images in the same order.
        temperature: of the model.
        reject: the share, in (0, 0.5]; each score gets half of it.
    Raises:
        ConfigError: too few images, or no logits.
    """
    if not 0 < reject <= 0.5:
        raise ConfigError("--reject is out of range.", got=reject, expected="a share of the images, above 0 up to 0.5")
    if len(found) < _FEWEST_UNKNOWN or found.logits is None:
        got = f"{len(found)} images" if found.logits is not None else "no logits"
        raise ConfigError(
            "There are too few images to tell the unknown by.",
            got=got,
            expected=f"{_FEWEST_UNKNOWN} images or more that the model was not trained on",
            do="Give other images of its classes: --data FOLDER --split all; or train anew and hold out so many with "
            "--data.validation-fraction.",
        )
    confidence = softmax(found.logits.astype(np.float64) / temperature, axis=1).max(1)
    distances = _out_of_fold(features, found.labels)
    unknown = Unknown(
        reject=reject,
        min_probability=float(np.quantile(confidence, reject / 2)),
        max_distance=float(np.quantile(distances, 1 - reject / 2)),
    )
    return unknown, fit_mahalanobis(features, found.labels)


def _out_of_fold(features: Float32[np.ndarray, "N D"], labels: Int32[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    """Distance of each image to the nearest mean of a fit without it and a fifth of the others."""
    import torch

    fold = np.random.default_rng(0).permutation(len(labels)) % _FOLDS
    distances = np.empty(len(labels))
    for number in range(_FOLDS):
        held: Bool[np.ndarray, "N"] = fold == number
        fitted = fit_mahalanobis(features[~held], labels[~held])
        rows = torch.from_numpy(features[held])
        white = rows @ fitted.whiten.T if fitted.whiten.ndim == 2 else rows * fitted.whiten
        distances[held] = fitted.distances(white).numpy()
    return distances


def calibrate_file(path: Path, predictions: Path) -> Calibration | None:
    """Put the temperature that a model's answers give into its file; None where there are no answers.

    The same answers give the same file, whatever stood in it.
    """
    try:
        found = read_predictions(predictions)
    except RunError:
        return None
    calibration = calibration_of(found)
    model, card = weights.load(path)
    if card.calibration and card.calibration.unknown and card.calibration.temperature == calibration.temperature:
        calibration = replace(calibration, unknown=card.calibration.unknown)
    weights.save(path, model, replace(card, calibration=calibration))
    return calibration


def calibration_line(found: Calibration) -> str:
    """What a person is told."""
    if found.ece_before is None or found.ece_after is None:
        return f"confidence     temperature 1: {found.reason}"
    error = f"calibration error {found.ece_before:.3f}"
    if found.temperature != 1:
        error += f", {found.ece_after:.3f} with it"
    return f"confidence     temperature {found.temperature:.3g}: {found.reason} ({found.num_images} images, {error})"
