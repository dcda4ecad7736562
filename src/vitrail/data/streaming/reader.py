"""Positions of a split -> the encoded images, read out of the chunks that they are in."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vitrail.data.streaming.row_groups import image_at
from vitrail.data.streaming.table import Shard, Table
from vitrail.errors import DataError, shown
from vitrail.reading import open_regular

ReadAt = Callable[[int, int], bytes]
"""Gives bytes of a chunk's shard: from an offset in the shard on, of a length."""


class ChunkReader:
    """Reads images; several threads may do so at once.

    Args:
        table: the set.
        chunks: those of the split.
        rows: of the split's images the ones that have positions; None: all.
        opened: opens a chunk, by its number in the table, for reading.
    """

    def __init__(
        self,
        table: Table,
        chunks: slice,
        rows: Int64[np.ndarray, "N"] | None,
        opened: Callable[[int], AbstractContextManager[ReadAt]],
    ) -> None:
        counts = table.chunks["count"].astype(np.int64)
        self._table, self._first_chunk, self._rows, self._opened = table, chunks.start, rows, opened
        self._first_row = int(counts[: chunks.start].sum())
        self._ends = np.cumsum(counts[chunks])

    def __call__(self, positions: Int64[np.ndarray, "M"]) -> Iterator[bytes]:
        """The encoded images at some ascending positions. Raises DataError where they cannot be read."""
        rows = positions if self._rows is None else self._rows[positions]
        chunks = np.searchsorted(self._ends, rows, side="right")
        cuts = np.flatnonzero(np.diff(chunks)) + 1
        for group in np.split(np.arange(len(rows)), cuts):
            if len(group):
                yield from self._read(self._first_chunk + int(chunks[group[0]]), self._first_row + rows[group])

    def _read(self, number: int, rows: Int64[np.ndarray, "M"]) -> list[bytes]:
        chunk, members = self._table.chunks[number], self._table.members[rows]
        if self._table.kind == "parquet":
            size, count = int(chunk["size"]), int(chunk["count"])
            first = self._first_row + int(self._ends[number - self._first_chunk]) - count
            with self._opened(number) as read_at:
                return [image_at(read_at, row - first, count, size) for row in rows.tolist()]
        start, stop = int(chunk["offset"]), int(chunk["offset"]) + int(chunk["size"])
        with self._opened(number) as read_at:
            records: list[bytes] = []
            for offset, size in zip(members["offset"].tolist(), members["size"].tolist(), strict=True):
                if not start <= offset <= offset + size <= stop:
                    raise DataError(
                        f"{shown(self._table.place)}: the index is damaged.",
                        got=f"an image outside of its chunk, {number}",
                        do="Delete it, and index the data again: vitrail data index SOURCE -o DIR.",
                    )
                records.append(read_at(offset, size))
        return records


def local_chunks(table: Table) -> Callable[[int], AbstractContextManager[ReadAt]]:
    """Opens chunks of shards on a file system.

    The shards are not mapped: where one is cut short on a network's file system, reading a map kills the process.
    """
    root = Path(table.place)

    @contextmanager
    def opened(number: int) -> Iterator[ReadAt]:
        shard = table.shards[int(table.chunks["shard"][number])]
        path = root / shard.name
        try:
            with open_regular(path) as file:
                _check_unchanged(os.fstat(file.fileno()), shard, path)
                descriptor = file.fileno()

                def read_at(offset: int, size: int) -> bytes:
                    found = os.pread(descriptor, size, offset)
                    if len(found) < size:
                        raise _changed(path, f"{len(found)} of {size} bytes at {offset}")
                    return found

                yield read_at
        except OSError as error:
            raise DataError(
                f"{shown(path)}: cannot be read.", got=error.strerror, expected="the shard that was indexed"
            ) from error

    return opened


def _check_unchanged(status: os.stat_result, shard: Shard, path: Path) -> None:
    if status.st_size != shard.size or str(status.st_mtime_ns) != shard.tag:
        raise _changed(path, f"{status.st_size} bytes where {shard.size} were, or another time of last change")


def _changed(path: Path, got: str) -> DataError:
    return DataError(
        f"{shown(path)}: the shard was changed after it was indexed.",
        got=got,
        expected="the shard that was indexed",
        do="Start again; an index of your own is made again by: vitrail data index SOURCE -o DIR.",
    )


class LocalObjects:
    """Reads ranges of local shards, as `vitrail.data.streaming.remote.Objects` does of remote ones."""

    def __init__(self, root: Path) -> None:
        self.root, self.place = root, str(root)

    def about(self, name: str) -> tuple[int, str]:
        """Size in bytes and time of last change. Raises DataError."""
        try:
            status = (self.root / name).stat()
        except OSError as error:
            raise DataError(f"{shown(self.root / name)}: cannot be read.", got=error.strerror) from error
        return status.st_size, str(status.st_mtime_ns)

    def fetch(self, shard: Shard, offset: int, length: int) -> bytes:
        """Bytes of a shard. Raises DataError."""
        path = self.root / shard.name
        try:
            with open_regular(path) as file:
                _check_unchanged(os.fstat(file.fileno()), shard, path)
                found = os.pread(file.fileno(), length, offset)
        except OSError as error:
            raise DataError(f"{shown(path)}: cannot be read.", got=error.strerror) from error
        if len(found) < length:
            raise _changed(path, f"{len(found)} of {length} bytes at {offset}")
        return found
