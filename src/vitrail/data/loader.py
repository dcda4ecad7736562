"""Decoded examples -> batches of tensors on the device, in a given order."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from vitrail.data.dataset import ImageSet

T = TypeVar("T")
R = TypeVar("R")
Positions = Int64[np.ndarray, "M"]


@dataclass(frozen=True)
class Batch:
    """Some examples on the device."""

    images: UInt8[Tensor, "B C h w"]
    labels: Int64[Tensor, " B"]
    ids: Int64[Tensor, " B"]


def batches(
    image_set: ImageSet,
    order: Int64[np.ndarray, "M"] | None,
    batch_size: int,
    *,
    device: torch.device,
    start: int = 0,
    pick: Callable[[int, Positions], Positions] | None = None,
) -> Iterator[Batch]:
    """Cut an order of examples into batches; batch k holds order[k * batch_size : (k + 1) * batch_size].

    The last batch may be smaller. On a GPU the next batch is gathered into pinned memory and copied by a thread
    while the present one is used.

    Args:
        image_set: the examples.
        order: positions in `image_set`, as `epoch_order` gives them; None: one after the other.
        batch_size: examples in a batch.
        device: where the tensors go.
        start: number of the first batch, to go on in the middle of an epoch.
        pick: what this process needs of a batch, from its number and positions; None: all of it.
    """
    positions = np.arange(len(image_set)) if order is None else order
    chunks = [positions[at : at + batch_size] for at in range(start * batch_size, len(positions), batch_size)]
    if pick:
        chunks = [pick(start + number, chunk) for number, chunk in enumerate(chunks)]

    def gather(chunk: Int64[np.ndarray, " B"]) -> Batch:
        # NumPy's gather is a plain copy. Torch's splits these few hundred kB over all threads, which is many times
        # slower as soon as the cores have anything else to do.
        arrays = (image_set.images, image_set.labels, image_set.ids)
        parts = [torch.from_numpy(np.take(array, chunk, axis=0)) for array in arrays]
        if device.type == "cuda":
            parts = [part.pin_memory() for part in parts]
        return Batch(*(part.to(device, non_blocking=device.type == "cuda") for part in parts))

    yield from one_ahead(gather, chunks) if device.type == "cuda" else map(gather, chunks)


class Timed(Iterator[T]):
    """An iterator that counts the seconds that its user waited for it.

    Args:
        items: what is iterated over.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items, self._start = iter(items), time.perf_counter()
        self.waited_s = 0.0

    def __next__(self) -> T:
        asked = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.waited_s += time.perf_counter() - asked

    @property
    def waited(self) -> float:
        """The share of the time since the start that went into waiting, in [0, 1]."""
        return self.waited_s / max(time.perf_counter() - self._start, 1e-9)


def one_ahead(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Like `map`, with a thread that works on the next item while the present result is used."""
    with ThreadPoolExecutor(1) as thread:
        pending = [thread.submit(function, item) for item in items[:1]]
        for item in items[1:]:
            result = pending.pop().result()
            pending.append(thread.submit(function, item))
            yield result
        for future in pending:
            yield future.result()
