"""Data sets by name, decoded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vitrail import data as datasets
from vitrail.config import DataConfig
from vitrail.data import ImageSet
from vitrail.weights import Card

Split = Literal["train", "val", "test", "all"]


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
