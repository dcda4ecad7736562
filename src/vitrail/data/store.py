"""Decode every record once, in parallel, and keep the pixels: uint8 [N, C, H, W] in memory or in a mapped file.

In: the records of a split. Out: pixels of those that could be read, which ones they are, and an ImageError for each
other one. What does not fit the budget goes to a file of the user's cache folder, which the next run finds again by
the listing of the source files and the preprocessing.
"""

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from jaxtyping import Int64, UInt8
from PIL import Image

from vitrail import fsio
from vitrail.config import Preprocessing, to_json
from vitrail.data.decode import load_image
from vitrail.data.fit import fit
from vitrail.data.sources import Encoded, Packed, Split, check_whole
from vitrail.errors import ImageError
from vitrail.locations import decoded_cache
from vitrail.progress import Bar
from vitrail.reading import DAMAGE, open_regular, read_json_object

T = TypeVar("T")

_MAX_INDEX_BYTES = 1 << 30
"""About a hundred million images."""

# Raised whenever the decoder gives other pixels, so that no older file is taken for the new ones.
_CACHE_VERSION = 1
# One task of a thread: enough small images to hide its cost, few large ones, so that all threads end at once.
_TASK_RECORDS = (8, 64)
_TASK_BYTES = 1 << 20
_MAX_THREADS = 32
# Bytes of encoded images that one task has, and that wait for all threads: what a table holds may be large.
_RECORDS_BYTES, _WAITING_BYTES = 8 << 20, 48 << 20
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


def decode_split(
    split: Split, preprocessing: Preprocessing, *, listing: str, ram_budget_bytes: int, progress: bool, title: str
) -> Decoded:
    """Decode a whole split.

    Args:
        split: the records.
        preprocessing: decides size and channels.
        listing: hash of the source files, for finding the cache file again.
        ram_budget_bytes: pixels that take more than this go to a mapped file.
        progress: show a bar on stderr.
        title: of the bar.
    Raises:
        SaveError: the cache file cannot be written.
    """
    shape = (len(split), preprocessing.num_channels, *preprocessing.decode_size)
    if split.packed and (len(split.packed.rows) == len(split.packed.pixels) or math.prod(shape) <= ram_budget_bytes):
        return _unpacked(split.packed)
    bar_title = title if progress else None
    if math.prod(shape) <= ram_budget_bytes:
        pixels = np.empty(shape, dtype=np.uint8)
        return _in_memory(pixels, _decoded_chunks(split, preprocessing, bar_title, into=pixels))
    chunks = _decoded_chunks(split, preprocessing, bar_title)
    folder = decoded_cache() / _cache_key(split, preprocessing, listing)
    return _mapped(folder, len(split), shape[1:]) or _write_and_map(folder, chunks, shape)


def _in_memory(pixels: UInt8[np.ndarray, "N C H W"], chunks: Iterator["_Chunk"]) -> Decoded:
    """Close the gaps that unreadable records left in `pixels`, which the chunks are parts of."""
    kept: list[int] = []
    errors: list[ImageError] = []
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk.pixels.data)  # beside the decoding, without the interpreter lock
        if errors:  # behind them, every chunk moves down, to where finished ones were
            pixels[len(kept) : len(kept) + len(chunk.kept)] = chunk.pixels
        kept += chunk.kept
        errors += chunk.errors
    pixels = pixels[: len(kept)]
    return Decoded(pixels, np.array(kept, dtype=np.int64), tuple(errors), digest.hexdigest())


def _unpacked(packed: Packed) -> Decoded:
    """What was decoded before: as it is mapped where all of it is wanted, else copied."""
    check_whole(packed)
    errors = tuple(packed.errors[position] for position in sorted(packed.errors))
    if len(packed.rows) == len(packed.pixels):
        return Decoded(packed.pixels, packed.kept, errors, packed.pixels_sha256)
    pixels = np.take(packed.pixels, packed.rows, axis=0)
    return Decoded(pixels, packed.kept, errors, hashlib.sha256(pixels.data).hexdigest())


# ---- decoding ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunk:
    pixels: UInt8[np.ndarray, "n C H W"]
    kept: list[int]
    errors: list[ImageError]


def _decoded_chunks(
    split: Split,
    preprocessing: Preprocessing,
    title: str | None,
    into: UInt8[np.ndarray, "N C H W"] | None = None,
) -> Iterator[_Chunk]:
    """Decode in order, in threads, a bounded number of records waiting, each `into` its row where that is given.

    Pillow decodes and resizes without the interpreter lock, so photographs use all cores. Of tiny images one core
    does more than 10,000 a second; worker processes would not have started before CIFAR is done.
    """
    bar = Bar(len(split), title=title or "", enabled=title is not None)

    def tasks() -> Iterator[tuple[Callable[[], _Chunk], int]]:
        for start, records in _tasks(split, preprocessing):
            rows = slice(start, start + len(records))
            names, place = split.names[rows], None if into is None else into[rows]
            yield partial(_decode_records, records, names, start, preprocessing, place), sum(map(num_bytes, records))

    with bar:
        for chunk in in_threads(tasks()):
            bar.advance(len(chunk.kept) + len(chunk.errors))
            yield chunk


def in_threads(tasks: Iterable[tuple[Callable[[], T], int]], most: int = 2) -> Iterator[T]:
    """Results of tasks in their order, run in threads, one a core; few wait, and these hold few bytes.

    Args:
        tasks: each with the bytes that it keeps in memory until it is done.
        most: that wait for each thread.
    """
    workers, held = num_threads(), 0
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Future[T], int]] = deque()
        for task, size in tasks:
            waiting.append((pool.submit(task), size))
            held += size
            while waiting and (len(waiting) > most * workers or held > _WAITING_BYTES):
                future, done = waiting.popleft()
                held -= done
                yield future.result()
        while waiting:
            yield waiting.popleft()[0].result()


def num_bytes(record: Encoded) -> int:
    """Bytes of a record that is in memory; none of a file, and of pixels that are there anyway."""
    return len(record) if isinstance(record, bytes) else 0


def num_threads() -> int:
    """One thread a core that this process may use, up to a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MAX_THREADS, cores)


def _tasks(split: Split, preprocessing: Preprocessing) -> Iterator[tuple[int, list[Encoded]]]:
    fewest, most = _TASK_RECORDS
    image_bytes = preprocessing.num_channels * math.prod(preprocessing.decode_size)
    count = max(fewest, min(most, _TASK_BYTES // image_bytes))
    records: list[Encoded] = []
    start = size = 0
    for record in split.read(np.arange(len(split))):
        records.append(record)
        size += num_bytes(record)
        if len(records) == count or size > _RECORDS_BYTES:
            yield start, records
            start, records, size = start + len(records), [], 0
    if records:
        yield start, records


def _decode_records(
    records: list[Encoded],
    names: Sequence[str],
    start: int,
    preprocessing: Preprocessing,
    into: UInt8[np.ndarray, "n C H W"] | None,
) -> _Chunk:
    shape = (len(records), preprocessing.num_channels, *preprocessing.decode_size)
    pixels = np.empty(shape, dtype=np.uint8) if into is None else into
    kept: list[int] = []
    errors: list[ImageError] = []
    for offset, (record, name) in enumerate(zip(records, names, strict=True)):
        try:
            if isinstance(record, np.ndarray):
                pixels[len(kept)] = fit(Image.fromarray(record), preprocessing)
            else:
                pixels[len(kept)] = load_image(record, preprocessing, name=name)
            kept.append(start + offset)
        except ImageError as error:
            errors.append(error)
    return _Chunk(pixels[: len(kept)], kept, errors)


# ---- the cache file ----------------------------------------------------------------------------------------------


def _cache_key(split: Split, preprocessing: Preprocessing, listing: str) -> str:
    digest = hashlib.sha256()
    settings = to_json(preprocessing)
    relevant = {name: settings[name] for name in DECODING}
    digest.update(json.dumps([_CACHE_VERSION, PIL.__version__, listing, relevant], sort_keys=True).encode())
    for name in split.names:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:32]


def _write_and_map(folder: Path, chunks: Iterator[_Chunk], shape: tuple[int, ...]) -> Decoded:
    """Stream the pixels to the file; index.json is written last and says that it is complete."""
    kept: list[int] = []
    errors: list[ImageError] = []
    digest = hashlib.sha256()
    with fsio.writing(folder / "pixels.bin") as file:
        for chunk in chunks:
            file.write(chunk.pixels.data)
            digest.update(chunk.pixels.data)
            kept += chunk.kept
            errors += chunk.errors
    index = {
        "kept": kept,
        "errors": [{"name": error.name, "reason": error.reason} for error in errors],
        "pixels_sha256": digest.hexdigest(),
    }
    fsio.write_json(folder / "index.json", index)
    mapped = _mapped(folder, shape[0], shape[1:])
    assert mapped is not None, "a cache file that was just written is readable"
    return mapped


def _mapped(folder: Path, num_records: int, image_shape: tuple[int, ...]) -> Decoded | None:
    """The pixels of an earlier run, or None where there are none or they are not whole."""
    path = folder / "pixels.bin"
    try:
        index = read_json_object(folder / "index.json", _MAX_INDEX_BYTES)
        kept = np.array(index["kept"], dtype=np.int64)
        errors = tuple(ImageError(error["reason"], error["name"]) for error in index["errors"])
        shape = (len(kept), *image_shape)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
        is_ascending = bool(np.all(np.diff(kept, prepend=-1, append=num_records) > 0))
        if size != math.prod(shape) or len(kept) + len(errors) != num_records or not is_ascending:
            return None
        # Copy on write: the array counts as writable, which torch asks for, and the file stays as it is. An empty
        # file cannot be mapped.
        pixels = np.memmap(path, dtype=np.uint8, mode="c", shape=shape) if len(kept) else np.empty(shape, np.uint8)
        return Decoded(pixels, kept, errors, str(index["pixels_sha256"]))
    except DAMAGE:
        return None
