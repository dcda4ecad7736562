"""How many rows of a Parquet column can be read at once, by the headers of its pages, before a library unpacks them.

A few hundred bytes can stand for gigabytes: pages are compressed, a dictionary gives one value to any number of rows,
and of values with a common beginning each is written out when it is read. What the file's own summary says of sizes is
not compared by the library; the headers of the pages are what it goes by.

Source: github.com/apache/parquet-format, src/main/thrift/parquet.thrift, and Thrift's compact protocol.
"""

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_FOOTER_BYTES = 10 << 20
"""Of the summary at the end of a file; it takes twenty times as much when it is read."""
_ALWAYS_GROUPS, _GROUP_BYTES = 1000, 10_000
"""Row groups of any file, and bytes of it for each other one: reading a group takes longer than reading a row."""
MAX_EXPANSION, _ALWAYS_BYTES = 20, 16 << 20
"""A column of a row group may grow so many times when it is unpacked; what is below so many bytes is always read."""
_MAX_PAGES = 50_000
"""Of one row group; writers put a megabyte into each."""
_HEADERS = (1 << 12, 1 << 20)
"""Bytes that are read to find the header of a page; statistics can make it longer than the first number."""
# Versions of one writer that left up to so many bytes of a chunk out of its length.
_PADDING = 100
_INT32, _INT64, _BINARY, _LIST, _STRUCT, _BOOLEANS = 5, 6, 8, 9, 12, (1, 2)
_MAX_VALUES, _MAX_DEPTH = 500_000, 12
DICTIONARY_ENCODINGS = frozenset({0, 2, 3, 4, 8})
"""Plain values, their places in a dictionary, and levels."""
_DICTIONARY_PAGE, _DELTA_BYTE_ARRAY = 2, 7
_PREFIXED, _FIXED = 6, 3
"""Copies that the library makes, one batch and the next, of values with a common beginning, and of one width."""


BinaryFile = io.RawIOBase
"""A file, or what reads ranges of one that is elsewhere."""


@dataclass(frozen=True)
class Chunk:
    """A column's part of a row group, as the file's own summary has it."""

    start: int
    num_bytes: int
    encodings: frozenset[int]
    unpacked_bytes: int = 0
    """As the summary says; nothing relies on it being true."""


def chunks_of(file: BinaryFile) -> list[list[Chunk]]:
    """For each row group of a Parquet file where its columns' parts are, read from the summary at the end of the file.

    The library's object for a part ends the process when certain fields of it are damaged (statistics of sizes do so in
    pyarrow 26), so that it is not asked.

    Raises:
        ValueError: the summary is damaged, or larger than those of honest files.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    if length > MAX_FOOTER_BYTES:
        raise ValueError(f"a footer of {length} bytes, more than {MAX_FOOTER_BYTES}")
    file.seek(max(size - 8 - length, 0))
    try:
        groups = _Fields(file.read(length)).struct()[0].get(4, (_LIST, []))[1]
        most = _ALWAYS_GROUPS + size // _GROUP_BYTES
        if len(groups) > most:
            raise ValueError(f"{len(groups)} row groups, more than {most} for a file of its size")
        return [[_chunk(column) for column in group[1][1]] for group in groups]
    except (LookupError, TypeError) as error:
        raise ValueError("a footer that cannot be read") from error


def _chunk(column: dict[int, Any]) -> Chunk:
    described = column[3][1]
    num_bytes, start = _integer(described, 7, _INT64), _integer(described, 9, _INT64)
    dictionary = _integer(described, 11, _INT64) if 11 in described else 0
    start = dictionary if 0 < dictionary < start else start
    if min(start, num_bytes) < 0:
        raise ValueError("a column at a negative place")
    return Chunk(start, num_bytes, frozenset(described[2][1]), _integer(described, 6, _INT64) if 6 in described else 0)


def _integer(fields: dict[int, Any], number: int, kind: int) -> int:
    """A field that has to be there, and of this kind: the library takes one of another kind as missing."""
    found, value = fields[number]
    if found != kind:
        raise ValueError("a field of another kind")
    return value


def leaves_of(metadata: Any, column: str) -> list[int]:
    """Positions of a column's parts among those that a file stores."""
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    return [i for i, path in enumerate(paths) if path == column or path.startswith(f"{column}.")]


def rows_at_once(
    file: BinaryFile,
    metadata: Any,
    chunks: Sequence[Chunk],
    group: int,
    leaves: Sequence[int],
    most: int,
    most_bytes: int,
) -> int:
    """How many rows of a row group take at most `most_bytes` when they are read together; at least one, at most `most`.

    Args:
        file: the Parquet file.
        metadata: its `FileMetaData`.
        chunks: of the row group, from `chunks_of`.
        group: its number.
        leaves: of the columns that are read, from `leaves_of`.
        most: rows.
        most_bytes: of all of them together, roughly: one value may have more.
    Raises:
        ValueError: a page has no readable header, or the pages grow too much.
        OSError: the file cannot be read.
    """
    num_rows = max(metadata.row_group(group).num_rows, 1)
    for leaf in leaves:
        chunk, column = chunks[leaf], metadata.schema.column(leaf)
        kind, width = column.physical_type, column.length
        packed, unpacked, widest = _sizes(file, chunk.start, chunk.start + chunk.num_bytes)
        if unpacked > _ALWAYS_BYTES + MAX_EXPANSION * packed:
            raise ValueError(f"a column of {packed} bytes that unpacks to {unpacked}")
        if width > _ALWAYS_BYTES:
            raise ValueError(f"values of {width} bytes each")
        if kind == "FIXED_LEN_BYTE_ARRAY":
            widest = _FIXED * width
        if kind.endswith("BYTE_ARRAY"):
            average = -(-unpacked // num_rows)
            # Beside the rows, the page that their values come from is in memory twice.
            most = min(most, (most_bytes - 2 * widest) // max(widest, average, 1))
    return max(most, 1)


def _sizes(file: BinaryFile, start: int, end: int) -> tuple[int, int, int]:
    """Bytes of all pages, as they are and unpacked, and of the largest value that more rows may have than hold it."""
    at = start
    packed = unpacked = widest = pages = 0
    while at < end + _PADDING:
        try:
            fields, length = _header(file, at)
            kind, grown, size = (_integer(fields, number, _INT32) for number in (1, 2, 3))
        except (ValueError, LookupError) as error:
            if at >= end:
                break
            raise ValueError("a page without a readable header") from error
        if at >= end and at + length + size > end + _PADDING:
            break
        pages += 1
        if pages > _MAX_PAGES:
            raise ValueError(f"more than {_MAX_PAGES} pages in a column of a row group")
        if kind == _DICTIONARY_PAGE:
            widest = max(widest, grown)
        # Of a data page, field 5 is the description in version 1, field 8 in version 2.
        for part, place in ((5, 2), (8, 4)):
            if fields.get(part, (0, 0))[0] == _STRUCT and fields[part][1].get(place) == (_INT32, _DELTA_BYTE_ARRAY):
                widest = max(widest, _PREFIXED * grown)
        at, packed, unpacked = at + length + size, packed + length + size, unpacked + grown
    return packed, unpacked, widest


def _header(file: BinaryFile, at: int) -> tuple[dict[int, Any], int]:
    """The fields of a page's header, and its length in bytes."""
    for size in _HEADERS:
        file.seek(at)
        with contextlib.suppress(IndexError):
            fields, length = _Fields(file.read(size)).struct()
            if any(_integer(fields, number, _INT32) < 0 for number in (1, 2, 3)):
                break
            return fields, length
    raise ValueError("no header of a page")


class _Fields:
    """Structs in Thrift's compact form, as {number of the field: (kind, value)}.

    Fields in another order than that of their numbers are refused, so that nobody reads them in another way.

    Args:
        data: that begins with a struct.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.left = data, 0, _MAX_VALUES

    def struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """The next struct, and where it ends. Raises ValueError, or IndexError where the data ends before."""
        found: dict[int, Any] = {}
        number = 0
        while header := self.data[self.at]:
            kind, step = header & 15, header >> 4
            number, self.at = number + step, self.at + 1
            if not step:
                raise ValueError("a field out of order")
            # True and false are the kind alone.
            found[number] = (kind, None if kind in _BOOLEANS else self._value(kind, depth + 1))
        self.at += 1
        return found, self.at

    def _value(self, kind: int, depth: int) -> Any:
        self.left -= 1
        if depth > _MAX_DEPTH or not self.left:
            raise ValueError("too many values, or nested too deeply")
        if kind in (_INT32, _INT64, 4):
            value = self._varint()
            return (value >> 1) ^ -(value & 1)
        if kind == _BINARY:
            length = self._varint()
            self.at += length
            return None
        if kind == _STRUCT:
            return self.struct(depth)[0]
        if kind == _LIST:
            header = self.data[self.at]
            self.at += 1
            size, inner = header >> 4 if header >> 4 < 15 else self._varint(), header & 15
            return [self._value(inner, depth + 1) for _ in range(size)]
        if kind in (*_BOOLEANS, 3, 7):  # in a list a boolean has a byte, as small integers have; a double has eight
            self.at += 8 if kind == 7 else 1
            return None
        raise ValueError(f"a field of kind {kind}")

    def _varint(self) -> int:
        """A number of seven bits a byte, the lowest first, of at most ten bytes."""
        value = 0
        for i in range(10):
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value
        raise ValueError("a number without an end")
