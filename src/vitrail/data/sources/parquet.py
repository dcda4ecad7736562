"""Parquet files in the layout of image data sets on the Hugging Face Hub.

One column holds structs {bytes, path} (or plain bytes, or paths of files beside the table) with encoded images,
another one class labels: integers whose names stand in the schema's `huggingface` metadata, or strings. The name of
the file, or of its folder, tells the split, as train-00000-of-00003 or pets_test.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail.data.sources.columns import Columns, find_columns
from vitrail.data.sources.index import Encoded, Source, Split, few, listing_of_paths
from vitrail.data.sources.labels import (
    Label,
    check_classes,
    label_indices,
    labelled,
    names_of,
    tidy_labels,
)
from vitrail.data.sources.pages import DICTIONARY_ENCODINGS, BinaryFile, Chunk, chunks_of, leaves_of, rows_at_once
from vitrail.data.sources.split_names import named_splits, splits_of_file
from vitrail.errors import DataError, install_hint, shown
from vitrail.reading import DAMAGE, open_regular

# What is decoded from a row group at a time; bounds memory where a writer put everything into one group.
_ROWS, _BATCH_BYTES = 1024, 128 << 20
_LABEL_ROWS, _LABEL_BATCH_BYTES = 1 << 16, 16 << 20
MAX_ROWS = 20_000_000
"""Of one file: more than all public sets of labelled images have in a shard."""
ROWS_A_BYTE, _ALWAYS_ROWS = {"path": 20}, 10_000
"""Of a file: as many rows as bytes, or so many of paths; what is below the second number is always read."""
MAX_EXPANSION, _ALWAYS_BYTES = 20, 256 << 20
"""The images of a file may have so many times its bytes; what is below the second number is always read."""
_MAX_COLUMNS = 100_000


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
    tables = {split: [read_labels(path) for path in paths] for split, paths in groups.items()}
    first = "train" if "train" in tables else next(iter(tables))
    classes = _class_names(tables[first])
    splits: dict[str, Split] = {}
    for split, shards in tables.items():
        parts = [
            label_indices(shard.values, shard.columns.names, classes, shard.where(), shard.first)[shard.codes]
            for shard in shards
        ]
        prefixes = [shard.path.relative_to(root).as_posix() for shard in shards]
        counts = [len(shard.codes) for shard in shards]
        names = [f"{prefix}:{row}" for prefix, count in zip(prefixes, counts, strict=True) for row in range(count)]
        reader = Reader([(shard.path, shard.columns, len(shard.codes)) for shard in shards])
        splits[split] = Split(np.concatenate(parts), names, reader)
    if not any(map(len, splits.values())):
        raise DataError(f"{shown(name)}: the table has no rows.", expected="one row per image")
    splits, notes = labelled(splits, shown(name))
    return Source(name, classes, splits, listing, num_bytes, notes=tuple(notes))


def row_groups(path: Path) -> tuple[Columns, list[int]]:
    """The image column of a file, and the rows of each of its row groups; labels may be missing. Raises DataError."""
    with opened(path) as (raw, file, _):
        columns = find_columns(file.schema_arrow, path, needs_label=False)
        _check_rows(path, columns, file.metadata, raw.seek(0, os.SEEK_END))
        return columns, [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def read_rows(path: Path, columns: Columns, rows: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
    """The images in some ascending rows of a file, one batch of rows in memory at a time. Raises DataError."""
    return Reader([(path, columns, int(rows[-1]) + 1 if len(rows) else 0)])(rows)


@dataclass(frozen=True)
class Reader:
    """Yields the encoded images of some rows, one batch of rows in memory at a time.

    Args:
        shards: files, their columns and numbers of rows.
        opens: opens a file that is not on this machine.
    """

    shards: Sequence[tuple[Path, Columns, int]]
    opens: Callable[[Path], BinaryFile] = open_regular

    def __call__(self, positions: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
        start = 0
        for path, columns, count in self.shards:
            rows = positions[(positions >= start) & (positions < start + count)] - start
            if len(rows):
                yield from self._rows_of(path, columns, rows)
            start += count

    def _rows_of(self, path: Path, columns: Columns, rows: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
        with opened(path, self.opens) as (raw, file, chunks):
            metadata, start, size = file.metadata, 0, 0
            most = _ALWAYS_BYTES + MAX_EXPANSION * raw.seek(0, os.SEEK_END)
            leaves = [leaf for name in columns.image_parts for leaf in leaves_of(metadata, name)]
            for group in range(file.num_row_groups):
                stop = start + metadata.row_group(group).num_rows
                wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
                if len(wanted):
                    at_once = rows_at_once(raw, metadata, chunks[group], group, leaves, _ROWS, _BATCH_BYTES)
                    num_read, at = 0, start
                    for batch in file.iter_batches(at_once, row_groups=[group], columns=list(columns.image_parts)):
                        column = batch.column(columns.image)
                        inner = wanted[np.searchsorted(wanted, at) : np.searchsorted(wanted, at + len(column))]
                        whole = len(inner) == len(column)
                        values = _values(column if whole else column.take(inner - at))
                        for row, (content, place) in zip(inner.tolist(), values, strict=True):
                            record = _record(content, place, path, row)
                            size += len(record) if isinstance(record, bytes) else 0
                            if size > most:
                                raise ValueError(f"images of more than {most} bytes, unpacked")
                            yield record
                        num_read, at = num_read + len(inner), at + len(column)
                    if num_read < len(wanted):
                        raise ValueError(f"fewer rows in row group {group} than it says")
                start = stop


def _values(column: Any) -> Iterable[tuple[Any, Any]]:
    """The bytes and the path of each image, None where a row has none."""
    import pyarrow as pa

    if not pa.types.is_struct(column.type):
        return ((value, None) for value in column.to_pylist())
    fields = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
    nothing = [None] * len(column)
    content, place = (fields[name].to_pylist() if name in fields else nothing for name in ("bytes", "path"))
    return zip(content, place, strict=True)


def _record(content: Any, file: Any, path: Path, row: int) -> Encoded:
    """The bytes of an image, or its file; without either it is an unreadable image, not an error of the whole set."""
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
def opened(
    path: Path, opens: Callable[[Path], BinaryFile] = open_regular
) -> Iterator[tuple[BinaryFile, Any, list[list[Chunk]]]]:
    """The file, a ParquetFile of it, and where its columns are. Raises DataError when pyarrow is missing, or the file
    turns out damaged in the `with` block.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet files needs pyarrow.", do=install_hint("pyarrow")) from error
    try:
        with opens(path) as raw:
            chunks = chunks_of(raw)
            found: Any = path if opens is open_regular else raw
            with parquet.ParquetFile(found, pre_buffer=False, thrift_container_size_limit=_MAX_COLUMNS) as file:
                if [len(group) for group in chunks] != [file.metadata.num_columns] * file.num_row_groups:
                    raise ValueError("row groups of other columns than the file has")
                yield raw, file, chunks
    except (pyarrow.ArrowException, *DAMAGE) as error:
        reason = str(error).splitlines()
        raise DataError(
            f"{path}: not a readable Parquet file.",
            got=reason[0] if reason else type(error).__name__,
            expected="a complete Parquet file",
            do="Fetch or copy the file again.",
        ) from error


@dataclass(frozen=True)
class Labels:
    """The label column of a file: `codes` say which of the distinct `values` each row has."""

    path: Path
    columns: Columns
    values: list[Label]
    first: list[int]
    """The first row of each value."""
    codes: Int64[np.ndarray, "N"]

    def where(self) -> str:
        return f"{shown(self.path.name)}, column {shown(self.columns.label)!r}"


def read_labels(path: Path, opens: Callable[[Path], BinaryFile] = open_regular) -> Labels:
    """The label column of a file. Raises DataError."""
    with opened(path, opens) as (raw, file, chunks):
        columns = find_columns(file.schema_arrow, path)
        _check_rows(path, columns, file.metadata, raw.seek(0, os.SEEK_END))
        table = Labels(path, columns, [], [], np.empty(0, np.int64))
        index: dict[Label, int] = {}
        codes: list[Int64[np.ndarray, "n"]] = []
        row = 0
        for column in _label_batches(path if opens is open_regular else raw, columns.label, raw, file, chunks):
            distinct = column if hasattr(column, "dictionary") else column.dictionary_encode()
            # A row without a label, whose place is null, gets the place behind the last one.
            places = distinct.indices.cast("int64").fill_null(len(distinct.dictionary)).to_numpy(zero_copy_only=False)
            used, first, inverse = np.unique(places, return_index=True, return_inverse=True)
            values = distinct.dictionary.take(used[used < len(distinct.dictionary)]).to_pylist()
            values += [None] * (len(used) - len(values))
            tidy = tidy_labels(values, table.where(), (first + row).tolist())
            check_classes(tidy)
            for value, at in zip(tidy, first, strict=True):
                if value not in index:
                    index[value] = len(index)
                    table.first.append(int(at) + row)
            check_classes(index)
            codes.append(np.array([index[value] for value in tidy], np.int64)[inverse])
            row += len(column)
    return replace(table, values=list(index), codes=np.concatenate([*codes, table.codes]))


def _label_batches(
    path: Path | BinaryFile, label: str, raw: BinaryFile, file: Any, chunks: Sequence[Sequence[Chunk]]
) -> Iterator[Any]:
    """The label column, some rows at a time."""
    from pyarrow import parquet, types

    metadata, kind = file.metadata, file.schema_arrow.field(label).type
    leaves = leaves_of(metadata, label)
    groups = [group for group in range(file.num_row_groups) if metadata.row_group(group).num_rows]
    encodings = {encoding for group in groups for leaf in leaves for encoding in chunks[group][leaf].encodings}
    is_text = any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_binary))
    # Text is read as it is mostly stored, each value once. The library does this for two of the encodings.
    if is_text and encodings <= DICTIONARY_ENCODINGS:
        with parquet.ParquetFile(path, metadata=metadata, read_dictionary=[label], pre_buffer=False) as as_dictionary:
            for group in groups:
                rows_at_once(raw, metadata, chunks[group], group, leaves, 1, 1)
                yield from _column(as_dictionary, group, label, _LABEL_ROWS)
        return
    for group in groups:
        rows = rows_at_once(raw, metadata, chunks[group], group, leaves, _LABEL_ROWS, _LABEL_BATCH_BYTES)
        yield from _column(file, group, label, rows)


def _column(file: Any, group: int, label: str, rows: int) -> Iterator[Any]:
    return (batch.column(label) for batch in file.iter_batches(rows, row_groups=[group], columns=[label]))


def _check_rows(path: Path, columns: Columns, metadata: Any, num_bytes: int) -> None:
    """Raise DataError where a file says that it has more rows than an honest one of its size."""
    rows = sum(max(metadata.row_group(group).num_rows, 0) for group in range(metadata.num_row_groups))
    most = min(MAX_ROWS, max(_ALWAYS_ROWS, num_bytes * ROWS_A_BYTE.get(columns.form, 1)))
    if max(rows, metadata.num_rows) > most:
        raise DataError(
            f"{shown(path)}: too many rows for one file of {num_bytes} bytes.",
            got=max(rows, metadata.num_rows),
            expected=f"at most {most}",
            do="Write it as several files, in the folder of the data set.",
        )


def _class_names(tables: Sequence[Labels]) -> tuple[str, ...]:
    """The names of the metadata, in its order; without them the values themselves, sorted."""
    for table in tables:
        if table.columns.names is not None:
            return table.columns.names
    return names_of(value for table in tables for value in table.values)
