"""The model's thread: it takes what is queued the moment it is free, and never waits for a batch to fill.

The event loop puts pixels into the queue; one thread takes as many whole requests as fit into a batch and computes
them. The engine releases Python's lock while it computes, so the loop goes on. Whoever has left, or whose time is up,
is taken out of the queue before anything was computed for it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import UInt8

T = TypeVar("T")
_SMOOTHING = 0.2
_MEASURING_SECONDS = 1.0
_LARGEST_BATCH = 32
_LEAST_GAIN = 1.05
"""A batch twice as large has to be so much faster an image, else the smaller one is kept."""
_CALL_SECONDS = 0.0003
"""That a batch costs around the engine: it is handed to the thread and back."""


class Expired(Exception):
    """The deadline passed in the queue."""


@dataclass(eq=False)
class _Entry(Generic[T]):
    """A request in the queue."""

    pixels: UInt8[np.ndarray, "b C h w"]
    deadline: float
    answer: asyncio.Future[T]
    started: float = 0.0


class Batcher(Generic[T]):
    """A queue before a model, and the thread that empties it.

    Args:
        compute: the model, pixels [B, C, h, w] to outputs.
        split: (outputs, start, stop) -> the outputs of some images of a batch.
        max_batch: images computed together; a request of more images is computed alone.
        wait: seconds to wait for more images than are there.
        seconds_an_image: as measured; a mean of what is seen from then on.
        on_batch: told how many images were computed together.
    """

    def __init__(
        self,
        compute: Callable[[np.ndarray], T],
        split: Callable[[T, int, int], T],
        *,
        max_batch: int,
        wait: float = 0.0,
        seconds_an_image: float = 0.0,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.max_batch, self.wait, self.seconds_an_image = max_batch, wait, seconds_an_image
        self.queued_images = self.running_images = 0
        self.running_since: float | None = None
        self._compute, self._split, self._on_batch = compute, split, on_batch
        self._queue: deque[_Entry[T]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def estimated_wait(self) -> float:
        """Seconds until an image that came now would be computed."""
        return (self.queued_images + self.running_images) * self.seconds_an_image

    async def __call__(self, pixels: UInt8[np.ndarray, "b C h w"], deadline: float) -> tuple[T, float]:
        """The outputs for some images, and the seconds that they waited.

        Args:
            deadline: of `time.monotonic`.
        Raises:
            Expired: it passed before the computation began.
        """
        entry = _Entry(pixels, deadline, self._loop.create_future())
        queued = time.monotonic()
        with self._changed:
            self._queue.append(entry)
            self.queued_images += len(pixels)
            self._changed.notify()
        timer = self._loop.call_at(self._loop.time() + max(0.0, deadline - queued), self._expire, entry)
        try:
            return await entry.answer, entry.started - queued
        finally:
            timer.cancel()
            if not entry.started:
                self._forget(entry)

    def close(self) -> None:
        """Let the thread end after the batch that it computes."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _expire(self, entry: _Entry[T]) -> None:
        if not entry.started and not entry.answer.done():
            entry.answer.set_exception(Expired())

    def _forget(self, entry: _Entry[T]) -> None:
        with self._changed:
            if not entry.started and entry in self._queue:
                self._queue.remove(entry)
                self.queued_images -= len(entry.pixels)

    def _work(self) -> None:
        while batch := self._next():
            count = sum(len(entry.pixels) for entry in batch)
            self.running_images, self.running_since = count, batch[0].started
            try:
                pixels = batch[0].pixels if len(batch) == 1 else np.concatenate([entry.pixels for entry in batch])
                outputs: T | None = self._compute(pixels)
                error: Exception | None = None
            except Exception as caught:  # becomes the answer of each request
                outputs, error = None, caught
            taken = (time.monotonic() - batch[0].started) / count
            self.seconds_an_image += _SMOOTHING * (taken - self.seconds_an_image)
            self.running_images, self.running_since = 0, None
            try:
                self._loop.call_soon_threadsafe(self._deliver, batch, outputs, error)
            except RuntimeError:  # the loop is closed
                return

    def _next(self) -> list[_Entry[T]]:
        """The next batch, when there is one; empty: closed."""
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                if self.wait and self._queue and self.queued_images < self.max_batch:
                    self._changed.wait_for(lambda: self.queued_images >= self.max_batch or self._is_closed, self.wait)
                batch = list(self._taken())
                if batch:
                    now = time.monotonic()
                    for entry in batch:
                        entry.started = now
                    return batch
                self._changed.wait()
        return []

    def _taken(self) -> Iterator[_Entry[T]]:
        """Whole requests from the front of the queue, those that still want an answer."""
        count, now = 0, time.monotonic()
        while self._queue:
            entry = self._queue[0]
            wanted = not entry.answer.done() and entry.deadline > now
            if wanted and count and count + len(entry.pixels) > self.max_batch:
                return
            self._queue.popleft()
            self.queued_images -= len(entry.pixels)
            if wanted:
                count += len(entry.pixels)
                yield entry

    def _deliver(self, batch: list[_Entry[T]], outputs: T | None, error: Exception | None) -> None:
        self._on_batch(sum(len(entry.pixels) for entry in batch))
        start = 0
        for entry in batch:
            stop = start + len(entry.pixels)
            if not entry.answer.done():
                if outputs is None:
                    entry.answer.set_exception(error or RuntimeError("no outputs"))
                else:
                    entry.answer.set_result(self._split(outputs, start, stop))
            start = stop


def measured_batch(
    compute: Callable[[np.ndarray], object], shape: tuple[int, int, int], most: int = _LARGEST_BATCH
) -> tuple[int, float]:
    """How many images to compute together, found by doubling, and the seconds that one of them then takes.

    Args:
        shape: of an image, [C, h, w].
        most: the largest number that is tried.
    """
    begun = time.monotonic()
    best, best_seconds = 1, _timed(compute, shape, 1)
    size = 2
    while size <= most and time.monotonic() - begun + 2 * size * best_seconds < _MEASURING_SECONDS:
        seconds = _timed(compute, shape, size)
        if seconds * _LEAST_GAIN < best_seconds:
            best, best_seconds = size, seconds
        elif size >= 4 * best:
            break
        size *= 2
    return best, best_seconds


def _timed(compute: Callable[[np.ndarray], object], shape: tuple[int, int, int], size: int) -> float:
    """Seconds an image, the better of two runs; the first image of all warms up and is not counted."""
    pixels = np.zeros((size, *shape), np.uint8)
    seconds: list[float] = []
    for _ in range(3 if size == 1 else 2):
        begun = time.monotonic()
        compute(pixels)
        seconds.append((time.monotonic() - begun) / size)
    return min(seconds[1:] if size == 1 else seconds) + _CALL_SECONDS / size
