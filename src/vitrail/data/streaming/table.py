"""The table of a set of shards: its chunks and members, in memory and on disk, mapped and not copied.

    DIR/
      index.json     format version, place, shards, splits, classes, SHA-256 of the other files; written last
      chunks.npy     shard, offset, size in bytes, number of images, digest; of a Parquet file the number of
                     the row group in place of the offset
      members.npy    of each image: offset in its shard, size in bytes (of a tar), label (-1: none)
      keys.npy       the keys of all images, one behind the other, as bytes; nothing for Parquet files
      key_ends.npy   where each of them ends

Shards stand in the order of splits and names, chunks and members in the order of shards.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from vitrail import fsio
from vitrail.data.sources.labels import UNLABELLED, Label, check_classes
from vitrail.errors import DataError, shown
from vitrail.reading import DAMAGE, open_regular, read_json_object

INDEX = "index.json"
FORMAT_VERSION = 1
CHUNK = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("count", "<u4"), ("digest", "V16")])
MEMBER = np.dtype([("offset", "<u8"), ("size", "<u4"), ("label", "<i4")])
NO_DIGEST = bytes(16)
SPLITS = ("train", "val", "test")
_MAX_INDEX_BYTES = 1 << 30
"""Several million shards."""


@dataclass(frozen=True)
class ShardTable:
    """What one shard holds: `chunks` without its number, in `members` labels as places in `values`."""

    chunks: np.ndarray
    members: np.ndarray
    values: tuple[Label, ...]
    keys: bytes
    key_ends: UInt64[np.ndarray, "N"]
    num_ignored: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shard:
    """One file of a set.

    Args:
        name: relative to the place of the set, with `/`.
        split: that it belongs to.
        size: in bytes.
        tag: that changes with the content: the time of last change, or an object's ETag.
        num_chunks: of it.
    """

    name: str
    split: str
    size: int
    tag: str
    num_chunks: int = 0


@dataclass(frozen=True)
class Table:
    """A set of shards, indexed.

    Args:
        kind: "tar" or "parquet".
        place: folder or address that the names of shards are relative to.
        shards, chunks, members, keys, key_ends: as the files have them.
        classes: names, in label order.
        notes: what is left out or odd, a line each.
        num_ignored: files that are no examples.
    """

    kind: str
    place: str
    shards: tuple[Shard, ...]
    chunks: np.ndarray
    members: np.ndarray
    keys: UInt8[np.ndarray, "K"]
    key_ends: UInt64[np.ndarray, "N"]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    num_ignored: int = 0

    def chunks_of(self, split: str) -> slice:
        """The chunks of a split, which are neighbours."""
        shards = [number for number, shard in enumerate(self.shards) if shard.split == split]
        first, last = (np.searchsorted(self.chunks["shard"], at) for at in (shards[0], shards[-1] + 1))
        return slice(int(first), int(last))

    def listing(self) -> str:
        """SHA-256 over names, sizes and tags of the shards, and how they are cut, in hexadecimal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.chunks).tobytes())
        for shard in self.shards:
            digest.update(f"{shard.name}\0{shard.size}\0{shard.tag}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


class Keys(Sequence[str]):
    """Names of images, `SHARD:KEY` or `SHARD:ROW`, put together when they are asked for.

    Args:
        table: the set.
        chunks: some neighbouring ones of it.
        rows: of the images of these; None: all.
    """

    def __init__(self, table: Table, chunks: slice, rows: Int64[np.ndarray, "N"] | None = None) -> None:
        counts = table.chunks["count"].astype(np.int64)
        self._table, self._rows = table, rows
        self._first = int(counts[: chunks.start].sum())
        # Behind the last image of each shard, among all of the table.
        of_shard = np.bincount(table.chunks["shard"], weights=counts, minlength=len(table.shards))
        self._ends = np.cumsum(of_shard.astype(np.int64))
        self._length = int(counts[chunks].sum()) if rows is None else len(rows)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(self._length))]
        at = place + self._length if place < 0 else place
        if not 0 <= at < self._length:
            raise IndexError(place)
        row = self._first + (at if self._rows is None else int(self._rows[at]))
        number = int(np.searchsorted(self._ends, row, "right"))
        if self._table.kind == "parquet":
            key = str(row - (int(self._ends[number - 1]) if number else 0))
        else:
            start, stop = (int(self._table.key_ends[row - 1]) if row else 0), int(self._table.key_ends[row])
            key = bytes(self._table.keys[start:stop]).decode(errors="surrogateescape")
        return f"{self._table.shards[number].name}:{key}"


# ---- on disk -----------------------------------------------------------------------------------------------------


def write_table(folder: Path, table: Table) -> None:
    """Write a table as a new folder, whole or not at all. Raises SaveError."""
    arrays = ("chunks", "members", "keys", "key_ends")

    def index(digests: dict[str, str]) -> bytes:
        about = {
            "format_version": FORMAT_VERSION,
            "kind": table.kind,
            "place": table.place,
            "classes": table.classes,
            "shards": [asdict(shard) for shard in table.shards],
            "notes": table.notes,
            "num_ignored": table.num_ignored,
            "sha256": digests,
        }
        return (json.dumps(about, indent=1, allow_nan=False) + "\n").encode()

    files = {f"{name}.npy": _npy(getattr(table, name)) for name in arrays}
    fsio.write_new_dir(folder, files, (INDEX, index))


def _npy(array: np.ndarray) -> list[bytes | memoryview]:
    head = io.BytesIO()
    about: Any = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(head, about)
    return [head.getvalue(), np.ascontiguousarray(array).view(np.uint8).reshape(-1).data]


def is_table(folder: Path) -> bool:
    """Whether a folder is an index that `vitrail data index` wrote."""
    return (folder / INDEX).is_file() and (folder / "chunks.npy").is_file()


def read_table(folder: Path) -> Table:
    """Map a table from disk.

    What is checked is what later code relies on: places inside the shards, counts that fit together, labels that are
    classes. The offsets of single members are compared with those of their chunk when they are read.

    Raises:
        DataError: another format version, or files that are damaged or do not belong together.
    """
    try:
        about = read_json_object(folder / INDEX, _MAX_INDEX_BYTES)
        version = about["format_version"]
        if version == FORMAT_VERSION:
            return _checked(folder, about)
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(
            f"{shown(folder)}: the index is damaged.",
            got=error if str(error) else type(error).__name__,
            expected="the files as vitrail data index wrote them",
            do="Delete it, and index the data again: vitrail data index SOURCE -o DIR.",
        ) from error
    raise DataError(
        f"{shown(folder)}: indexed in another format.",
        got=f"version {version}",
        expected=f"version {FORMAT_VERSION}",
        do="Index the data again with this version: vitrail data index SOURCE -o DIR.",
    )


def _checked(folder: Path, about: dict[str, Any]) -> Table:
    chunks, members = _mapped(folder / "chunks.npy", CHUNK), _mapped(folder / "members.npy", MEMBER)
    keys, ends = _mapped(folder / "keys.npy", np.dtype("u1")), _mapped(folder / "key_ends.npy", np.dtype("<u8"))
    shards = tuple(
        Shard(str(s["name"]), str(s["split"]), int(s["size"]), str(s["tag"]), int(s["num_chunks"]))
        for s in about["shards"]
    )
    classes = tuple(map(str, about["classes"]))
    check_classes(classes)
    table = Table(
        str(about["kind"]), str(about["place"]), shards, chunks, members, keys, ends, classes,
        tuple(map(str, about["notes"])), int(about["num_ignored"]),
    )  # fmt: skip
    names = [shard.name for shard in shards]
    order = [SPLITS.index(shard.split) for shard in shards]
    sizes = np.array([shard.size for shard in shards], dtype=np.uint64)
    labels = np.asarray(members["label"])
    num_chunks = [shard.num_chunks for shard in shards]
    if min(num_chunks, default=0) < 0 or sum(num_chunks) != len(chunks):
        raise ValueError("chunks that do not fit to the shards")
    numbers = np.repeat(np.arange(len(shards)), num_chunks)
    room = sizes[numbers] - np.minimum(sizes[numbers], chunks["offset"])
    sound = {
        "kind": table.kind in ("tar", "parquet"),
        "shards": bool(shards)
        and len(set(names)) == len(names)
        and order == sorted(order)
        and all(map(_inside, names)),
        "chunks": bool(np.all(chunks["shard"] == numbers)),
        "places": table.kind == "parquet" or bool(np.all(chunks["size"] <= room)),
        "counts": int(chunks["count"].sum(dtype=np.int64)) == len(members) == len(ends),
        "keys": bool(np.all(ends[1:] >= ends[:-1])) and (int(ends[-1]) if len(ends) else 0) == len(keys),
        "labels": not len(labels) or (labels.min() >= UNLABELLED and labels.max() < max(len(classes), 1)),
    }
    wrong = [name for name, is_sound in sound.items() if not is_sound]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} that do not fit together")
    return table


def _inside(name: str) -> bool:
    """Whether a name leads to a file below the place of the set."""
    return bool(name) and not name.startswith(("/", "\\")) and "\0" not in name and ".." not in name.split("/")


def _mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """A one-dimensional array of this type in a regular file, mapped. Raises OSError or ValueError."""
    with open_regular(path):
        pass
    array = np.load(path, mmap_mode="r")
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"{path.name}: not an array of {dtype}")
    return array
