"""What batch prediction does at a time: a unit of the input, which becomes one part of the output."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vitrail.data.sources import Encoded
from vitrail.errors import ImageError

UNIT_ROWS = 10_000
"""Files of a listing, examples of a split, at most; rows of a Parquet file, at least: one unit."""
_LEAST_ROWS, _UNITS = 512, 20


class Record(NamedTuple):
    """One image of the input.

    Args:
        key: what the row is called: the path of a file, the key of a sample, the name of an example.
        row: its place in the shard, the listing or the split.
        image: undecoded; or why there is none.
    """

    key: str
    row: int
    image: Encoded | ImageError


class Row(NamedTuple):
    """A record without its image."""

    key: str
    row: int


@dataclass(frozen=True)
class Unit:
    """A run of images that is read from first to last.

    Args:
        shard: the file it is in, the split of a data set, the folder of a listing.
        identity: SHA-256 over names, sizes and versions of what is read, and the range.
        count: how many images; None: known when they are read.
        num_bytes: size of what is read.
        records: the images in order. Raises DataError: the input is damaged.
    """

    shard: str
    identity: str
    count: int | None
    num_bytes: int
    records: Callable[[], Iterator[Record]]


@dataclass(frozen=True)
class Inputs:
    """All units in an order that the input alone decides."""

    units: Sequence[Unit]
    notes: Sequence[str] = ()

    @property
    def sha256(self) -> str:
        """Of everything that is read."""
        return sha256_of(*(unit.identity for unit in self.units))


def rows_a_unit(count: int) -> int:
    """How many files of a listing, or examples of a split, one unit has; of a few thousand, there are 20 units."""
    return min(UNIT_ROWS, max(_LEAST_ROWS, -(-count // _UNITS)))


def sha256_of(*words: object) -> str:
    """Of some words, in hexadecimal."""
    return hashlib.sha256("\0".join(map(str, words)).encode(errors="surrogateescape")).hexdigest()


def as_text(name: str) -> str:
    """A name as UTF-8 can hold it: bytes that are no text become escapes."""
    return name.encode(errors="backslashreplace").decode()
