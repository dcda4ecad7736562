"""Examples -> batches of tensors on the device, in a given order."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float16, Int64, UInt8
from torch import Tensor

from vitrail.data.crops import Crop
from vitrail.data.image_set import ImageSet
from vitrail.data.on_demand import OnDemand, Wanted
from vitrail.errors import ImageError

T = TypeVar("T")
R = TypeVar("R")
Positions = Int64[np.ndarray, "M"]

UNREADABLE = -1
"""Label of an image that could not be read: black, and to be given no weight."""


@dataclass(frozen=True)
class Batch:
    """Some examples on the device.

    Args:
        labels: UNREADABLE where an image could not be read.
        errors: why, by place in the batch.
    """

    images: UInt8[Tensor, "B C h w"] | Float16[Tensor, "B views N D"]
    labels: Int64[Tensor, " B"]
    ids: Int64[Tensor, " B"]
    errors: Mapping[int, ImageError] = field(default_factory=dict[int, ImageError])


@runtime_checkable
class Order(Protocol):
    """The order of the examples in one epoch where it is not kept as an array."""

    def __len__(self) -> int: ...

    def batch(self, number: int, batch_size: int) -> Positions:
        """Positions of the examples of a batch, counted from 0."""
        ...


def batches(
    image_set: ImageSet,
    order: Int64[np.ndarray, "M"] | Order | None,
    batch_size: int,
    *,
    device: torch.device,
    start: int = 0,
    pick: Callable[[int, Positions], Positions] | None = None,
    crops: Callable[[int, int, Positions], Sequence[Crop]] | None = None,
) -> Iterator[Batch]:
    """Cut an order of examples into batches; batch k holds order[k * batch_size : (k + 1) * batch_size].

    The last batch may be smaller. On a GPU the next batch is gathered into pinned memory and copied by a thread
    while the present one is used. Images that are decoded when they are needed are decoded some batches ahead.

    Args:
        image_set: the examples.
        order: positions in `image_set`, as `epoch_order` gives them; None: one after the other.
        batch_size: examples in a batch.
        device: where the tensors go.
        start: number of the first batch, to go on in the middle of an epoch.
        pick: what this process needs of a batch, from its number and positions; None: all of it.
        crops: which part of each image is decoded, from the batch's number, its size over all processes, and the ids
            that were picked; None: the image as evaluation sees it. Not for images that are kept.
    """
    order = np.arange(len(image_set)) if order is None else order
    numbers = range(start, math.ceil(len(order) / batch_size))

    def chunk(number: int) -> tuple[Positions, int]:
        """Positions that this process needs, and how many the batch has."""
        at = number * batch_size
        positions = order[at : at + batch_size] if isinstance(order, np.ndarray) else order.batch(number, batch_size)
        return pick(number, positions) if pick else positions, len(positions)

    def to_device(*arrays: np.ndarray, errors: Mapping[int, ImageError] | None = None) -> Batch:
        parts = [torch.from_numpy(array) for array in arrays]
        if device.type == "cuda":
            parts = [part.pin_memory() for part in parts]
        return Batch(*(part.to(device, non_blocking=device.type == "cuda") for part in parts), errors=errors or {})

    def wanted(number: int) -> Wanted:
        positions, size = chunk(number)
        return Wanted(positions, crops(number, size, image_set.ids[positions]) if crops else None)

    images = image_set.images
    if isinstance(images, OnDemand):
        for decoded in images.batches(map(wanted, numbers)):
            labels = image_set.labels[decoded.positions]
            labels[list(decoded.errors)] = UNREADABLE
            yield to_device(decoded.pixels, labels, image_set.ids[decoded.positions], errors=decoded.errors)
        return

    def gather(number: int) -> Batch:
        # NumPy's gather is a plain copy. Torch's splits these few hundred kB over all threads, which is many times
        # slower as soon as the cores have anything else to do.
        positions, _ = chunk(number)
        return to_device(*(np.take(array, positions, axis=0) for array in (images, image_set.labels, image_set.ids)))

    yield from one_ahead(gather, numbers) if device.type == "cuda" else map(gather, numbers)


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
