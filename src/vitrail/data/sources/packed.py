"""Packed data sets: a folder with decoded pixels, labels and names, written by `vitrail data pack`.

    DST/
      vitrail-pack.json   format version, name, classes, preprocessing, SHA-256 of each file; written last
      SPLIT.pixels        uint8 [N, C, H, W], the readable images one after the other
      SPLIT.json          labels and names of all examples, and why some could not be read

Positions, names and unreadable images are those of the source, so that a packed set gives the same run.
"""

import functools
import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail import fsio
from vitrail.config import Preprocessing, from_json
from vitrail.data.sources.index import Encoded, Packed, Source, Split
from vitrail.data.sources.labels import check_classes
from vitrail.errors import ConfigError, DataError, ImageError, shown
from vitrail.reading import DAMAGE, MAX_JSON_BYTES, open_regular, parsed_json, read_json_object, read_regular

INDEX = "vitrail-pack.json"
FORMAT_VERSION = 1
_SPLITS = ("train", "val", "test")
_MAX_RECORDS_BYTES = 1 << 30
"""Labels and names of a split: about ten million examples."""


def is_pack(path: Path) -> bool:
    """Whether a folder is a packed data set."""
    return (path / INDEX).is_file()


def pack_preprocessing(spec: str) -> Preprocessing | None:
    """How the images of a packed set were decoded; None where `spec` is no packed set. Raises DataError."""
    path = Path(os.path.expanduser(spec))
    return _read_index(path)[1] if is_pack(path) else None


def open_pack(path: Path, name: str) -> Source:
    """Open a packed set; its pixels are mapped, and hashed when they are first asked for.

    Raises:
        DataError: another format version, a file that is missing, has another size or does not fit the others.
    """
    index, preprocessing = _read_index(path)
    splits: dict[str, Split] = {}
    try:
        classes = _names(index["classes"])
        check_classes(classes)
        for split, hashes in index["splits"].items():
            if split not in _SPLITS:
                raise ValueError(f"no split is called {shown(split)!r}")
            for file in (f"{split}.json", f"{split}.pixels"):
                if (path / file).is_symlink():
                    raise ValueError(f"{file} is a link")
            raw = read_regular(path / f"{split}.json", _MAX_RECORDS_BYTES)
            if hashlib.sha256(raw).hexdigest() != hashes["records_sha256"]:
                raise _damaged(path / f"{split}.json")
            splits[split] = _open_split(path / f"{split}.pixels", parsed_json(raw), len(classes), preprocessing, hashes)
        listing = hashlib.sha256(read_regular(path / INDEX, MAX_JSON_BYTES)).hexdigest()
        if not splits:
            raise ValueError("no splits")
    except DAMAGE as error:
        raise _damaged(path, str(error)) from error
    num_bytes = sum((path / f"{split}.pixels").stat().st_size for split in splits)
    return Source(name, classes, splits, listing, num_bytes, packed_as=preprocessing)


def check_whole(packed: Packed) -> None:
    """Hash the pixels and compare; once in a process for a file. Raises DataError."""
    status = packed.path.stat()
    if _sha256(packed.path, status.st_size, status.st_mtime_ns) != packed.pixels_sha256:
        raise _damaged(packed.path)


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    return fsio.sha256_of(path)


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("no list of names")
    "".join(values).encode(errors="surrogateescape")  # raises where JSON had half of a character
    return tuple(values)


def _open_split(
    path: Path, records: dict[str, Any], num_classes: int, preprocessing: Preprocessing, hashes: dict[str, str]
) -> Split:
    labels, names = np.array(records["labels"]), _names(records["names"])
    if labels.shape != (len(names),) or labels.dtype.kind != "i" or not np.all((labels >= 0) & (labels < num_classes)):
        raise ValueError(f"{path.name}: not one label of 0 to {num_classes - 1} for each image")
    labels = labels.astype(np.int64)
    _names(list(records["errors"].values()))
    errors = {int(place): ImageError(reason, names[int(place)]) for place, reason in records["errors"].items()}
    if min(errors, default=0) < 0 or len(errors) < len(records["errors"]):
        raise ValueError(f"{path.name}: an unreadable image without a place of its own")
    kept = np.setdiff1d(np.arange(len(names)), np.array(list(errors), dtype=np.int64), assume_unique=True)
    shape = (len(kept), preprocessing.num_channels, *preprocessing.decode_size)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size != math.prod(shape):
        raise ValueError(f"{path.name} has {size} bytes, expected {math.prod(shape)}")
    # Copy on write: the array counts as writable, which torch asks for, and the file stays as it is.
    pixels = np.memmap(path, dtype=np.uint8, mode="c", shape=shape) if len(kept) else np.empty(shape, np.uint8)
    row_of = np.full(len(names), -1)
    row_of[kept] = np.arange(len(kept))

    def read(positions: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
        for row in row_of[positions]:
            image = pixels[row].transpose(1, 2, 0)
            yield b"" if row < 0 else image if image.shape[2] == 3 else image[:, :, 0]

    packed = Packed(path, pixels, np.arange(len(kept)), kept, errors, hashes["pixels_sha256"])
    return Split(labels, names, read, packed)


def _read_index(path: Path) -> tuple[dict[str, Any], Preprocessing]:
    try:
        index = read_json_object(path / INDEX)
        version = index["format_version"]
        if version == FORMAT_VERSION:
            settings = from_json(Preprocessing, index["preprocessing"], "preprocessing", allow_missing=True)
            return index, settings
    except (*DAMAGE, ConfigError) as error:
        raise _damaged(path / INDEX, str(error)) from error
    raise DataError(
        f"{path}: packed in another format.",
        got=f"version {version}",
        expected=f"version {FORMAT_VERSION}",
        do="Pack it again with this version: vitrail data pack.",
    )


def _damaged(path: Path, why: str = "") -> DataError:
    return DataError(
        f"{path}: the packed data set is damaged.",
        got=why or "other bytes than were written",
        expected="the files as vitrail data pack wrote them",
        do="Pack it again: vitrail data pack SPEC DST.",
    )
