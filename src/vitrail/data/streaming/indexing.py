"""Shards -> their table: all headers read once, several shards at a time, gone on with after a break."""

import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import fsio
from vitrail.config.checks import distinct_names
from vitrail.data.sources.index import few, nfc
from vitrail.data.sources.labels import check_classes, label_indices, names_of
from vitrail.data.streaming.row_groups import scan_parquet
from vitrail.data.streaming.samples import Rules, scan
from vitrail.data.streaming.table import FORMAT_VERSION, Shard, ShardTable, Table
from vitrail.data.streaming.tars import Forward
from vitrail.errors import DataError, VitrailError, shown
from vitrail.progress import Bar
from vitrail.reading import DAMAGE, open_regular, read_regular

CLASSES = "classes.txt"
LOCAL_PIECE, REMOTE_PIECE = 16 << 10, 4 << 20
MAX_CLASSES_BYTES = 16 << 20
_MAX_PART_BYTES = 4 << 30
_THREADS = 8

Fetch = Callable[[Shard, int, int], bytes]
"""Gives bytes of a shard: from an offset on, of a length."""


def index_shards(
    place: str,
    shards: Sequence[Shard],
    fetch: Fetch,
    *,
    rules: Rules,
    piece: int,
    class_names: Sequence[str] | None = None,
    parts: Path | None = None,
    progress: bool = False,
) -> Table:
    """Read the headers of tars, or the labels of Parquet files, and put what they hold into one table.

    Args:
        place: that the names of shards are relative to.
        shards: with their splits, in order.
        fetch: reads them.
        rules: of chunks and labels.
        piece: bytes that are fetched at once.
        class_names: names of the numbers 0, 1, ... that labels are; None: the labels themselves are the classes.
        parts: folder where finished shards are kept until all are, and looked for; None: nowhere.
        progress: show a bar on stderr.
    Raises:
        DataError: a shard is damaged or not of this kind, or its labels are not understood.
        SaveError: a finished shard cannot be kept.
    """
    tables: list[ShardTable | None] = [None] * len(shards)
    own_names: list[Sequence[str] | None] = [None] * len(shards)
    kind = "parquet" if shards[0].name.lower().endswith(".parquet") else "tar"
    bar = Bar(sum(shard.size for shard in shards), unit="bytes", title="index", enabled=progress)

    fetch = _unless(is_stopped := threading.Event(), fetch)

    def one(number: int) -> int:
        shard = shards[number]
        path = parts and parts / f"{_part_name(place, shard, rules)}.part"
        found = _read_part(path) if path else None
        if found is None:
            if kind == "parquet":
                found, own_names[number] = scan_parquet(shard, fetch)
            else:
                found = _scanned(place, shard, fetch, rules, piece)
            # The names of a Parquet file are not in a part, so these are not gone on with; there are few of them.
            if path and kind == "tar":
                _write_part(path, found)
        tables[number] = found
        return shard.size

    with bar, ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(one, number) for number in range(len(shards))]
        try:
            for future in as_completed(futures):
                bar.advance(future.result())
        except BaseException as error:
            if not isinstance(error, Exception):  # interrupted; else the shards that were begun are finished and kept
                is_stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    whole = [table for table in tables if table is not None]
    return _merged(kind, place, shards, whole, [class_names or names for names in own_names])


def _unless(is_stopped: threading.Event, fetch: Fetch) -> Fetch:
    """Fetches until something is set, and then ends the thread that asks, which nobody listens to any more."""

    def fetch_or_end(shard: Shard, offset: int, length: int) -> bytes:
        if is_stopped.is_set():
            raise DataError(f"{shown(shard.name)}: indexing was stopped.")
        return fetch(shard, offset, length)

    return fetch_or_end


def _scanned(place: str, shard: Shard, fetch: Fetch, rules: Rules, piece: int) -> ShardTable:
    where = f"{shown(place)}/{shown(shard.name)}"
    try:
        return scan(Forward(lambda offset, length: fetch(shard, offset, length), shard.size, piece), rules)
    except VitrailError:
        raise
    except DAMAGE as error:
        raise DataError(
            f"{where}: not a tar that can be read in pieces.",
            got=getattr(error, "strerror", None) or error,
            expected="a plain tar of images, each with its label behind it: 0001.jpg, 0001.cls",
        ) from error


def local_fetch(root: Path) -> Fetch:
    """Reads local shards."""

    def fetch(shard: Shard, offset: int, length: int) -> bytes:
        with open_regular(root / shard.name) as file:
            return os.pread(file.fileno(), length, offset)

    return fetch


def class_names_in(raw: bytes, where: str) -> tuple[str, ...]:
    """The names in a `classes.txt`, a line each. Raises DataError."""
    try:
        names = [nfc(line.strip()) for line in raw.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(where)}: not a text in UTF-8.", expected="the name of a class in each line") from error
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise DataError(
            f"{shown(where)}: no list of class names.", got="an empty line", expected="the name of a class in each line"
        )
    check_classes(names)
    return distinct_names(names)


def local_class_names(root: Path) -> tuple[str, ...] | None:
    """Those of the `classes.txt` beside local shards; None where there is none."""
    path = root / CLASSES
    return class_names_in(read_regular(path, MAX_CLASSES_BYTES), str(path)) if path.is_file() else None


# ---- shards together ---------------------------------------------------------------------------------------------


def _merged(
    kind: str,
    place: str,
    shards: Sequence[Shard],
    tables: Sequence[ShardTable],
    own_names: Sequence[Sequence[str] | None],
) -> Table:
    """One table; `own_names` are those of each shard's labels that are numbers."""
    first = shards[0].split
    classes = (
        tuple(own_names[0])
        if own_names[0] is not None
        else names_of(v for s, t in zip(shards, tables, strict=True) if s.split == first for v in t.values)
    )
    chunks, members, ends, key_bytes = [], [], [], 0
    for number, (shard, table) in enumerate(zip(shards, tables, strict=True)):
        labels = label_indices(table.values, own_names[number], classes, shown(shard.name)).astype(np.int32)
        mine, theirs = table.members.copy(), table.chunks.copy()
        mine["label"] = labels[table.members["label"]] if len(mine) else 0
        theirs["shard"] = number
        chunks.append(theirs)
        members.append(mine)
        ends.append(table.key_ends + np.uint64(key_bytes))
        key_bytes += len(table.keys)
    if not sum(map(len, members)):
        raise DataError(
            f"{shown(place)}: the shards hold no images.",
            got=f"{sum(table.num_ignored for table in tables)} other files",
            expected="images, each with its label behind it: 0001.jpg, 0001.cls",
        )
    return Table(
        kind=kind,
        place=place,
        shards=tuple(replace(s, num_chunks=len(t.chunks)) for s, t in zip(shards, tables, strict=True)),
        chunks=np.concatenate(chunks),
        members=np.concatenate(members),
        keys=np.frombuffer(b"".join(table.keys for table in tables), dtype=np.uint8),
        key_ends=np.concatenate(ends),
        classes=classes,
        notes=tuple(_notes(shards, tables)),
        num_ignored=sum(table.num_ignored for table in tables),
    )


def _notes(shards: Sequence[Shard], tables: Sequence[ShardTable]) -> list[str]:
    """What is odd about shards, a line for each kind of it."""
    found: dict[str, list[str]] = {}
    for shard, table in zip(shards, tables, strict=True):
        for note in table.notes:
            found.setdefault(note, []).append(shard.name)
    lines = [f"{len(names)} of {len(shards)} shards: {note}: {few(names)}" for note, names in found.items()]
    ignored = sum(table.num_ignored for table in tables)
    return [*lines, *([f"left out, samples and files without an image: {ignored}"] if ignored else [])]


# ---- finished shards ---------------------------------------------------------------------------------------------


def _part_name(place: str, shard: Shard, rules: Rules) -> str:
    about = [FORMAT_VERSION, place, shard.name, shard.size, shard.tag, asdict(rules)]
    return hashlib.sha256(json.dumps(about).encode(errors="surrogateescape")).hexdigest()[:32]


def _write_part(path: Path, table: ShardTable) -> None:
    file = io.BytesIO()
    about = {"values": table.values, "num_ignored": table.num_ignored, "notes": table.notes}
    file.write(json.dumps(about).encode() + b"\n")
    for array in (table.chunks, table.members, np.frombuffer(table.keys, np.uint8), table.key_ends):
        np.lib.format.write_array(file, array, version=(1, 0))
    fsio.write_bytes(path, file.getvalue())


def _read_part(path: Path) -> ShardTable | None:
    """What an earlier attempt has found; None where it did not come to this shard."""
    try:
        file = io.BytesIO(read_regular(path, _MAX_PART_BYTES))
        about: dict[str, Any] = json.loads(file.readline())
        chunks, members, keys, ends = (np.lib.format.read_array(file) for _ in range(4))
        return ShardTable(
            chunks, members, tuple(about["values"]), keys.tobytes(), ends, int(about["num_ignored"]),
            tuple(about["notes"]),
        )  # fmt: skip
    except DAMAGE:
        return None
