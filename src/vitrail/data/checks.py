"""Read a whole data set before training on it: damaged files, duplicates, leaks between splits, imbalance."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from vitrail.config import DataConfig
from vitrail.data.decode import decode_image
from vitrail.data.sources import Encoded, Source, Split, case_twins, check_whole, few, open_source
from vitrail.data.store import in_threads, num_bytes
from vitrail.errors import ImageError
from vitrail.progress import Bar

IMBALANCED = 10
"""The largest class has more than so many times the images of the smallest: worth a warning."""


def check(config: DataConfig, *, progress: bool = False) -> dict[str, Any]:
    """Decode every image and compare all pixels.

    Two images are duplicates when their upright RGB pixels are equal, whatever their files are called and contain.

    Returns:
        name, classes, splits (num_examples, per_class, imbalance, errors, duplicates: groups of names), leaks (groups
        of split:name that several splits share), conflicts (groups of split:name with different classes), notes (what
        is left out), warnings, is_clean.
    Raises:
        DataError: there is no such data set.
    """
    source = open_source(config)
    places: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    splits: dict[str, dict[str, Any]] = {}
    in_order = [name for name in ("train", "val", "test") if name in source.splits]
    for name, split in ((name, source.splits[name]) for name in in_order):
        errors: list[dict[str, str]] = []
        if split.packed:
            check_whole(split.packed)
        for position, found in enumerate(_hashes(split, f"{source.name} {name}" if progress else None)):
            if isinstance(found, ImageError):
                errors.append({"path": found.name, "error": found.reason})
            else:
                places[found].append((name, position))
        counts = np.bincount(split.labels, minlength=len(source.classes))
        splits[name] = {
            "num_examples": len(split),
            "per_class": {c: int(n) for c, n in zip(source.classes, counts, strict=True)},
            "imbalance": float(counts.max(initial=0) / max(counts[counts > 0].min(initial=len(split) or 1), 1)),
            "errors": errors,
            "duplicates": [],
        }
    groups = [group for group in places.values() if len(group) > 1]
    for group in groups:
        for name in splits:
            here = [source.splits[name].names[position] for split, position in group if split == name]
            if len(here) > 1:
                splits[name]["duplicates"].append(here)
    leaks = [_named(source, group) for group in groups if len({split for split, _ in group}) > 1]
    mixed = [g for g in groups if len({int(source.splits[split].labels[position]) for split, position in g}) > 1]
    answer = {
        "name": source.name,
        "classes": list(source.classes),
        "splits": splits,
        "leaks": leaks,
        "conflicts": [_named(source, group) for group in mixed],
        "num_ignored_files": source.num_ignored,
        "notes": [*source.notes, *_too_small(splits)],
    }
    warnings = [*_warnings(answer), *case_twins(source.classes)]
    return {**answer, "warnings": warnings, "is_clean": not warnings}


def _too_small(splits: dict[str, dict[str, Any]]) -> list[str]:
    """A line for classes that cannot be trained on, because nothing of them could be held out."""
    alone = [label for label, count in splits.get("train", {}).get("per_class", {}).items() if count == 1]
    if not alone or "val" in splits:
        return []
    which = "class has a single image" if len(alone) == 1 else "classes have a single image each"
    return [f"train: {len(alone)} {which}, too few to train on and to measure: {few(alone)}"]


def _named(source: Source, group: list[tuple[str, int]]) -> list[str]:
    return [f"{split}:{source.splits[split].names[position]}" for split, position in group]


def _warnings(answer: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, split in answer["splits"].items():
        if split["errors"]:
            lines.append(f"{name}: of its images, {len(split['errors'])} cannot be read")
        if split["duplicates"]:
            extra = sum(len(group) - 1 for group in split["duplicates"])
            lines.append(f"{name}: of its images, {extra} {'is a copy' if extra == 1 else 'are copies'} of another")
        if split["imbalance"] > IMBALANCED:
            lines.append(f"{name}: the largest class has {split['imbalance']:.0f} times the images of the smallest")
        empty = [label for label, count in split["per_class"].items() if not count]
        if empty:
            lines.append(
                f"{name}: {len(empty)} {'class has' if len(empty) == 1 else 'classes have'} no images: {few(empty)}"
            )
    if answer["leaks"]:
        lines.append(f"{_images_are(answer['leaks'])} in more than one split: accuracy measured there is too high")
    if answer["conflicts"]:
        lines.append(f"{_images_are(answer['conflicts'])} in more than one class")
    return lines


def _images_are(groups: Sequence[object]) -> str:
    return "1 image is" if len(groups) == 1 else f"{len(groups)} images are"


def _hashes(split: Split, title: str | None) -> Iterator[bytes | ImageError]:
    """The hash of each image's pixels, or what is wrong with it, in order; decoded in threads."""
    records = zip(split.read(np.arange(len(split))), split.names, strict=True)
    tasks = ((partial(_hash, record, name), num_bytes(record)) for record, name in records)
    with Bar(len(split), title=title or "", enabled=title is not None) as bar:
        for found in in_threads(tasks, most=8):
            bar.advance(1)
            yield found


def _hash(record: Encoded, name: str) -> bytes | ImageError:
    try:
        pixels = record if isinstance(record, np.ndarray) else decode_image(record, name=name)
    except ImageError as error:
        return error
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).digest()
