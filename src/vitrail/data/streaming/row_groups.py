"""Row groups of Parquet files as chunks: the images of one, taken out of the table, are a file of the cache.

Such a file has the places of its images first, as many 64-bit numbers as there are images and one more, then the images
one behind the other, then zeros up to the size that the summary of the Parquet file lets expect.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int64

from vitrail.data.sources.columns import find_columns
from vitrail.data.sources.pages import Chunk, leaves_of
from vitrail.data.sources.parquet import Reader, opened, read_labels
from vitrail.data.streaming.table import CHUNK, MEMBER, NO_DIGEST, Shard, ShardTable
from vitrail.errors import DataError, shown

MAX_GROUP_BYTES = 2 << 30
_TAIL = 1 << 20
"""Of a file, fetched first: the summary is at its end."""

Fetch = Callable[[Shard, int, int], bytes]


class RangeFile(io.RawIOBase):
    """A file that is read by ranges, of which some are in memory.

    Args:
        shard: the file.
        fetch: gives bytes from an offset on, of a length.
    """

    def __init__(self, shard: Shard, fetch: Fetch) -> None:
        self._shard, self._fetch, self._at = shard, fetch, 0
        self._held: list[tuple[int, bytes]] = []
        self.hold(max(shard.size - _TAIL, 0), shard.size)

    def hold(self, start: int, stop: int) -> None:
        """Keep a range in memory."""
        stop = min(stop, self._shard.size)
        if start < stop:
            self._held.append((start, self._fetch(self._shard, start, stop - start)))

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, fewer at the end."""
        start = self._at
        stop = self._shard.size if size < 0 else min(start + size, self._shard.size)
        self._at = max(stop, start)
        if stop <= start:
            return b""
        for first, data in self._held:
            if first <= start and stop <= first + len(data):
                return data[start - first : stop - first]
        return self._fetch(self._shard, start, stop - start)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place; where that is."""
        self._at = max({os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._shard.size}[whence] + offset, 0)
        return self._at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True


def scan_parquet(shard: Shard, fetch: Fetch) -> tuple[ShardTable, tuple[str, ...] | None]:
    """The row groups and labels of a Parquet file, and the names of labels that are numbers, where it gives them.

    Raises:
        DataError: it is damaged, or its columns or labels are not understood.
    """
    path = _path(shard)
    labels = read_labels(path, lambda _: RangeFile(shard, fetch))
    columns = labels.columns
    if columns.form == "path":
        raise DataError(
            f"{shown(shard.name)}: the images are not in the table.",
            got=f"a column of paths, {shown(columns.image)}",
            expected="a column with the bytes of images",
        )
    chunks: list[tuple[int, int, int, int, bytes]] = []
    with opened(path, lambda _: RangeFile(shard, fetch)) as (_, file, parts):
        for group in range(file.num_row_groups):
            rows = int(file.metadata.row_group(group).num_rows)
            stored = sum(part.unpacked_bytes for part in _image_parts(file, parts[group], columns.image_parts))
            size = max(stored, 0) + 8 * (rows + 1)
            if size > MAX_GROUP_BYTES:
                raise DataError(
                    f"{shown(shard.name)}: row group {group} is too large to be read at once.",
                    got=f"{size >> 20} MiB",
                    expected=f"at most {MAX_GROUP_BYTES >> 20} MiB",
                    do="Write it with smaller row groups: pyarrow.parquet.write_table(..., row_group_size=500).",
                )
            if rows:
                chunks.append((0, group, size, rows, NO_DIGEST))
    if sum(chunk[3] for chunk in chunks) != len(labels.codes):
        raise DataError(f"{shown(shard.name)}: other rows than its summary says.", expected="a complete Parquet file")
    members = np.zeros(len(labels.codes), dtype=MEMBER)
    members["label"] = labels.codes
    table = ShardTable(
        chunks=np.array(chunks, dtype=CHUNK),
        members=members,
        values=tuple(labels.values),
        keys=b"",
        key_ends=np.zeros(len(members), dtype=np.uint64),
    )
    return table, columns.names


def images_of(shard: Shard, fetch: Fetch, group: int, rows: int, size: int) -> bytes:
    """The content of a chunk's file.

    Args:
        shard: the Parquet file.
        fetch: reads it.
        group: number of the row group.
        rows: of it.
        size: of the chunk.
    Raises:
        DataError: the row group cannot be read, or is larger than its summary said.
    """
    path = _path(shard)
    file = RangeFile(shard, fetch)
    with opened(path, lambda _: file) as (_, table, parts):
        columns = find_columns(table.schema_arrow, path)
        first = sum(int(table.metadata.row_group(before).num_rows) for before in range(group))
        if int(table.metadata.row_group(group).num_rows) != rows:
            raise ValueError(f"row group {group} has other rows than were indexed")
        for part in _image_parts(table, parts[group], columns.image_parts):
            file.hold(part.start, part.start + part.num_bytes + 128)
        total = int(table.metadata.num_rows)
        reader = Reader([(path, columns, total)], lambda _: _Shared(file))
        records = [one if isinstance(one, bytes) else b"" for one in reader(np.arange(first, first + rows))]
    places = np.cumsum([8 * (rows + 1), *map(len, records)], dtype="<u8")
    whole = places.tobytes() + b"".join(records)
    if len(whole) > size:
        raise DataError(
            f"{shown(shard.name)}: row group {group} is larger than its summary says.",
            got=f"{len(whole)} bytes",
            expected=f"at most {size}, as in tables of images that differ",
            do="Write it again with pyarrow.parquet.write_table(..., use_dictionary=False).",
        )
    return whole.ljust(size, b"\0")


def image_at(read_at: Callable[[int, int], bytes], row: int, rows: int, size: int) -> bytes:
    """An image of a chunk's file. Raises DataError where the file is damaged."""
    places: Int64[np.ndarray, "2"] = np.frombuffer(read_at(8 * row, 16), dtype="<u8").astype(np.int64)
    start, stop = (int(place) for place in places)
    if not 8 * (rows + 1) <= start <= stop <= size:
        raise DataError("A file of the cache of chunks is damaged.", do="Delete the folder of the cache.")
    return read_at(start, stop - start)


class _Shared(RangeFile):
    """The same ranges for a second reader, with a place of its own."""

    def __init__(self, other: RangeFile) -> None:
        self._shard, self._fetch, self._held, self._at = other._shard, other._fetch, other._held, 0


def _image_parts(file: object, parts: list[Chunk], names: tuple[str, ...]) -> list[Chunk]:
    metadata = getattr(file, "metadata")  # noqa: B009  (pyarrow is not annotated)
    return [parts[leaf] for name in names for leaf in leaves_of(metadata, name)]


def _path(shard: Shard) -> Path:
    """How messages call a file that may be elsewhere."""
    return Path(PurePosixPath(shard.name))
