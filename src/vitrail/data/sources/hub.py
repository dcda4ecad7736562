"""`hf:OWNER/NAME`: image data sets of the Hugging Face hub, through the `datasets` library (extra: hub).

`hf:OWNER/NAME/CONFIG` chooses a configuration, `hf:OWNER/NAME@REVISION` a commit, tag or branch; a local folder that
`datasets` can open serves in place of OWNER/NAME. Everything is downloaded once and then read from the cache.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail.config.checks import distinct_names
from vitrail.data.sources.index import Encoded, Source, Split, few, nfc
from vitrail.data.sources.labels import (
    LABEL_COLUMNS,
    check_classes,
    label_indices,
    labelled,
    names_of,
    tidy_labels,
)
from vitrail.data.sources.split_names import split_of
from vitrail.errors import ConfigError, DataError, install_hint, shown
from vitrail.reading import read_regular

_MAX_DESCRIPTION_BYTES = 2 << 20
"""Of the description of a folder; one with the 21,841 names of ImageNet-21k has half of it."""
_SPEC = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")


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
            f"{spec}: streaming is not supported in this form.",
            do=f"Give {spec.partition('?')[0]}, which is downloaded once; or stream its Parquet files: "
            f"vitrail data index hf://datasets/{spec.partition('?')[0].removeprefix('hf:')} -o DIR, then --data DIR.",
        )
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"{spec}: data sets of the hub need the datasets library.", do=install_hint("datasets")
        ) from error
    found, local = _SPEC.fullmatch(spec), Path(os.path.expanduser(spec.removeprefix("hf:")))
    if not local.is_dir() and found is None:
        raise DataError(f"{spec}: is not the name of a data set.", expected="hf:OWNER/NAME[/CONFIG][@REVISION]")
    if local.is_dir():
        _check_descriptions(spec, local)
    # A bare name, and a relative path too, may select a loader of the library in place of the folder.
    name, config, revision = (str(local.resolve()), None, None) if local.is_dir() or found is None else found.group(
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
    tables, left_out = _by_split(loaded)
    if not tables:
        raise DataError(f"{shown(spec)}: has no split.", got=few(left_out), expected="train, validation or test")
    first = tables["train" if "train" in tables else min(tables)]
    image, label = _columns(spec, first.features)
    classes = _classes(spec, first, label)
    digest = hashlib.sha256("\0".join(f"{k} {t._fingerprint}" for k, t in sorted(tables.items())).encode())
    splits, notes = labelled(
        {split: _split(spec, split, table, image, label, classes) for split, table in tables.items()}, shown(spec)
    )
    if left_out:
        notes.append(f"beside the splits, these parts are left out: {few(left_out)}")
    return Source(
        name=spec,
        classes=classes,
        splits=splits,
        listing=digest.hexdigest(),
        num_bytes=sum(int(table.dataset_size or 0) for table in list(tables.values())[:1]),
        notes=tuple(notes),
    )


def _check_descriptions(spec: str, folder: Path) -> None:
    """Raise DataError where what the library reads first of a folder is no file, or takes it minutes."""
    for path in (folder / "README.md", folder / "dataset_infos.json"):
        try:
            read_regular(path, _MAX_DESCRIPTION_BYTES)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(
                f"{shown(spec)}: its {path.name} cannot be read.", got=error.strerror, expected="a short description"
            ) from error


def _by_split(loaded: Any) -> tuple[dict[str, Any], list[str]]:
    """The tables that are splits, of several that mean the same one the first; and the names of the others."""
    tables: dict[str, Any] = {}
    left_out: list[str] = []
    for name, table in loaded.items():
        split = split_of(name)
        if split is None or split in tables:
            left_out.append(name)
        else:
            tables[split] = table
    return tables, left_out


def _columns(spec: str, features: Any) -> tuple[str, str]:
    """Names of the columns with the images and with their classes."""
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [name for name in LABEL_COLUMNS if name in features]
    if len(images) != 1 or not labels:
        raise DataError(
            f"{shown(spec)}: it is not clear which columns hold the images and their classes.",
            got=few([f"{name}: {type(feature).__name__}" for name, feature in features.items()], 12),
            expected=f"one column of images, and one of classes, called {', '.join(LABEL_COLUMNS)}",
        )
    return images[0], next((name for name in LABEL_COLUMNS if name in labels), labels[0])


def _names(features: Any, label: str) -> tuple[str, ...] | None:
    """The names of integer labels, where the set gives them."""
    import datasets

    feature = features[label]
    if not isinstance(feature, datasets.ClassLabel):
        return None
    check_classes(feature.names)
    return distinct_names(nfc(str(name)) for name in feature.names)


def _classes(spec: str, table: Any, label: str) -> tuple[str, ...]:
    """Names of the label column, or its distinct values, sorted."""
    where = f"{shown(spec)}, column {shown(label)!r}"
    return _names(table.features, label) or names_of(tidy_labels(list(table[label]), where))


def _split(spec: str, split: str, table: Any, image: str, label: str, classes: tuple[str, ...]) -> Split:
    import datasets

    if image not in table.features or label not in table.features:
        raise DataError(
            f"{shown(spec)} {split}: other columns than in the training set.", got=few(list(table.features))
        )
    where = f"{shown(spec)} {split}, column {shown(label)!r}"
    values = tidy_labels(list(table[label]), where)
    labels = label_indices(values, _names(table.features, label), classes, where)
    encoded = table.cast_column(image, datasets.Image(decode=False))

    def read(positions: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
        for position in positions:
            record: dict[str, Any] = encoded[int(position)][image] or {}
            content, file = record.get("bytes"), record.get("path")
            # Without bytes and file it is an unreadable image, not an error of the whole set.
            yield Path(file) if content is None and file else content or b""

    return Split(labels, [f"{split}:{i}" for i in range(len(labels))], read)
