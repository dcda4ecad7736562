"""SPEC -> a source that is streamed: its table, read or made, and what reads its chunks."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from vitrail.config import DataConfig
from vitrail.data.sources.index import Source, Split
from vitrail.data.sources.labels import UNLABELLED
from vitrail.data.streaming.indexing import (
    LOCAL_PIECE,
    index_shards,
    local_class_names,
    local_fetch,
)
from vitrail.data.streaming.places import is_pattern, local_shards, scheme_of, tar_files
from vitrail.data.streaming.reader import ChunkReader, local_chunks
from vitrail.data.streaming.samples import Rules
from vitrail.data.streaming.table import FORMAT_VERSION, SPLITS, Keys, Table, is_table, read_table, write_table
from vitrail.errors import ConfigError, DataError, SaveError, shown
from vitrail.locations import table_cache


def is_stream(spec: str) -> bool:
    """Whether a SPEC is read as it is needed: an address, tars, or an index of these."""
    if scheme_of(spec) is not None:
        return True
    path = Path(os.path.expanduser(spec))
    if path.is_dir():
        return is_table(path) or bool(tar_files(path))
    return spec.lower().endswith((".tar", ".tar.gz", ".tgz")) and (path.is_file() or is_pattern(spec))


def open_stream(
    spec: str, config: DataConfig | None = None, *, keep_unlabelled: bool = False, progress: bool = False
) -> Source:
    """Open shards. Local tars without an index are indexed now, which reads their headers; the index is kept.

    Args:
        spec: a folder of tars, a tar, a pattern of tars, an address, or a folder that `vitrail data index` wrote.
        config: settings of the cache.
        keep_unlabelled: examples without a label have the label -1; else they are left out.
        progress: show a bar on stderr while indexing.
    Raises:
        DataError: there are no such shards, they are damaged, or an address is not indexed.
    """
    path = Path(os.path.expanduser(spec))
    table = read_table(path) if is_table(path) else _local_table(spec, progress=progress)
    return source_of(table, spec, keep_unlabelled=keep_unlabelled)


def _local_table(spec: str, *, progress: bool) -> Table:
    """The index of local tars, of an earlier run where there is one."""
    root, shards = local_shards(spec)
    names, rules = local_class_names(root), Rules()
    about = [FORMAT_VERSION, str(root), names, vars(rules), [(s.name, s.split, s.size, s.tag) for s in shards]]
    key = hashlib.sha256(json.dumps(about).encode(errors="surrogateescape")).hexdigest()[:32]
    try:
        folder = table_cache() / key
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


def source_of(table: Table, name: str, *, keep_unlabelled: bool = False) -> Source:
    """A source whose splits read their images out of chunks.

    Args:
        table: of the shards.
        name: how messages call it.
        keep_unlabelled: as for `open_stream`.
    Raises:
        DataError: no example has a label.
    """
    splits: dict[str, Split] = {}
    notes = list(table.notes)
    for split in SPLITS:
        if not any(shard.split == split for shard in table.shards):
            continue
        found, missing = _split(table, split, keep_unlabelled)
        if missing and not keep_unlabelled:
            all_of_them = not len(found)
            notes.append(
                f"{split}: none of its {missing} examples has a label; there is no such split"
                if all_of_them
                else f"{split}: {missing} of {missing + len(found)} examples have no label and are left out"
            )
        if len(found):
            splits[split] = found
    if not splits or (table.shards[0].split == "train" and "train" not in splits):
        raise DataError(
            f"{shown(name)}: no example has a label.",
            got="; ".join(notes) or "no images",
            expected="for each image a .cls member with its class, or a .json with a field label",
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


def _split(table: Table, split: str, keep_unlabelled: bool) -> tuple[Split, int]:
    """A split, and how many of its examples have no label."""
    chunks = table.chunks_of(split)
    counts = table.chunks["count"].astype(np.int64)
    first = int(counts[: chunks.start].sum())
    labels = table.members["label"][first : first + int(counts[chunks].sum())].astype(np.int64)
    is_labelled = labels != UNLABELLED
    missing = int(np.count_nonzero(~is_labelled))
    rows = None
    starts = np.concatenate([[0], np.cumsum(counts[chunks])])
    if missing and not keep_unlabelled:
        rows, labels = np.flatnonzero(is_labelled), labels[is_labelled]
        starts = np.searchsorted(rows, starts)
    reader = ChunkReader(table, chunks, rows, local_chunks(table))
    return Split(labels, Keys(table, chunks, rows), reader, chunk_starts=starts.astype(np.int64)), missing
