"""SPEC -> a source that is streamed: its table, read or made, and what reads its chunks."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from vitrail import fsio
from vitrail.config import DataConfig
from vitrail.data.sources.index import Source, Split
from vitrail.data.sources.labels import UNLABELLED
from vitrail.data.streaming.chunk_cache import ChunkCache
from vitrail.data.streaming.indexing import (
    CLASSES,
    LOCAL_PIECE,
    MAX_CLASSES_BYTES,
    REMOTE_PIECE,
    class_names_in,
    index_shards,
    local_class_names,
    local_fetch,
)
from vitrail.data.streaming.places import (
    check_address,
    is_pattern,
    local_shards,
    printable,
    scheme_of,
    tar_files,
    with_splits,
)
from vitrail.data.streaming.reader import ChunkReader, LocalObjects, local_chunks
from vitrail.data.streaming.remote import TRAINING
from vitrail.data.streaming.remote_chunks import RemoteChunks
from vitrail.data.streaming.samples import Rules
from vitrail.data.streaming.stores import objects_at, remote_shards, text_at
from vitrail.data.streaming.table import (
    FORMAT_VERSION,
    SPLITS,
    Keys,
    Shard,
    Table,
    is_table,
    read_table,
    write_table,
)
from vitrail.errors import ConfigError, DataError, SaveError, shell_word, shown
from vitrail.locations import chunk_cache, table_cache


def is_stream(spec: str) -> bool:
    """Whether a SPEC is read as it is needed: an address, tars, or an index of these."""
    if scheme_of(spec) is not None:
        return True
    path = Path(os.path.expanduser(spec))
    if path.is_dir():
        return is_table(path) or bool(tar_files(path))
    if is_pattern(spec) and not path.exists():
        return spec.lower().endswith((".tar", ".tar.gz", ".tgz", ".parquet"))
    return spec.lower().endswith((".tar", ".tar.gz", ".tgz")) and path.is_file()


def open_stream(
    spec: str, config: DataConfig | None = None, *, keep_unlabelled: bool = False, progress: bool = False
) -> Source:
    """Open shards. Local tars without an index are indexed now, which reads their headers; the index is kept.

    Args:
        spec: a folder of tars, a tar, a pattern of tars or Parquet files, an address, or a folder that
            `vitrail data index` wrote.
        config: settings of the cache.
        keep_unlabelled: examples without a label have the label -1; else they are left out.
        progress: show a bar on stderr while indexing.
    Raises:
        DataError: there are no such shards, they are damaged, or an address is not indexed.
    """
    path = Path(os.path.expanduser(spec))
    if scheme_of(spec) is not None:
        table = remote_table(spec)
    else:
        table = read_table(path) if is_table(path) else _local_table(spec, progress=progress)
    return source_of(table, spec, config, keep_unlabelled=keep_unlabelled)


def index(
    spec: str,
    folder: Path | None = None,
    *,
    rules: Rules | None = None,
    class_names: Sequence[str] | None = None,
    progress: bool = False,
) -> tuple[Path, Table]:
    """Read the headers of shards and write the table of what they hold.

    Args:
        spec: as for `open_stream`, but for folders that hold an index.
        folder: a new one; None: in the user's cache folder, where `open_stream` finds it by `spec`.
        rules: of chunks and labels; None: digests for what is remote.
        class_names: of labels that are numbers; None: those of a `classes.txt` beside the shards.
        progress: show a bar on stderr.
    Returns:
        The folder, and the table.
    Raises:
        DataError: as `open_stream`; or the folder is there and holds something else.
        SaveError: it cannot be written.
    """
    if scheme_of(spec) is None:
        root, shards = local_shards(spec)
        names = class_names if class_names is not None else local_class_names(root)
        fetch, place, piece, rules = local_fetch(root), str(root), LOCAL_PIECE, rules or Rules()
    else:
        objects, found = remote_shards(spec)
        shards, place, fetch, piece = with_splits(found, spec), objects.place, objects.fetch, REMOTE_PIECE
        raw = None if class_names is not None else text_at(objects, CLASSES, MAX_CLASSES_BYTES)
        names = class_names if raw is None else class_names_in(raw, CLASSES)
        rules = rules or Rules(digests=True)
    folder = folder or _kept_at(spec if scheme_of(spec) else _described(place, shards, names, rules))
    if folder.exists():
        same = read_table(folder) if is_table(folder) else None
        known = same and [(s.name, s.size, s.tag) for s in same.shards]
        if same is not None and known == [(s.name, s.size, s.tag) for s in shards] and same.place == place:
            return folder, same
        if scheme_of(spec) is None or same is None or folder.parent != table_cache():
            raise DataError(
                f"{shown(folder)}: there is something else already.",
                expected="a new folder, or the index of the same shards",
                do="Delete it, or choose another one with -o.",
            )
        fsio.remove_dir(folder)
    parts = folder.with_name(f"{folder.name}.parts")
    table = index_shards(
        place, shards, fetch, rules=rules, piece=piece, class_names=names, parts=parts, progress=progress
    )
    write_table(folder, table)
    fsio.remove(parts)
    return folder, table


def _kept_at(about: str) -> Path:
    return table_cache() / hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()[:32]


def _described(place: str, shards: Sequence[Shard], names: Sequence[str] | None, rules: Rules) -> str:
    """Everything that the index of local shards depends on."""
    return json.dumps([FORMAT_VERSION, place, names, asdict(rules), [(s.name, s.size, s.tag) for s in shards]])


def remote_table(spec: str) -> Table:
    """The index of an address that `index` has made. Raises DataError where it has not."""
    check_address(spec)
    folder = _kept_at(spec)
    if is_table(folder):
        return read_table(folder)
    raise DataError(
        f"{printable(spec)}: these shards are not indexed.",
        expected="an index, so that not every process of a run has to read all headers",
        do=f"Make it once: vitrail data index {shell_word(spec)}; then start again.",
    )


def _local_table(spec: str, *, progress: bool) -> Table:
    """The index of local tars, of an earlier run where there is one."""
    root, shards = local_shards(spec)
    names, rules = local_class_names(root), Rules()
    try:
        folder = _kept_at(_described(str(root), shards, names, rules))
        if is_table(folder):
            return read_table(folder)
    except (ConfigError, DataError):
        folder = None
    table = index_shards(
        str(root), shards, local_fetch(root), rules=rules, piece=LOCAL_PIECE, class_names=names, progress=progress
    )
    if folder is not None and not folder.exists():
        try:
            write_table(folder, table)
        except SaveError:
            # The folder of caches is full or read-only, or another process was quicker: the table is in memory.
            return table
    return table


def source_of(table: Table, name: str, config: DataConfig | None = None, *, keep_unlabelled: bool = False) -> Source:
    """A source whose splits read their images out of chunks.

    Args:
        table: of the shards.
        name: how messages call it.
        config, keep_unlabelled: as for `open_stream`.
    Raises:
        DataError: no example has a label.
    """
    splits: dict[str, Split] = {}
    notes = list(table.notes)
    is_fetched = table.kind == "parquet" or scheme_of(table.place)
    remote = _remote_chunks(table, config or DataConfig()) if is_fetched else None
    for split in SPLITS:
        if not any(shard.split == split for shard in table.shards):
            continue
        found, missing, first = _split(table, split, keep_unlabelled, remote)
        if missing and not keep_unlabelled:
            notes.append(
                f"{split}: {missing} of {missing + len(found)} examples have no label and are left out, first {first}"
                if len(found)
                else f"{split}: none of its {missing} examples has a label"
            )
        if len(found):
            splits[split] = found
    if remote is not None and config is not None and "train" in splits:
        notes += _too_small_cache(table, config)
    if not splits or (table.shards[0].split == "train" and "train" not in splits):
        raise DataError(
            f"{shown(name)}: no example has a label.",
            got="; ".join(notes) or "no images",
            expected="for each image a .cls member with its class, or a .json with a field label",
            do=f"Where the class is in .txt: vitrail data index {shell_word(name)} --labels txt -o DIR. A tar of a "
            "folder with a folder for each class has to be unpacked first; then give the folder.",
        )
    return Source(
        name=name,
        classes=table.classes,
        splits=splits,
        listing=table.listing(),
        num_bytes=sum(shard.size for shard in table.shards),
        num_ignored=table.num_ignored,
        notes=tuple(notes),
    )


def _remote_chunks(table: Table, config: DataConfig) -> RemoteChunks:
    cache = ChunkCache(chunk_cache(), int(config.cache_gib * 2**30), int(table.chunks["size"].max(initial=0)))
    objects = objects_at(table.place, TRAINING) if scheme_of(table.place) else LocalObjects(Path(table.place))
    return RemoteChunks(table, objects, cache)


def _too_small_cache(table: Table, config: DataConfig) -> list[str]:
    """A line where chunks will be fetched several times in an epoch, because too few of them fit into the cache."""
    sizes = table.chunks["size"][table.chunks_of("train")]
    in_use = min(config.lanes * config.window, len(sizes)) * float(sizes.mean()) / 2**30
    if in_use <= config.cache_gib:
        return []
    return [
        f"data.cache-gib {config.cache_gib:.3g} is less than the {in_use:.3g} GiB of chunks in use at a time "
        f"(data.lanes x data.window): they will be fetched several times"
    ]


def _split(table: Table, split: str, keep_unlabelled: bool, remote: RemoteChunks | None) -> tuple[Split, int, str]:
    """A split, how many of its examples have no label, and the first of these."""
    chunks = table.chunks_of(split)
    counts = table.chunks["count"].astype(np.int64)
    first = int(counts[: chunks.start].sum())
    labels = table.members["label"][first : first + int(counts[chunks].sum())].astype(np.int64)
    is_labelled = labels != UNLABELLED
    missing = int(np.count_nonzero(~is_labelled))
    unlabelled = shown(Keys(table, chunks)[int(is_labelled.argmin())]) if missing else ""
    rows = None
    starts = np.concatenate([[0], np.cumsum(counts[chunks])])
    if missing and not keep_unlabelled:
        rows, labels = np.flatnonzero(is_labelled), labels[is_labelled]
        starts = np.searchsorted(rows, starts)
    reader = ChunkReader(table, chunks, rows, remote.opened if remote else local_chunks(table))
    follow = remote and partial(remote.follow, chunks.start)
    names = Keys(table, chunks, rows)
    return Split(labels, names, reader, chunk_starts=starts.astype(np.int64), follow=follow), missing, unlabelled
