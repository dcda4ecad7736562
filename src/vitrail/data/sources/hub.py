"""`hf:OWNER/NAME`: image data sets of the Hugging Face hub, through the `datasets` library (extra: hub).

`hf:OWNER/NAME/CONFIG` chooses a configuration, `hf:OWNER/NAME@REVISION` a commit, tag or branch; a local folder that
`datasets` can open serves in place of OWNER/NAME. Everything is downloaded once and then read from the cache.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail.data.sources.index import Encoded, Source, Split, class_index
from vitrail.errors import ConfigError, DataError, install_hint

_SPEC = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
_LABELS = ("label", "labels", "fine_label", "class", "target")


def open_hub(spec: str) -> Source:
    """Open a data set of the hub.

    Args:
        spec: hf:OWNER/NAME[/CONFIG][@REVISION], or hf:FOLDER.
    Raises:
        ConfigError: the datasets library is missing.
        DataError: there is no such data set, it cannot be reached, or it holds no images with classes.
    """
    if "stream" in spec.partition("?")[2]:
        raise DataError(
            f"{spec}: streaming is not supported: images are decoded once and kept, in an order that a seed decides.",
            do=f"Give {spec.partition('?')[0]}; it is downloaded once.",
        )
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"{spec}: data sets of the hub need the datasets library.", do=install_hint("datasets")
        ) from error
    found, local = _SPEC.fullmatch(spec), Path(spec.removeprefix("hf:")).expanduser()
    if not local.is_dir() and found is None:
        raise DataError(f"{spec}: is no name of a data set.", expected="hf:OWNER/NAME[/CONFIG][@REVISION]")
    name, config, revision = (str(local), None, None) if local.is_dir() or found is None else found.group(
        "name", "config", "revision"
    )  # fmt: skip
    try:
        loaded: Any = datasets.load_dataset(name, config, revision=revision)
    except Exception as error:  # each failure of the library has a type of its own
        raise DataError(
            f"{spec}: cannot be opened.",
            got=f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}",
            do="Check the name; without a network it must be in the cache already.",
        ) from error
    tables = {_SPLITS[split]: table for split, table in loaded.items() if split in _SPLITS}
    if "train" not in tables:
        raise DataError(f"{spec}: has no training split.", got=", ".join(loaded), expected="train")
    image, label = _columns(spec, tables["train"].features)
    classes = _classes(tables["train"], label)
    digest = hashlib.sha256("\0".join(f"{k} {t._fingerprint}" for k, t in sorted(tables.items())).encode())
    return Source(
        name=spec,
        classes=classes,
        splits={split: _split(spec, split, table, image, label, classes) for split, table in tables.items()},
        listing=digest.hexdigest(),
        num_bytes=sum(int(table.dataset_size or 0) for table in list(tables.values())[:1]),
    )


def _columns(spec: str, features: Any) -> tuple[str, str]:
    """Names of the columns with the images and with their classes."""
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [name for name in _LABELS if name in features]
    if len(images) != 1 or not labels:
        raise DataError(
            f"{spec}: it is not clear which columns hold the images and their classes.",
            got=", ".join(f"{name}: {type(feature).__name__}" for name, feature in features.items()),
            expected="one column of images and one of classes",
        )
    return images[0], next((name for name in _LABELS if name in labels), labels[0])


def _classes(table: Any, label: str) -> tuple[str, ...]:
    """Names of the label column, or its distinct values, sorted."""
    import datasets

    feature = table.features[label]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(map(str, feature.names))
    values = set(table[label])
    return tuple(map(str, sorted(values)))


def _split(spec: str, split: str, table: Any, image: str, label: str, classes: tuple[str, ...]) -> Split:
    import datasets

    values: list[Any] = list(table[label])
    if isinstance(table.features[label], datasets.ClassLabel):
        labels: Int64[np.ndarray, "N"] = np.asarray(values, dtype=np.int64)
        if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
            raise DataError(f"{spec} {split}: examples without a class.", got=int(labels.min()), expected="0 or above")
    else:
        known = list(classes)
        labels = np.array([class_index(str(value), known, f"{spec} {split}") for value in values], dtype=np.int64)
    encoded = table.cast_column(image, datasets.Image(decode=False))

    def read(positions: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
        for position in positions:
            record = encoded[int(position)][image]
            yield record["bytes"] if record["bytes"] is not None else Path(record["path"])

    return Split(labels, [f"{split}:{i}" for i in range(len(labels))], read)
