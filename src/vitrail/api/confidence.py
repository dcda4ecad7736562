"""How sure a model's answers are: fitted to images, and written into the model file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vitrail import weights
from vitrail.api.datasets import Split
from vitrail.api.inference import OnNote, evaluate, image_set_of, trained_on
from vitrail.errors import ConfigError, InputError, shown
from vitrail.predictor import Predictor
from vitrail.runtime import EngineOptions
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
    own = weights.is_own(model)
    target = Path(out) if out else own
    if target is None or (own and target == own and str(model).startswith("builtin:")):
        raise ConfigError(f"{shown(model)}: is no file of yours to write to.", do="Add --out FILE.safetensors.")
    loaded, card = weights.load(model, device=pick_device(device))
    if reject is None and card.calibration and card.calibration.unknown:
        reject = card.calibration.unknown.reject
    card = replace(card, calibration=None)
    loaded.mahalanobis = None
    predictor = Predictor((loaded, card), device=device, options=EngineOptions(engine="torch"))
    if split == "all" and (data is None or str(data) == trained_on(card).spec):
        raise InputError(
            "The model was trained on most of these images, so they do not tell how sure it may be of new ones.",
            got="all images of its own data",
            do="Give other images: --data FOLDER --split all; or take its val split.",
        )
    found = evaluate(predictor, data, split=split, data_root=data_root, progress=progress, on_note=on_note).predictions
    assert found
    calibration = calibration_of(found)
    if reject:
        rows = _features_of(predictor, data, split, data_root, progress)
        unknown, loaded.mahalanobis = unknown_of(found, rows, calibration.temperature, reject)
        calibration = replace(calibration, unknown=unknown)
    weights.save(target, loaded, replace(card, calibration=calibration))
    return calibration


def _features_of(
    predictor: Predictor, data: str | Path | None, split: Split, data_root: str | Path | None, progress: bool
) -> Float32[np.ndarray, "N D"]:
    """Pooled features of the images that `evaluate` measures, ordered by id."""
    image_set = image_set_of(predictor, data, split, data_root, progress=progress)[0]
    rows = features_of(predictor.model, image_set, predictor.preprocessing, batch_size=_BATCH_SIZE).rows
    return rows[np.argsort(image_set.ids, kind="stable")]
