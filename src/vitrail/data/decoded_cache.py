"""Decoded images in a file of the user's cache folder, mapped by every process of the machine that needs them.

The next run finds them again by the listing of the source files and the preprocessing. The folder has a limit; what
was not used for longest goes first. Whoever has a file mapped keeps it until the end, deleted or not.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Int64, UInt8

from vitrail import fsio
from vitrail.config import Preprocessing, to_json
from vitrail.data.sources import Split
from vitrail.errors import ConfigError, ImageError, SaveError, shown
from vitrail.locations import decoded_cache
from vitrail.reading import DAMAGE, open_regular, read_json_object

_MAX_INDEX_BYTES = 1 << 30
"""About a hundred million images."""
# Raised whenever the decoder gives other pixels, so that no older file is taken for the new ones.
_CACHE_VERSION = 1
_PIXELS, _INDEX = "pixels.bin", "index.json"
_ROOM_LEFT = 1 << 30
"""Bytes of the disk that are left to others."""
DECODING = tuple(
    ["decode_size", "resize_mode", "resize_filter", "resize_size", "crop_rounding", "fast_decoding", "icc", "channels"],
)
"""What of a preprocessing decides the decoded pixels."""


@dataclass(frozen=True)
class Decoded:
    """Pixels of the readable records, their positions among all, and the errors of the others in order."""

    pixels: UInt8[np.ndarray, "N C H W"]
    kept: Int64[np.ndarray, "N"]
    errors: tuple[ImageError, ...]
    pixels_sha256: str


@dataclass(frozen=True)
class WholeImages:
    """The same of images that have each their own size.

    Args:
        pixels: of all images one after the other, each [h, w, C].
        shapes: height and width of each.
    """

    pixels: UInt8[np.ndarray, "bytes"]
    shapes: Int64[np.ndarray, "N 2"]
    kept: Int64[np.ndarray, "N"]
    errors: tuple[ImageError, ...]
    pixels_sha256: str


@dataclass(frozen=True)
class Chunk:
    """Some records that follow each other: pixels of those that could be read, which these are, and the errors.

    Args:
        shapes: height and width of each, where they differ; `pixels` is then flat.
    """

    pixels: UInt8[np.ndarray, "..."]
    kept: list[int]
    errors: list[ImageError]
    shapes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


class CachedPixels:
    """The decoded images of one split, on disk.

    Args:
        split: the records.
        preprocessing: how they are decoded.
        listing: hash of the source files.
        what: other than images of equal shape, "" for these.
    """

    def __init__(self, split: Split, preprocessing: Preprocessing, listing: str, what: str = "") -> None:
        self._num_records = len(split)
        self._image_shape = (preprocessing.num_channels, *preprocessing.decode_size)
        self.folder = decoded_cache() / (what + _key(split, preprocessing, listing))

    def find(self) -> Decoded | None:
        """The images of an earlier run, or None where there are none or they are not whole."""
        with contextlib.suppress(*DAMAGE):
            index, kept, errors, num_bytes = self._read_index()
            shape = (len(kept), *self._image_shape)
            if num_bytes == math.prod(shape):
                return Decoded(self._mapped(shape), kept, errors, str(index["pixels_sha256"]))
        return None

    def find_whole(self) -> WholeImages | None:
        """The same of images that have each their own size."""
        with contextlib.suppress(*DAMAGE):
            index, kept, errors, num_bytes = self._read_index()
            shapes = np.array(index["shapes"], dtype=np.int64).reshape(-1, 2)
            sizes = shapes.prod(1) * self._image_shape[0]
            is_whole = len(shapes) == len(kept) and bool((shapes > 0).all()) and num_bytes == sizes.sum()
            if is_whole:
                return WholeImages(self._mapped((num_bytes,)), shapes, kept, errors, str(index["pixels_sha256"]))
        return None

    def write(self, chunks: Iterator[Chunk]) -> None:
        """Stream the pixels to the file; the index is written last and says that it is complete.

        Raises:
            SaveError: it cannot be written.
        """
        kept: list[int] = []
        errors: list[ImageError] = []
        shapes: list[tuple[int, int]] = []
        digest = hashlib.sha256()
        with fsio.writing(self.folder / _PIXELS) as file:
            for chunk in chunks:
                file.write(chunk.pixels.data)
                digest.update(chunk.pixels.data)
                kept += chunk.kept
                errors += chunk.errors
                shapes += chunk.shapes
        index = {
            "kept": kept,
            "errors": [{"name": error.name, "reason": error.reason} for error in errors],
            "pixels_sha256": digest.hexdigest(),
            **({"shapes": shapes} if shapes else {}),
        }
        fsio.write_json(self.folder / _INDEX, index)

    def make_room(self, num_bytes: int, limit: int) -> None:
        """Delete what was not used for longest, until so many bytes more fit.

        Raises:
            SaveError: they do not fit, neither then.
        """
        make_room(self.folder.parent, num_bytes, limit, "the decoded images", "--data.store files, which keeps none")

    def _read_index(self) -> tuple[dict[str, object], Int64[np.ndarray, "N"], tuple[ImageError, ...], int]:
        """The index, which records are there, the errors of the others, and the bytes of pixels. Raises of DAMAGE."""
        index = read_json_object(self.folder / _INDEX, _MAX_INDEX_BYTES)
        kept = np.array(index["kept"], dtype=np.int64)
        errors = tuple(ImageError(error["reason"], error["name"]) for error in index["errors"])
        with open_regular(self.folder / _PIXELS) as file:
            num_bytes = os.fstat(file.fileno()).st_size
        is_ascending = bool(np.all(np.diff(kept, prepend=-1, append=self._num_records) > 0))
        if len(kept) + len(errors) != self._num_records or not is_ascending:
            raise ValueError("an index of other records")
        with contextlib.suppress(SaveError):  # a folder that may only be read is used as it is
            fsio.touch(self.folder / _INDEX)
        return index, kept, errors, num_bytes

    def _mapped(self, shape: tuple[int, ...]) -> np.ndarray:
        """Copy on write: the array counts as writable, which torch asks for, and the file stays as it is."""
        if not math.prod(shape):  # an empty file cannot be mapped
            return np.empty(shape, np.uint8)
        return np.memmap(self.folder / _PIXELS, dtype=np.uint8, mode="c", shape=shape)


def make_room(root: Path, num_bytes: int, limit: int, what: str, instead: str) -> None:
    """Delete of the folders in `root` what was not used for longest, until so many bytes more fit.

    Args:
        limit: bytes that all of them may take.
        what: is to be kept; instead: the setting that needs no room.
    Raises:
        SaveError: they do not fit, neither then.
    """
    there = sorted(_entries(root))
    total, free = sum(size for _, size, _ in there), _free(root)
    if num_bytes <= limit and num_bytes <= free + total:
        for _, size, folder in there:
            if total + num_bytes <= limit and num_bytes <= free:
                return
            fsio.remove(folder)
            total, free = total - size, free + size
        if num_bytes <= free:
            return
    got = f"{min(limit, max(0, free + total)) / 2**30:.1f} GiB, of which data.cache-gib allows {limit / 2**30:.1f}"
    raise SaveError(
        f"{shown(root)}: no room for {what}.",
        got=got,
        expected=f"{num_bytes / 2**30:.1f} GiB",
        do=f"Use {instead}, or raise --data.cache-gib, or set XDG_CACHE_HOME to a larger disk.",
    )


def can_cache(num_bytes: int, limit: int) -> bool:
    """Whether so many bytes fit, were nothing else there."""
    try:
        root = decoded_cache()
    except ConfigError:  # the folder is not known
        return False
    return num_bytes <= min(limit, _free(root) + sum(size for _, size, _ in _entries(root)))


def _free(root: Path) -> int:
    return fsio.free_bytes(root) - _ROOM_LEFT


def _entries(root: Path) -> Iterator[tuple[float, int, Path]]:
    """When each folder of decoded images was last used, its bytes, and where it is."""
    with contextlib.suppress(OSError):
        for folder in root.iterdir():
            with contextlib.suppress(OSError):
                used = max((path.stat().st_mtime for path in folder.iterdir()), default=folder.stat().st_mtime)
                yield used, sum(path.stat().st_size for path in folder.iterdir()), folder


def _key(split: Split, preprocessing: Preprocessing, listing: str) -> str:
    digest = hashlib.sha256()
    settings = to_json(preprocessing)
    relevant = {name: settings[name] for name in DECODING}
    digest.update(json.dumps([_CACHE_VERSION, PIL.__version__, listing, relevant], sort_keys=True).encode())
    for name in split.names:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:32]
