"""Parquet files in the layout of image data sets on the Hugging Face Hub.

One column holds structs {bytes, path} (or plain bytes) with encoded images, another one class labels: integers whose
names stand in the schema's `huggingface` metadata, or strings. The file name tells the split, as train-00000-of-00003.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail.data.sources.index import Encoded, Source, Split, class_index, listing_of_paths
from vitrail.errors import DataError, install_hint

_SPLIT_NAME = re.compile(r"(train|test|validation|valid|val)(?=$|[-_.])")
_CANONICAL = {"validation": "val", "valid": "val"}
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
_IMAGE_NAMES = ("image", "img")
# Rows decoded from a row group at a time; bounds memory where a writer put everything into one group.
_ROWS = 1024


@dataclass(frozen=True)
class _Columns:
    """Where a file keeps images and labels; `names` are those of integer labels, if the file gives them."""

    image: str
    is_struct: bool
    label: str
    names: tuple[str, ...] | None


def parquet_files(folder: Path) -> list[Path]:
    """The visible Parquet files in a folder, else those one level below (as in `data/`), sorted."""
    for pattern in ("*.parquet", "*/*.parquet"):
        found = [p for p in folder.glob(pattern) if not any(s.startswith(".") for s in p.relative_to(folder).parts)]
        if found:
            return sorted(found)
    return []


def open_parquet(files: Sequence[Path], name: str, root: Path) -> Source:
    """Index Parquet files.

    Args:
        files: all shards of all splits.
        name: how messages call the data set.
        root: folder that the names of examples are relative to.
    Raises:
        DataError: a file is damaged, its columns or labels are not understood, or its split cannot be told.
    """
    groups = _by_split(files)
    listing, num_bytes = listing_of_paths(files, root)
    tables = {split: [_read_labels(path) for path in paths] for split, paths in groups.items()}
    first = "train" if "train" in tables else next(iter(tables))
    classes = _class_names(tables[first])
    splits: dict[str, Split] = {}
    for split, paths in groups.items():
        parts = [
            _indices(values, columns, classes, path)
            for path, (columns, values) in zip(paths, tables[split], strict=True)
        ]
        shards = [
            (path, columns, len(labels)) for path, (columns, _), labels in zip(paths, tables[split], parts, strict=True)
        ]
        names = [f"{path.relative_to(root).as_posix()}:{row}" for path, _, count in shards for row in range(count)]
        splits[split] = Split(np.concatenate(parts), names, _Reader(shards))
    return Source(name, classes, splits, listing, num_bytes)


@dataclass(frozen=True)
class _Reader:
    """Yields the encoded images of some rows, one batch of rows in memory at a time."""

    shards: Sequence[tuple[Path, _Columns, int]]

    def __call__(self, positions: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
        start = 0
        for path, columns, count in self.shards:
            rows = positions[(positions >= start) & (positions < start + count)] - start
            if len(rows):
                yield from self._rows_of(path, columns, rows)
            start += count

    def _rows_of(self, path: Path, columns: _Columns, rows: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
        with _opened(path) as file:
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if np.any((rows >= start) & (rows < stop)):
                    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[columns.image]):
                        inner = rows[(rows >= start) & (rows < start + batch.num_rows)] - start
                        column = batch.column(0)
                        values = column.field("bytes") if columns.is_struct else column
                        for row in inner:
                            # Without bytes the record is an unreadable image, not an error of the whole set.
                            yield values[int(row)].as_py() or b""
                        start += batch.num_rows
                start = stop


def _by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by split, told by the file name, else by the folder; a single group without a name is "train"."""
    groups: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    for path in files:
        match = _SPLIT_NAME.match(path.name) or _SPLIT_NAME.fullmatch(path.parent.name)
        if match is None:
            unnamed.append(path)
        else:
            groups.setdefault(_CANONICAL.get(match[1], match[1]), []).append(path)
    if unnamed and groups:
        raise DataError(
            f"{unnamed[0]}: the split cannot be told from the file name.",
            got=unnamed[0].name,
            expected="a name that begins with train-, validation- or test-, as the other files' names do",
        )
    return groups or {"train": unnamed}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A ParquetFile. Raises DataError when pyarrow is missing, or the file turns out damaged in the `with` block."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet files needs pyarrow.", do=install_hint("pyarrow")) from error
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file.",
            got=str(error).splitlines()[0],
            expected="a complete Parquet file",
            do="Fetch or copy the file again.",
        ) from error


def _read_labels(path: Path) -> tuple[_Columns, list[Any]]:
    with _opened(path) as file:
        columns = _columns(file.schema_arrow, path)
        return columns, file.read(columns=[columns.label]).column(0).to_pylist()


def _columns(schema: Any, path: Path) -> _Columns:
    """Find the image and the label column by the Hub's metadata, else by name and type."""
    import pyarrow

    features = _features(schema)

    def kind(column: str) -> object:
        return features.get(column, {}).get("_type")

    def holds_bytes(column: str) -> bool:
        arrow_type = schema.field(column).type
        if pyarrow.types.is_struct(arrow_type):
            return any(arrow_type.field(i).name == "bytes" for i in range(arrow_type.num_fields))
        return pyarrow.types.is_binary(arrow_type) or pyarrow.types.is_large_binary(arrow_type)

    images = [c for c in schema.names if holds_bytes(c) and (kind(c) == "Image" or c in _IMAGE_NAMES)]
    images = images or [c for c in schema.names if holds_bytes(c)]
    labels = [c for c in _LABEL_NAMES if c in schema.names] or [c for c in schema.names if kind(c) == "ClassLabel"]
    if not images or not labels:
        raise DataError(
            f"{path}: no {'label' if images else 'image'} column was found.",
            got=f"columns {', '.join(schema.names)}",
            expected="an image column of structs {bytes, path} and a label column, as image sets on the Hub have",
        )
    names = features[labels[0]].get("names") if kind(labels[0]) == "ClassLabel" else None
    is_struct = pyarrow.types.is_struct(schema.field(images[0]).type)
    return _Columns(images[0], is_struct, labels[0], tuple(map(str, names)) if names else None)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """The Hub's description of each column; empty where the file is not of the Hub: names and types decide then."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {str(column): feature for column, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _class_names(tables: Sequence[tuple[_Columns, list[Any]]]) -> tuple[str, ...]:
    """The names of the metadata, in its order; without them the values themselves, sorted."""
    for columns, _ in tables:
        if columns.names is not None:
            return columns.names
    values = {value for _, labels in tables for value in labels if value is not None}
    return tuple(map(str, sorted(values, key=lambda value: (isinstance(value, str), value))))


def _indices(values: list[Any], columns: _Columns, classes: tuple[str, ...], path: Path) -> Int64[np.ndarray, "N"]:
    """Labels as positions in `classes`; integers go through the names of their own file."""
    index: dict[Any, int] = {}
    for row, value in enumerate(values):
        if value in index:
            continue
        where = f"{path.name}, row {row}: column {columns.label!r}"
        if value is None or (
            columns.names is not None and not (isinstance(value, int) and 0 <= value < len(columns.names))
        ):
            raise DataError(
                f"{where} has no usable label.",
                got=value,
                expected=f"0 to {len(columns.names) - 1}" if columns.names else "an integer or a string",
                do="Leave unlabelled examples out.",
            )
        index[value] = class_index(columns.names[value] if columns.names else str(value), classes, where)
    return np.array([index[value] for value in values], dtype=np.int64)
