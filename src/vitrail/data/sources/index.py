"""What a data set looks like before any image is decoded: classes, splits, and where each record is."""

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from vitrail.config import Preprocessing
from vitrail.errors import DataError, ImageError, nearest, shown

_NEAR = 0.8
"""From here on two names are so alike that one may be the other misspelt."""

UNLABELLED = ("image",)
"""The classes of a data set whose labels are ignored: one, which all images have."""

Encoded = bytes | Path | UInt8[np.ndarray, "..."]
"""One record: the bytes of an image file, its path, or pixels [H, W] or [H, W, 3] that need no decoding."""


@dataclass(frozen=True)
class Packed:
    """Pixels that were decoded before.

    Args:
        path: the file they are mapped from.
        pixels: those of the whole file.
        rows: of the file, one for each readable example.
        kept: position in the split of each of `rows`.
        errors: by position, why the others could not be read.
        pixels_sha256: of the whole file, in hexadecimal.
    """

    path: Path
    pixels: UInt8[np.ndarray, "N C H W"]
    rows: Int64[np.ndarray, "n"]
    kept: Int64[np.ndarray, "n"]
    errors: dict[int, ImageError]
    pixels_sha256: str

    def take_rows(self, positions: Int64[np.ndarray, "M"]) -> "Packed":
        """Of some ascending positions of the split."""
        chosen = np.isin(self.kept, positions)
        kept = np.searchsorted(positions, self.kept[chosen])
        errors = {place: self.errors[int(at)] for place, at in enumerate(positions) if int(at) in self.errors}
        return Packed(self.path, self.pixels, self.rows[chosen], kept, errors, self.pixels_sha256)


@dataclass(frozen=True)
class Split:
    """The examples of one split, undecoded.

    Args:
        labels: class of each example, as index into the classes of the source.
        names: the file, or the record's place in its shard, of each example.
        read: yields the records at the given ascending positions, in that order.
        packed: their decoded pixels, where the source has these.
        chunk_starts: positions at which its chunks begin, and then the number of examples; a chunk is what one request
            fetches. None: each record is read on its own.
        follow: told the order of this epoch, that of the next and the position where training goes on, so that chunks
            are fetched before they are needed. None: there is nothing to fetch.
    """

    labels: Int64[np.ndarray, "N"]
    names: Sequence[str]
    read: Callable[[Int64[np.ndarray, "M"]], Iterator[Encoded]]
    packed: Packed | None = None
    chunk_starts: Int64[np.ndarray, "C1"] | None = None
    follow: Callable[..., None] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """An opened SPEC.

    Args:
        name: how messages call it.
        classes: names of the classes of the training set, in label order.
        splits: by name: "train", "val", "test", those that the source itself has.
        listing: SHA-256 over names, sizes and modification times of all files, in hexadecimal.
        num_bytes: size of all files.
        num_ignored: files that are no examples, as notes beside the images.
        notes: what of it is left out or read in another way than a glance tells, a line each.
        empty: class folders of the training set that have no image.
        packed_as: how the images were decoded, where that was done before.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    listing: str
    num_bytes: int = 0
    num_ignored: int = 0
    notes: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    packed_as: Preprocessing | None = None


def without_labels(source: Source) -> Source:
    """The same images, whatever they show."""
    splits = {name: replace(split, labels=np.zeros_like(split.labels)) for name, split in source.splits.items()}
    return replace(source, classes=UNLABELLED, splits=splits, empty=())


def listing_of(files: Iterable[tuple[str, int, int]]) -> str:
    """Hash names, sizes in bytes and modification times in nanoseconds. In: the order given."""
    digest = hashlib.sha256()
    for name, size, mtime in files:
        digest.update(f"{name}\0{size}\0{mtime}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def listing_of_paths(paths: Iterable[Path], root: Path) -> tuple[str, int]:
    """The listing of files, by their names relative to `root`, and their total size in bytes.

    A file that cannot be looked at (a dangling link) is listed as such; reading it gives an ImageError later.
    """
    entries: list[tuple[str, int, int]] = []
    for path in paths:
        try:
            status = path.stat()
            entries.append((os.path.relpath(path, root), status.st_size, status.st_mtime_ns))
        except OSError:
            entries.append((os.path.relpath(path, root), 0, -1))
    return listing_of(entries), sum(size for _, size, _ in entries)


def join_splits(splits: Iterable[Split]) -> Split:
    """Several splits as one, one after the other."""
    parts = list(splits)
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, parts)])

    def read(positions: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
        for part, start, stop in zip(parts, starts[:-1], starts[1:], strict=True):
            yield from part.read(positions[(positions >= start) & (positions < stop)] - start)

    return Split(np.concatenate([part.labels for part in parts]), [n for part in parts for n in part.names], read)


def array_split(pixels: UInt8[np.ndarray, "N ..."], labels: Int64[np.ndarray, "N"], names: Sequence[str]) -> Split:
    """A split whose pixels are in memory already, [N, H, W] or [N, H, W, 3]."""
    return Split(labels, names, lambda positions: (pixels[position] for position in positions))


def path_split(paths: Sequence[Path], labels: Sequence[int] | Int64[np.ndarray, "N"], root: Path) -> Split:
    """A split of image files, named by their paths relative to `root`."""

    def read(positions: Sequence[int] | np.ndarray) -> Iterator[Encoded]:
        return (paths[position] for position in positions)

    names = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
    return Split(np.array(labels, dtype=np.int64), names, read)


def take_rows(split: Split, positions: Int64[np.ndarray, "M"]) -> Split:
    """The examples at some ascending positions as a split of their own."""

    def read(inner: Int64[np.ndarray, "K"]) -> Iterator[Encoded]:
        return split.read(positions[inner])

    names = [split.names[int(position)] for position in positions]
    starts = None if split.chunk_starts is None else np.searchsorted(positions, split.chunk_starts)
    packed = split.packed and split.packed.take_rows(positions)
    return Split(split.labels[positions], names, read, packed, starts, split.follow)


def nfc(name: str) -> str:
    """The composed form of a name: some file systems hand out its accents apart from the letters."""
    return unicodedata.normalize("NFC", name)


def few(names: Sequence[str], most: int = 5) -> str:
    """Some strangers' names for a message."""
    return ", ".join(shown(name, 80) for name in names[:most]) + (", ..." if len(names) > most else "")


def class_index(
    name: str,
    classes: Sequence[str],
    what: str,
    owner: str = "the training set",
    places: Mapping[str, int] | None = None,
) -> int:
    """Position of a class name, as spelt but for the way that accents are stored.

    Args:
        name: the class that was found.
        classes: those that there are.
        what: subject of the message, as "test/trian".
        owner: whose classes they are.
        places: from `places_of(classes)`, for whoever looks up many.
    Raises:
        DataError: there is no such class; the message names one that is spelt nearly the same, else the first ones.
    """
    if name in (places := places_of(classes) if places is None else places):
        return places[name]
    composed = [nfc(known) for known in classes]
    if nfc(name) in composed:
        return composed.index(nfc(name))
    near = nearest(name, classes, _NEAR)
    few = ", ".join(repr(shown(known)) for known in classes[:10])
    more = f", and {len(classes) - 10} more" if len(classes) > 10 else ""
    raise DataError(
        f"{what} names a class that {owner} does not have.",
        got=repr(shown(name)),
        expected=f"one of {few}{more}",
        do=(f"Did you mean {shown(near)!r}? " if near else "")
        + f"Rename it or leave it out; the class list is that of {owner}.",
    )


def places_of(classes: Sequence[str]) -> dict[str, int]:
    """Position of each class name; of equal ones the first."""
    return {classes[at]: at for at in range(len(classes) - 1, -1, -1)}


def case_twins(classes: Sequence[str]) -> list[str]:
    """A line for each group of classes whose names differ in nothing but capital letters, spaces, hyphens and
    underscores, or the form of their letters (Unicode NFKC).
    """
    groups: dict[str, list[str]] = {}
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault("".join(c for c in plain if not c.isspace() and c not in "-_") or name, []).append(name)
    lines: list[str] = []
    for group in (group for group in groups.values() if len(group) > 1):
        is_case = len({name.casefold() for name in group}) == 1
        how = "capital letters" if is_case else "capital letters, spaces, hyphens or the form of letters"
        lines.append(f"the classes {' and '.join(repr(shown(name)) for name in group)} differ in {how} alone")
    return lines
