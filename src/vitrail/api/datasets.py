"""Data sets by name, decoded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vitrail import data as datasets
from vitrail import doctor, weights
from vitrail.config import DataConfig
from vitrail.data import ImageSet
from vitrail.data.sources.manifest import check_nameable, write_manifest
from vitrail.model import ViT
from vitrail.predictor import preprocessing_at
from vitrail.runtime.device import pick_device
from vitrail.weights import Card

Split = Literal["train", "val", "test", "all"]
DOCTORS_MODEL = "builtin:cifar100-conv"
"""Whose features `check_data` compares, where nothing else is asked for."""


def load_data(
    data: str | Path | DataConfig,
    splits: Sequence[Split] | None = None,
    *,
    card: Card | None = None,
    data_root: str | Path | None = None,
    progress: bool = False,
) -> dict[str, ImageSet]:
    """Open a data set and decode it: images [N, C, H, W] uint8, labels [N] and the names of their files.

    A named set that is missing is downloaded.

    Args:
        data: a folder, a named set, a manifest, hf:OWNER/NAME, or settings that say size and channels as well.
        splits: some of train, val, test, all; None: every split of the data's own. "val" is held out of "train" where
            there is none, if both are asked for together.
        card: of the model that the images are for: its classes, if they have names, and its preprocessing are used.
        data_root: where named data sets are.
        progress: show bars on standard error.
    Returns:
        The splits by name; `.errors` of each names what could not be read.
    Raises:
        DataError: no such data set or split, or a class that the model does not have.
    """
    config = data if isinstance(data, DataConfig) else DataConfig(spec=str(data))
    if data_root is not None:
        config = replace(config, root=str(data_root))
    if splits is None:
        own = datasets.available_splits(replace(config, validation_fraction=0.0))
        splits = [name for name in ("train", "val", "test") if name in own] or ["all"]
    classes, preprocessing = (card.classes or None, card.preprocessing) if card else (None, None)
    return datasets.load(config, splits, classes=classes, preprocessing=preprocessing, progress=progress)


def check_data(
    data: str | Path | DataConfig,
    *,
    near: bool = False,
    model: str | Path | tuple[ViT, Card] = DOCTORS_MODEL,
    gallery: str | Path | None = None,
    manifest: str | Path | None = None,
    data_root: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 64,
    device: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Read a whole data set and say what is wrong with it: `vitrail data check`. Nothing is changed or deleted.

    Args:
        data: a folder, a named set, a manifest, hf:OWNER/NAME, or settings.
        near: also look for what only looks wrong: images that are nearly the same, in two splits (leaks) or one,
            suspect labels, outliers, blank, dark, blurred and very long images.
        model: whose features are compared: a run directory, a model file or other weights, a (model, card) pair.
        gallery: an HTML file to write, a page of what was found; implies `near`.
        manifest: a CSV or TSV file to write, of the images without what was found; implies `near`.
        data_root: where named data sets are.
        image_size: another input side of the model in pixels, or (height, width); None: its own.
        batch_size: images that the model sees at a time.
        device: auto, cpu, cuda, ...
        progress: show bars on standard error.
    Returns:
        What `vitrail data check --json` prints: splits (num_examples, per_class, errors, duplicates), leaks, conflicts,
        warnings, is_clean (of faults that are certain), and under "near" the guesses: kinds (counts), leaks, pairs,
        similar, groups, suspects, outliers, odd, not_judged, each ranked.
    Raises:
        DataError: there is no such data set, or its images are not files and a manifest was asked for.
        WeightsError: the model cannot be read.
        SaveError: a file cannot be written.
    """
    config = data if isinstance(data, DataConfig) else DataConfig(spec=str(data))
    if data_root is not None:
        config = replace(config, root=str(data_root))
    if not (near or gallery is not None or manifest is not None):
        return datasets.check(config, progress=progress)
    source = datasets.open_source(config)
    if manifest is not None:
        check_nameable(Path(manifest), source)
    vit, card = model if isinstance(model, tuple) else weights.load(model)
    preprocessing = preprocessing_at(card, image_size)
    exact = datasets.check(config, progress=progress)
    vit = vit.to(pick_device(device)).eval()
    found = doctor.examine(source, exact, vit, preprocessing, batch_size=batch_size, progress=progress)
    if manifest is not None:
        found["num_kept"] = write_manifest(Path(manifest), source, doctor.kept(source, exact, found))
    if gallery is not None:
        doctor.write_gallery(Path(gallery), source, exact, found)
    return {**exact, "near": found}
