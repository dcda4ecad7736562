"""Labels as tables have them -> classes and their indices. What has no label is set aside, never a class."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from vitrail.data.sources.index import Split, class_index, nfc, places_of, take_rows
from vitrail.errors import DataError, shown

Label = int | str | None
UNLABELLED = -1
MAX_CLASSES = 100_000
"""Of a table; the largest public sets of images have 20,000 to 80,000."""
MAX_NAME = 1000
"""Characters of a class's name."""
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
"""Columns that hold classes, the first one found first."""


def tidy_labels(values: Sequence[object], where: str, rows: Sequence[int] | None = None) -> list[Label]:
    """Integers and text; None for null, NaN and empty text; whole floats are integers, bytes are text.

    Args:
        values: as the table has them.
        where: how messages call their place.
        rows: where in the table each of them stands; None: one after the other.
    Raises:
        DataError: other values, as lists and structs.
    """
    if {type(value) for value in values} <= {int}:
        return [value for value in values if isinstance(value, int)]
    numbers = range(len(values)) if rows is None else rows
    return [_tidy(value, row, where) for row, value in zip(numbers, values, strict=True)]


def _tidy(value: object, row: int, where: str) -> Label:
    match value:
        case None:
            return None
        case bool():
            return str(value)
        case int():
            return value
        case str():
            return nfc(value) if value.strip() else None
        case float() if math.isnan(value):
            return None
        case float() if value.is_integer():
            return int(value)
        case bytes():
            return nfc(value.decode(errors="surrogateescape")) or None
        case _:
            pass
    several = isinstance(value, list | tuple | set | np.ndarray)
    raise DataError(
        f"{where}, row {row}: this is no class.",
        got=f"a {type(value).__name__}, {shown(value, 60)}",
        expected="an integer or text, one class for each image",
        do="Models with several classes for an image are not trained here." if several else None,
    )


def names_of(values: Iterable[Label]) -> tuple[str, ...]:
    """The distinct labels as names of classes: integers by size, then text."""
    distinct = {value for value in values if value is not None}
    check_classes(distinct)
    return tuple(map(str, sorted(distinct, key=lambda value: (isinstance(value, str), value))))


def check_classes(names: Collection[object]) -> None:
    """Raise DataError where there are more classes, or longer names of them, than a classifier has; or no text."""
    if len(names) > MAX_CLASSES:
        raise DataError(
            "There are too many classes.",
            got=f"{len(names)}",
            expected=f"at most {MAX_CLASSES}",
            do="Check that the label column holds classes, not a text or number of each image.",
        )
    try:
        "".join(name for name in names if isinstance(name, str)).encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise DataError(
            "The name of a class is no text.",
            got=f"half of a character, {error.object[error.start : error.end].encode('unicode_escape').decode()}",
            expected="Unicode",
        ) from error
    long = next((name for name in names if isinstance(name, str) and len(name) > MAX_NAME), None)
    if long is not None:
        raise DataError(
            "The name of a class is too long.",
            got=f"{len(long)} characters, {shown(long, 60)!r}",
            expected=f"at most {MAX_NAME}",
            do="Give the class a short name.",
        )


def label_indices(
    values: Sequence[Label],
    own_names: Sequence[str] | None,
    classes: Sequence[str],
    where: str,
    rows: Sequence[int] | None = None,
) -> Int64[np.ndarray, "N"]:
    """Labels as positions in `classes`, `UNLABELLED` where there is none; `label_index` for each distinct one."""
    index, places = dict[Label, int](), places_of(classes)
    for row, value in zip(range(len(values)) if rows is None else rows, values, strict=True):
        if value not in index:
            index[value] = label_index(value, own_names, classes, f"{where}, row {row}", places)
    return np.array([index[value] for value in values], dtype=np.int64)


def label_index(
    value: Label, own_names: Sequence[str] | None, classes: Sequence[str], where: str, places: Mapping[str, int]
) -> int:
    """A label as position in `classes`, `UNLABELLED` where it is none.

    -1 is no label either, unless the training set has a class of that name.

    Args:
        value: from `tidy_labels`.
        own_names: names of integer labels, where their table gives them.
        classes: those of the training set.
        where: how messages call its place.
        places: from `places_of(classes)`.
    Raises:
        DataError: a label that is not among the names, or a class that the training set does not have.
    """
    if value is None or (str(value) == "-1" and "-1" not in classes):
        return UNLABELLED
    if own_names is None or isinstance(value, str):
        return class_index(str(value), classes, where, places=places)
    if not 0 <= value < len(own_names):
        raise DataError(
            f"{where}: no usable label.", got=value, expected=f"0 to {len(own_names) - 1}, or -1 where there is none"
        )
    return class_index(own_names[value], classes, where, places=places)


def labelled(splits: dict[str, Split], name: str) -> tuple[dict[str, Split], list[str]]:
    """The splits without their unlabelled examples, those without any label left out, and notes that say so.

    Raises:
        DataError: no example has a label.
    """
    kept: dict[str, Split] = {}
    notes: list[str] = []
    for split, content in splits.items():
        rows = np.flatnonzero(content.labels != UNLABELLED)
        if len(rows) == len(content):
            kept[split] = content
            continue
        missing = len(content) - len(rows)
        if len(rows):
            kept[split] = take_rows(content, rows)
            notes.append(f"{split}: {missing} of {len(content)} examples have no label and are left out")
        else:
            notes.append(f"{split}: none of its {missing} examples has a label; no such split")
    if not kept or ("train" in splits and "train" not in kept):
        raise DataError(f"{name}: no example has a label.", got="; ".join(notes), expected="labelled training images")
    return kept, notes
