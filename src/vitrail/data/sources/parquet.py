"""Parquet files in the layout of image data sets on the Hugging Face Hub.

One column holds structs {bytes, path} (or plain bytes, or paths of files beside the table) with encoded images,
another one class labels: integers whose names stand in the schema's `huggingface` metadata, or strings. The name of
the file, or of its folder, tells the split, as train-00000-of-00003 or pets_test.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail.config.checks import distinct_names
from vitrail.data.sources.index import Encoded, Source, Split, few, listing_of_paths, nfc
from vitrail.data.sources.labels import LABEL_COLUMNS, Label, label_indices, labelled, names_of, tidy_labels
from vitrail.data.sources.split_names import named_splits, splits_of_file
from vitrail.errors import DataError, install_hint, shown

_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "pixel_values", "jpg", "png")
_PATH_COLUMNS = ("path", "file_name", "filename", "file", "image_path", "filepath")
# Rows decoded from a row group at a time; bounds memory where a writer put everything into one group.
_ROWS = 1024
MAX_ROWS = 20_000_000
"""Of one file: more than all public sets of labelled images have in a shard."""
MAX_LABEL_BYTES = 1 << 30
"""Of the labels of one file."""


@dataclass(frozen=True)
class _Columns:
    """Where a file keeps images and labels; `names` are those of integer labels, if the file gives them."""

    image: str
    form: str
    """What the image column holds: struct, bytes or path."""
    label: str
    names: tuple[str, ...] | None


def parquet_files(folder: Path) -> list[Path]:
    """The visible Parquet files in a folder, else those one level below (as in `data/`), else in the split folders of
    those (as in `default/train/`), sorted.
    """
    for pattern in ("*.parquet", "*/*.parquet", "*/*"):
        found = list(folder.glob(pattern))
        if pattern == "*/*":
            found = [p for inner in found if named_splits(inner.name)[0] for p in inner.glob("*.parquet")]
        found = [p for p in found if not any(s.startswith(".") for s in p.relative_to(folder).parts)]
        if found:
            return sorted(found)
    return []


def open_parquet(files: Sequence[Path], name: str, root: Path) -> Source:
    """Index Parquet files.

    Rows without a label are left out and counted. Classes of one name are told apart as `distinct_names` says.

    Args:
        files: all shards of all splits.
        name: how messages call the data set.
        root: folder that the names of examples are relative to.
    Raises:
        DataError: a file is damaged, its columns or labels are not understood, or its split cannot be told.
    """
    groups = _by_split(files, root)
    listing, num_bytes = listing_of_paths(files, root)
    tables = {split: [_read_labels(path) for path in paths] for split, paths in groups.items()}
    first = "train" if "train" in tables else next(iter(tables))
    classes = _class_names(tables[first])
    splits: dict[str, Split] = {}
    for split, paths in groups.items():
        parts = [
            label_indices(values, columns.names, classes, _where(path, columns.label))
            for path, (columns, values) in zip(paths, tables[split], strict=True)
        ]
        shards = [
            (path, columns, len(labels)) for path, (columns, _), labels in zip(paths, tables[split], parts, strict=True)
        ]
        names = [f"{path.relative_to(root).as_posix()}:{row}" for path, _, count in shards for row in range(count)]
        splits[split] = Split(np.concatenate(parts), names, _Reader(shards))
    if not any(map(len, splits.values())):
        raise DataError(f"{shown(name)}: the table has no rows.", expected="a row an image")
    splits, notes = labelled(splits, shown(name))
    return Source(name, classes, splits, listing, num_bytes, notes=tuple(notes))


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
                        for row in inner:
                            yield _record(column[int(row)].as_py(), path, start + int(row))
                        start += batch.num_rows
                start = stop


def _record(value: Any, path: Path, row: int) -> Encoded:
    """The bytes of an image, or its file; without either it is an unreadable image, not an error of the whole set."""
    content, file = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(content, str):
        content, file = None, content
    if isinstance(content, bytes) or not isinstance(file, str) or not file or "\0" in file:
        return content if isinstance(content, bytes) else b""
    # A table is a stranger's: it may not name files elsewhere on this machine.
    windows, folder = PureWindowsPath(file), os.path.realpath(path.parent)
    target = os.path.realpath(os.path.join(folder, file))
    if windows.drive or windows.root or os.path.commonpath([folder, target]) != folder:
        raise DataError(
            f"{shown(path.name)}, row {row}: the image is a file outside of the table's folder, which is not read.",
            got=shown(file),
            expected="a path relative to the Parquet file, or the bytes of the image",
        )
    return Path(folder, file)


def _by_split(files: Sequence[Path], root: Path) -> dict[str, list[Path]]:
    """Files by split, told by the file name, else by the folder; a single group without a name is "train"."""
    groups: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    for path in files:
        found = splits_of_file(path.relative_to(root))
        if len(found) > 1:
            raise DataError(
                f"{shown(path)}: its name means several splits.",
                got=shown(path.relative_to(root)),
                expected="one of train, validation and test in the name of the file or of its folder",
                do="Rename it.",
            )
        if found:
            groups.setdefault(next(iter(found)), []).append(path)
        else:
            unnamed.append(path)
    if unnamed and groups:
        raise DataError(
            f"{shown(unnamed[0])}: the split cannot be told from the file name.",
            got=shown(unnamed[0].name),
            expected="train, validation or test in the name, as in the other files' names",
        )
    for split, paths in groups.items():
        # Folders that name no split are configurations: a data set of its own each.
        folders = {tuple(p for p in path.relative_to(root).parts[:-1] if not named_splits(p)[0]) for path in paths}
        if len(folders) > 1:
            raise DataError(
                f"{shown(root)}: several folders hold a split {split!r}.",
                got=few(["/".join(parts) or "." for parts in sorted(folders)]),
                expected="one data set",
                do=f"Give one of them, as {shown(root.joinpath(*max(folders)))}.",
            )
    return {split: groups[split] for split in ("train", "val", "test") if split in groups} or {"train": unnamed}


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


def _read_labels(path: Path) -> tuple[_Columns, list[Label]]:
    with _opened(path) as file:
        columns = _columns(file.schema_arrow, path)
        if file.metadata.num_rows > MAX_ROWS:
            raise DataError(
                f"{shown(path)}: too many rows for one file.",
                got=file.metadata.num_rows,
                expected=f"at most {MAX_ROWS}",
                do="Write it as several files, in the folder of the data set.",
            )
        values: list[object] = []
        size = 0
        for batch in file.iter_batches(_ROWS, columns=[columns.label]):
            column = batch.column(0)
            size += column.nbytes
            if size > MAX_LABEL_BYTES:
                raise DataError(
                    f"{shown(path)}: too many bytes of labels for one file.",
                    expected=f"at most {MAX_LABEL_BYTES}",
                    do="Give classes short names, or write several files.",
                )
            values += column.to_pylist()
    return columns, tidy_labels(values, _where(path, columns.label))


def _where(path: Path, label: str) -> str:
    return f"{shown(path.name)}, column {shown(label)!r}"


def _columns(schema: Any, path: Path) -> _Columns:
    """Find the image and the label column by the Hub's metadata, else by name and type."""
    features = _features(schema)
    fields = {field.name: field.type for field in schema}
    forms = {name: form for name, kind in fields.items() if (form := _form(kind))}

    def kind(column: str) -> object:
        return features.get(column, {}).get("_type")

    def is_called(column: str, accepted: Sequence[str]) -> bool:
        return column.lower() in accepted

    encoded = [name for name, form in forms.items() if form != "path"]
    images = [name for name in encoded if kind(name) == "Image" or is_called(name, _IMAGE_COLUMNS)] or encoded
    images = images or [name for name in forms if is_called(name, (*_IMAGE_COLUMNS, *_PATH_COLUMNS))]
    lower = {name.lower(): name for name in fields}
    labels = [lower[name] for name in LABEL_COLUMNS if name in lower and lower[name] not in images[:1]]
    labels = labels or [name for name in fields if kind(name) == "ClassLabel"]
    if not images or not labels:
        raise DataError(
            f"{shown(path)}: no {'label' if images else 'image'} column was found.",
            got=f"columns {few([f'{name} ({kind})' for name, kind in fields.items()], 12)}",
            expected=f"a label column, called {', '.join(LABEL_COLUMNS)}"
            if images
            else f"an image column of bytes or structs {{bytes, path}}, called {', '.join(_IMAGE_COLUMNS)} or as you "
            f"like, or one of paths, called {', '.join(_PATH_COLUMNS)}",
            do="Rename the column.",
        )
    for name in (images[0], labels[0]):
        if schema.names.count(name) > 1:
            raise DataError(
                f"{shown(path)}: {schema.names.count(name)} columns are called {shown(name)!r}.",
                expected="one",
                do="Rename the others, or leave them out.",
            )
    names = features[labels[0]].get("names") if kind(labels[0]) == "ClassLabel" else None
    own_names = distinct_names(nfc(str(name)) for name in names) if isinstance(names, list) and names else None
    return _Columns(images[0], forms[images[0]], labels[0], own_names)


def _form(kind: Any) -> str | None:
    """What a column can give as an image: struct, bytes or path; None where it can not."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        inside = {kind.field(i).name for i in range(kind.num_fields)}
        return "struct" if inside & {"bytes", "path"} else None
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "bytes"
    if "binary_view" in str(kind):
        return "bytes"
    return "path" if types.is_string(kind) or types.is_large_string(kind) or "string_view" in str(kind) else None


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """The Hub's description of each column; empty where the file is not of the Hub: names and types decide then."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {str(column): feature for column, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _class_names(tables: Sequence[tuple[_Columns, list[Label]]]) -> tuple[str, ...]:
    """The names of the metadata, in its order; without them the values themselves, sorted."""
    for columns, _ in tables:
        if columns.names is not None:
            return columns.names
    return names_of(value for _, labels in tables for value in labels)
