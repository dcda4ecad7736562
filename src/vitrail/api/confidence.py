"""How sure a model's answers are: fitted to images, and written into the model file."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from vitrail import weights
from vitrail.api.datasets import Split
from vitrail.api.inference import OnNote, image_set_of
from vitrail.errors import ConfigError, InputError, shown
from vitrail.predictor import Predictor
from vitrail.runtime import EngineOptions
from vitrail.training import evaluate as measure
from vitrail.training import pick_device
from vitrail.training.calibration import calibration_of, unknown_of
from vitrail.training.transfer.probe import features as features_of
from vitrail.weights.calibration import Calibration

_BATCH_SIZE = 64


def calibrate(
    model: str | Path,
    data: str | Path | None = None,
    *,
    split: Split = "val",
    reject: float | None = None,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: bool = False,
    on_note: OnNote = lambda _: None,
) -> Calibration:
    """Find how sure a model's answers are, and write it into the model file: `vitrail calibrate`.

    One temperature is fitted by which logits are divided, and kept where it helps on images that it was not fitted to.

    Args:
        model: a run directory, a vitrail file, or other weights with `out`.
        data: images that the model was not trained on; None: the data of its training.
        split: which of them.
        reject: the share of these images, in (0, 0.5], that may be called unknown, so that strange images are; 0:
            every image gets a class; None: as it was.
        out: another file to write; None: the model's own.
        data_root, device, progress, on_note: as of `evaluate`.
    Returns:
        What was found: `.temperature`, `.reason`, `.ece_before`, `.ece_after`, `.unknown`.
    Raises:
        ConfigError: too few images for `reject`, or a share out of range.
        WeightsError, DataError, InputError: as of `evaluate`.
        SaveError: it could not be written; the file is as it was.
    """
    loaded, card = weights.load(model, device=pick_device(device))
    target = Path(out) if out else None if str(model).startswith("builtin:") else weights.is_own(model)
    if target is None:
        raise ConfigError(f"{shown(model)}: is no file of yours to write to.", do="Add --out FILE.safetensors.")
    if reject is None and card.calibration and card.calibration.unknown:
        reject = card.calibration.unknown.reject
    card = replace(card, calibration=None)
    loaded.mahalanobis = None
    predictor = Predictor((loaded, card), device=device, options=EngineOptions(engine="torch"))
    image_set, was_trained_on = image_set_of(predictor, data, split, data_root, progress=progress)
    if was_trained_on:
        raise InputError(
            "The model was trained on most of these images, so they do not tell how sure it may be of new ones.",
            got=f"{split} of its own data" + (", of which nothing was held out" if split == "val" else ""),
            do="Give other images: --data FOLDER --split all; or train with --evaluation.split val.",
        )
    for note in image_set.notes:
        on_note(note)
    size, preprocessing = _BATCH_SIZE, predictor.preprocessing
    found = measure(predictor.model, image_set, preprocessing, batch_size=size, progress=progress).predictions
    assert found
    calibration = calibration_of(found)
    if reject:
        rows = features_of(predictor.model, image_set, preprocessing, batch_size=size).rows
        rows = rows[np.argsort(image_set.ids, kind="stable")]  # as the answers are
        unknown, loaded.mahalanobis = unknown_of(found, rows, calibration.temperature, reject)
        calibration = replace(calibration, unknown=unknown)
    weights.save(target, loaded, replace(card, calibration=calibration))
    return calibration
