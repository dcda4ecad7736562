"""The images behind the answers: how many there are of each class, and the records themselves, by id."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.config import DataConfig
from vitrail.data.decode import image_header
from vitrail.data.sources import Encoded, Source, Split, join_splits, nfc, open_source
from vitrail.errors import ImageError, VitrailError
from vitrail.run.predictions import Predictions

_SPLITS = ("train", "val", "test")
_LOOKED_AT = 200
_MOST_KINDS = 8


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What the data set holds.

    Args:
        problem: why it was not looked at; empty: it was.
        counts: images of each class, in the model's order, by split of the source.
        held_out: "val" is a part of "train", whose counts contain it.
        sizes: width x height and how many of the images looked at have it, the most frequent first.
        formats: the same for formats.
        num_looked_at: of the measured split, spread evenly.
        notes: what of the data set is left out.
    """

    problem: str
    counts: dict[str, tuple[int, ...]]
    held_out: bool
    sizes: tuple[tuple[str, int], ...]
    formats: tuple[tuple[str, int], ...]
    num_looked_at: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Images:
    """The records of a split by their ids.

    Args:
        split: of the source.
        source: the whole of it.
    """

    split: Split
    source: Source

    def records(self, ids: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
        """Some of them, in ascending order."""
        wanted = np.array(sorted(set(ids)), dtype=np.int64)
        yield from zip(wanted.tolist(), self.split.read(wanted), strict=True)


def find(config: DataConfig, found: Predictions) -> Images | str:
    """The images that were measured, or why they are not to be had.

    Args:
        config: spec and root are used.
    """
    if not config.spec:
        return "nothing says which data were measured"
    try:
        source = open_source(config)
    except VitrailError as error:
        return f"the data are not to be had: {error.what.rstrip('.')}"
    except ImportError as error:
        return f"the data are not to be had: {error}"
    if found.split == "all":
        split = join_splits(source.splits[name] for name in _SPLITS if name in source.splits)
    else:
        split = source.splits.get(found.split) or source.splits.get("train")
    if split is None or not _are_the_same(split, source.classes, found):
        return f"the data are not those any more that were measured ({found.split})"
    return Images(split, source)


def _are_the_same(split: Split, classes: Sequence[str], found: Predictions) -> bool:
    """Whether the ids lead to the names and labels that were answered."""
    if not len(found):
        return True
    if found.ids[0] < 0 or found.ids[-1] >= len(split):
        return False
    composed, theirs = [nfc(name) for name in classes], [nfc(name) for name in found.classes]
    labels = zip(split.labels[found.ids].tolist(), found.labels.tolist(), strict=True)
    names = zip(found.ids.tolist(), found.names, strict=True)
    return all(composed[a] == theirs[b] for a, b in labels) and all(split.names[i] == name for i, name in names)


def describe(images: Images | str, found: Predictions) -> DataFacts:
    """Count the classes of every split, and look at some of the measured images."""
    if isinstance(images, str):
        return DataFacts(problem=images, counts={}, held_out=False, sizes=(), formats=(), num_looked_at=0, notes=())
    source = images.source
    place = {nfc(name): number for number, name in enumerate(found.classes)}
    numbers = np.array([place.get(nfc(name), len(place)) for name in source.classes])
    counts = {
        name: tuple(np.bincount(numbers[split.labels], minlength=len(place) + 1)[: len(place)].tolist())
        for name, split in ((name, source.splits[name]) for name in _SPLITS if name in source.splits)
    }
    sizes, formats, seen = Counter[str](), Counter[str](), 0
    if len(found):
        chosen = found.ids[np.unique(np.linspace(0, len(found) - 1, _LOOKED_AT).astype(int))]
        for _, record in images.records(chosen.tolist()):
            if kind := _kind(record):
                seen += 1
                formats[kind[0]] += 1
                sizes[kind[1]] += 1
    return DataFacts(
        problem="",
        counts=counts,
        held_out=found.split == "val" and "val" not in source.splits,
        sizes=tuple(sizes.most_common(_MOST_KINDS)),
        formats=tuple(formats.most_common(_MOST_KINDS)),
        num_looked_at=seen,
        notes=source.notes,
    )


def _kind(record: Encoded) -> tuple[str, str] | None:
    """Format and size of a record."""
    if isinstance(record, np.ndarray):
        return "pixels", f"{record.shape[1]}x{record.shape[0]}"
    try:
        header = image_header(record)
    except ImageError:
        return None
    return header.format, f"{header.width}x{header.height}"
