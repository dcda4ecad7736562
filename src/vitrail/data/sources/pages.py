"""How many rows of a Parquet column can be read at once, by the headers of its pages, before a library unpacks them.

A few hundred bytes can stand for gigabytes: pages are compressed, a dictionary gives one value to any number of rows,
and of values with a common beginning each is written out when it is read. What the file's own summary says of sizes is
not compared by the library; the headers of the pages are what it goes by.

Source: github.com/apache/parquet-format, src/main/thrift/parquet.thrift, and Thrift's compact protocol.
"""

import io
import os
from collections.abc import Sequence
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
_BINARY, _STRUCT, _INT32 = 8, 12, 5
_DICTIONARY_PAGE, _DELTA_BYTE_ARRAY = 2, 7
_PREFIXED, _FIXED = 6, 3
"""Copies that the library makes, one batch and the next, of values with a common beginning, and of one width."""


def check_footer(file: io.FileIO) -> None:
    """Raise ValueError where the summary of a Parquet file is longer than honest ones are."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    if length > MAX_FOOTER_BYTES:
        raise ValueError(f"a footer of {length} bytes, more than {MAX_FOOTER_BYTES}")


def check_groups(file: io.FileIO, metadata: Any) -> None:
    """Raise ValueError where a Parquet file has more row groups than honest ones of its size."""
    most = _ALWAYS_GROUPS + os.fstat(file.fileno()).st_size // _GROUP_BYTES
    if metadata.num_row_groups > most:
        raise ValueError(f"{metadata.num_row_groups} row groups, more than {most} for a file of its size")


def leaves_of(metadata: Any, column: str) -> list[int]:
    """Positions of a column's parts among those that a file stores."""
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    return [i for i, path in enumerate(paths) if path == column or path.startswith(f"{column}.")]


def rows_at_once(file: io.FileIO, metadata: Any, group: int, leaves: Sequence[int], most: int, most_bytes: int) -> int:
    """How many rows of a row group take at most `most_bytes` when they are read together; at least one, at most `most`.

    Args:
        file: the Parquet file.
        metadata: its `FileMetaData`.
        group: which row group.
        leaves: of the columns that are read, from `leaves_of`.
        most: rows.
        most_bytes: of all of them together, roughly: one value may have more.
    Raises:
        ValueError: a page has no readable header, or the pages grow too much.
        OSError: the file cannot be read.
    """
    described = metadata.row_group(group)
    for leaf in leaves:
        chunk, width = described.column(leaf), metadata.schema.column(leaf).length
        dictionary, start = chunk.dictionary_page_offset or 0, chunk.data_page_offset
        start = dictionary if 0 < dictionary < start else start
        packed, unpacked, widest = _sizes(file, start, start + chunk.total_compressed_size)
        if unpacked > _ALWAYS_BYTES + MAX_EXPANSION * packed:
            raise ValueError(f"a column of {packed} bytes that unpacks to {unpacked}")
        if width > _ALWAYS_BYTES:
            raise ValueError(f"values of {width} bytes each")
        if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
            widest = _FIXED * width
        if chunk.physical_type.endswith("BYTE_ARRAY"):
            average = -(-unpacked // max(described.num_rows, 1))
            # Beside the rows, the page that their values come from is in memory twice.
            most = min(most, (most_bytes - 2 * widest) // max(widest, average, 1))
    return max(most, 1)


def _sizes(file: io.FileIO, start: int, end: int) -> tuple[int, int, int]:
    """Bytes of all pages, as they are and unpacked, and of the largest value that more rows may have than hold it."""
    at = start
    packed = unpacked = widest = pages = 0
    while at < end + _PADDING:
        try:
            fields, length = _header(file, at)
            grown, size = fields[2], fields[3]
        except (ValueError, LookupError) as error:
            if at >= end:
                break
            raise ValueError("a page without a readable header") from error
        if at >= end and at + length + size > end + _PADDING:
            break
        pages += 1
        if pages > _MAX_PAGES:
            raise ValueError(f"more than {_MAX_PAGES} pages in a column of a row group")
        # Of a data page, field 5 is the description in version 1, field 8 in version 2.
        encodings = [fields[part].get(place) for part, place in ((5, 2), (8, 4)) if isinstance(fields.get(part), dict)]
        if fields[1] == _DICTIONARY_PAGE or _DELTA_BYTE_ARRAY in encodings:
            widest = max(widest, grown if fields[1] == _DICTIONARY_PAGE else _PREFIXED * grown)
        at, packed, unpacked = at + length + size, packed + length + size, unpacked + grown
    return packed, unpacked, widest


def _header(file: io.FileIO, at: int) -> tuple[dict[int, Any], int]:
    """The integers of a page's header by their numbers, and its length in bytes."""
    for size in _HEADERS:
        file.seek(at)
        window = file.read(size)
        try:
            fields, length = _struct(window, 0)
        except IndexError:
            continue
        if not all(isinstance(fields.get(number), int) and fields[number] >= 0 for number in (1, 2, 3)):
            break
        return fields, length
    raise ValueError("no header of a page")


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The 32-bit integers and structs of a struct, and where it ends. Fields in another order than that of their
    numbers, or of kinds that headers do not have, are refused, so that nobody reads them in another way.
    """
    found: dict[int, Any] = {}
    number = 0
    while header := data[at]:
        kind, step = header & 15, header >> 4
        number, at = number + step, at + 1
        if not step or depth > 2:
            raise ValueError("a field out of order")
        if kind == _STRUCT:
            found[number], at = _struct(data, at, depth + 1)
        elif kind == _BINARY:
            length, at = _varint(data, at)
            at += length
        elif kind in (4, _INT32, 6):
            value, at = _varint(data, at)
            if kind == _INT32:
                found[number] = (value >> 1) ^ -(value & 1)
        elif kind not in (1, 2):  # true and false have no bytes of their own
            raise ValueError(f"a field of kind {kind}")
    return found, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, of at most ten bytes; and where it ends."""
    value = 0
    for i in range(10):
        value |= (data[at + i] & 127) << 7 * i
        if data[at + i] < 128:
            return value, at + i + 1
    raise ValueError("a number without an end")
