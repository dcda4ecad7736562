"""Decode every record once, in parallel, and keep the pixels: uint8 [N, C, H, W] in memory or in a mapped file.

In: the records of a split. Out: pixels of those that could be read, which ones they are, and an ImageError for each
other one. What does not fit the budget goes to a file of the user's cache folder (decoded_cache.py).
"""

import contextlib
import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from vitrail.config import Preprocessing
from vitrail.data.crops import load_whole
from vitrail.data.decode import image_header, load_image
from vitrail.data.decoded_cache import CachedPixels, Chunk, Decoded, WholeImages
from vitrail.data.fit import fit
from vitrail.data.sources import Encoded, Packed, Split, check_whole
from vitrail.errors import ImageError
from vitrail.progress import Bar

T = TypeVar("T")

# One task of a thread: enough small images to hide its cost, few large ones, so that all threads end at once.
_TASK_RECORDS = (8, 64)
_TASK_BYTES = 1 << 20
_MAX_THREADS = 32
# Bytes of encoded images that one task has, and that wait for all threads: what a table holds may be large.
_RECORDS_BYTES, _WAITING_BYTES = 8 << 20, 48 << 20
_UNLIMITED = 1 << 62
_SAMPLED = 64
"""Images whose headers tell how large all of them are."""


def decode_split(
    split: Split,
    preprocessing: Preprocessing,
    *,
    listing: str,
    ram_budget_bytes: int,
    progress: bool,
    title: str,
    cache_bytes: int = _UNLIMITED,
) -> Decoded:
    """Decode a whole split.

    Args:
        split: the records.
        preprocessing: decides size and channels.
        listing: hash of the source files, for finding the cache file again.
        ram_budget_bytes: pixels that take more than this go to a mapped file.
        progress: show a bar on stderr.
        title: of the bar.
        cache_bytes: what all mapped files together may take.
    Raises:
        SaveError: the cache file cannot be written, or there is no room for it.
    """
    shape = (len(split), preprocessing.num_channels, *preprocessing.decode_size)
    if split.packed and (len(split.packed.rows) == len(split.packed.pixels) or math.prod(shape) <= ram_budget_bytes):
        return _unpacked(split.packed)
    bar_title = title if progress else None
    if math.prod(shape) <= ram_budget_bytes:
        pixels = np.empty(shape, dtype=np.uint8)
        return _in_memory(pixels, _decoded_chunks(split, preprocessing, bar_title, into=pixels))
    cached = CachedPixels(split, preprocessing, listing)
    found = cached.find()
    if found is None:
        cached.make_room(math.prod(shape), cache_bytes)
        cached.write(_decoded_chunks(split, preprocessing, bar_title))
        found = cached.find()
        assert found is not None, "a cache file that was just written is readable"
    return found


def decode_whole(
    split: Split,
    preprocessing: Preprocessing,
    *,
    listing: str,
    in_memory: bool,
    progress: bool,
    title: str,
    cache_bytes: int = _UNLIMITED,
) -> WholeImages:
    """Decode a whole split to images of their own sizes, of which random crops can be cut.

    Args:
        in_memory: False: to a mapped file.
    Raises:
        SaveError: as `decode_split`.
    """
    most = whole_side(preprocessing)
    chunks = _whole_chunks(split, preprocessing, most, title if progress else None)
    if in_memory:
        parts = list(chunks)
        pixels = np.concatenate([np.zeros(0, np.uint8), *(part.pixels for part in parts)])
        shapes = np.array([shape for part in parts for shape in part.shapes], np.int64).reshape(-1, 2)
        kept = np.array([position for part in parts for position in part.kept], np.int64)
        errors = tuple(error for part in parts for error in part.errors)
        return WholeImages(pixels, shapes, kept, errors, hashlib.sha256(pixels.data).hexdigest())
    cached = CachedPixels(split, preprocessing, listing, f"whole-{most}-")
    found = cached.find_whole()
    if found is None:
        cached.make_room(whole_bytes(split, preprocessing), cache_bytes)
        cached.write(chunks)
        found = cached.find_whole()
        assert found is not None, "a cache file that was just written is readable"
    return found


def whole_split(split: Split, whole: WholeImages) -> Split:
    """The readable examples of a split, their records the decoded images [h, w, 3] or [h, w]."""
    num_channels = len(whole.pixels) // max(1, int(whole.shapes.prod(1).sum()))
    starts = np.concatenate(([0], np.cumsum(whole.shapes.prod(1) * num_channels)))

    def read(positions: Int64[np.ndarray, "M"]) -> Iterator[Encoded]:
        for at in positions.tolist():
            shape = (*whole.shapes[at].tolist(), *((num_channels,) if num_channels > 1 else ()))
            yield whole.pixels[starts[at] : starts[at + 1]].reshape(shape)

    return Split(split.labels[whole.kept], [split.names[int(i)] for i in whole.kept], read)


def whole_side(preprocessing: Preprocessing) -> int:
    """The shorter side in pixels above which images that are kept whole are made smaller: twice that of the input."""
    return 2 * max(preprocessing.image_size)


def fitted_bytes(split: Split, preprocessing: Preprocessing) -> int:
    """Bytes of the images at the size of the input."""
    return len(split) * preprocessing.num_channels * math.prod(preprocessing.decode_size)


def whole_bytes(split: Split, preprocessing: Preprocessing) -> int:
    """About how many bytes the images take, whole: from the headers of some of them."""
    most, total, seen = whole_side(preprocessing), 0.0, 0
    for width, height in sizes_of(split):
        scale = min(1.0, most / min(width, height))
        total, seen = total + width * height * scale**2, seen + 1
    return round(total / max(1, seen) * len(split)) * preprocessing.num_channels


def sizes_of(split: Split, most: int = _SAMPLED) -> list[tuple[int, int]]:
    """Width and height, as they are stored, of some readable images spread evenly over a split."""
    sizes: list[tuple[int, int]] = []
    places = np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).astype(np.int64))
    for record in split.read(places):
        with contextlib.suppress(ImageError):
            if isinstance(record, np.ndarray):
                sizes.append((record.shape[1], record.shape[0]))
            else:
                header = image_header(record)
                sizes.append((header.width, header.height))
    return sizes


def _in_memory(pixels: UInt8[np.ndarray, "N C H W"], chunks: Iterator[Chunk]) -> Decoded:
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


def _decoded_chunks(
    split: Split,
    preprocessing: Preprocessing,
    title: str | None,
    into: UInt8[np.ndarray, "N C H W"] | None = None,
) -> Iterator[Chunk]:
    """Decode in order, in threads, a bounded number of records waiting, each `into` its row where that is given.

    Pillow decodes and resizes without the interpreter lock, so photographs use all cores. Of tiny images one core
    does more than 10,000 a second; worker processes would not have started before CIFAR is done.
    """
    bar = Bar(len(split), title=title or "", enabled=title is not None)

    def tasks() -> Iterator[tuple[Callable[[], Chunk], int]]:
        for start, records in _tasks(split, preprocessing):
            rows = slice(start, start + len(records))
            names, place = split.names[rows], None if into is None else into[rows]
            yield partial(_decode_records, records, names, start, preprocessing, place), sum(map(num_bytes, records))

    with bar:
        for chunk in in_threads(tasks()):
            bar.advance(len(chunk.kept) + len(chunk.errors))
            yield chunk


def _whole_chunks(split: Split, preprocessing: Preprocessing, most: int, title: str | None) -> Iterator[Chunk]:
    """Images of their own sizes, in order."""
    bar = Bar(len(split), title=title or "", enabled=title is not None)

    def decode(records: list[Encoded], names: Sequence[str], start: int) -> Chunk:
        images: list[np.ndarray] = []
        kept: list[int] = []
        errors: list[ImageError] = []
        for offset, (record, name) in enumerate(zip(records, names, strict=True)):
            try:
                images.append(load_whole(record, preprocessing, most, name=name))
                kept.append(start + offset)
            except ImageError as error:
                errors.append(error)
        pixels = np.concatenate([np.zeros(0, np.uint8), *(image.reshape(-1) for image in images)])
        return Chunk(pixels, kept, errors, [(image.shape[0], image.shape[1]) for image in images])

    def tasks() -> Iterator[tuple[Callable[[], Chunk], int]]:
        for start, records in _tasks(split, preprocessing):
            names = split.names[start : start + len(records)]
            yield partial(decode, records, names, start), sum(map(num_bytes, records))

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
) -> Chunk:
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
    return Chunk(pixels[: len(kept)], kept, errors)
