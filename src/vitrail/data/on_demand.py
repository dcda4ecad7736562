"""Images that are decoded each time they are needed, ahead of whoever needs them: nothing of them is kept.

In: the records of a split. Out: batches of uint8 pixels in the order asked for. An image that cannot be read keeps its
place in its batch, black, and is named; whoever takes the batch gives it no weight.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from vitrail.config import Preprocessing
from vitrail.data.crops import Crop, load_crop
from vitrail.data.decode import load_image
from vitrail.data.fit import fit
from vitrail.data.sources import Encoded, Split, take_rows
from vitrail.data.store import num_threads
from vitrail.errors import ImageError

Positions = Int64[np.ndarray, "B"]
_MOST_AHEAD = 8
"""Batches that are decoded before they are asked for, where they are small."""
_TASK_RECORDS = 8


@dataclass(frozen=True)
class Wanted:
    """One batch.

    Args:
        positions: of its images in the split, in any order.
        crops: the part to take of each; None: the image as evaluation sees it.
    """

    positions: Positions
    crops: Sequence[Crop] | None = None


@dataclass(frozen=True)
class DecodedBatch:
    """Pixels [B, C, h, w] of the images at some positions, and by place in the batch why one could not be read."""

    positions: Positions
    pixels: UInt8[np.ndarray, "B C h w"]
    errors: dict[int, ImageError]


class OnDemand:
    """The images of a split, decoded for each use.

    Args:
        split: their records; `read` is called by one thread at a time.
        preprocessing: decides size and channels: decode_size, or image_size where crops are asked for.
        ahead_bytes: pixels that may wait, decoded, for whoever takes the batches; at least one batch does.
    """

    def __init__(self, split: Split, preprocessing: Preprocessing, *, ahead_bytes: int) -> None:
        self.split, self.preprocessing, self.ahead_bytes = split, preprocessing, ahead_bytes

    def __len__(self) -> int:
        return len(self.split)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, C, h, w, without crops."""
        return (len(self.split), self.preprocessing.num_channels, *self.preprocessing.decode_size)

    def take(self, positions: Positions) -> "OnDemand":
        """The images at some ascending positions."""
        return OnDemand(take_rows(self.split, positions), self.preprocessing, ahead_bytes=self.ahead_bytes)

    def batches(self, wanted: Iterable[Wanted]) -> Iterator[DecodedBatch]:
        """Decode batches in threads, one a core, some ahead of the one that is asked for.

        Raises:
            DataError: a source failed that records come from.
        """
        workers = ThreadPoolExecutor(num_threads(), thread_name_prefix="decode")
        reader = ThreadPoolExecutor(1, thread_name_prefix="read")
        waiting: deque[tuple[Future[_Begun], int]] = deque()
        held = 0
        try:
            for batch in wanted:
                size = self._num_bytes(batch)
                waiting.append((reader.submit(self._begin, batch, workers), size))
                held += size
                while waiting and (len(waiting) > _MOST_AHEAD or (held > self.ahead_bytes and len(waiting) > 1)):
                    begun, done = waiting.popleft()
                    held -= done
                    yield begun.result().finished()
            while waiting:
                yield waiting.popleft()[0].result().finished()
        finally:
            # Nobody waits for what is under way when the rest is not wanted: a server may be slow, or gone.
            reader.shutdown(wait=False, cancel_futures=True)
            workers.shutdown(wait=False, cancel_futures=True)

    def _num_bytes(self, batch: Wanted) -> int:
        height, width = self._size(batch)
        return len(batch.positions) * self.preprocessing.num_channels * height * width

    def _size(self, batch: Wanted) -> tuple[int, int]:
        return self.preprocessing.decode_size if batch.crops is None else self.preprocessing.image_size

    def _begin(self, batch: Wanted, workers: ThreadPoolExecutor) -> "_Begun":
        """Read the records, which come in ascending order, and hand them to the decoders."""
        pixels = np.empty((len(batch.positions), self.preprocessing.num_channels, *self._size(batch)), np.uint8)
        places, inverse = np.unique(batch.positions, return_inverse=True)
        uses: list[list[int]] = [[] for _ in places]
        for place, at in enumerate(inverse.tolist()):
            uses[at].append(place)
        tasks: list[Future[dict[int, ImageError]]] = []
        records: list[tuple[Encoded, list[int], int]] = []
        for record, where, position in zip(self.split.read(places), uses, places.tolist(), strict=True):
            records.append((record, where, position))
            if len(records) == _TASK_RECORDS:
                tasks.append(workers.submit(self._decode, records, batch.crops, pixels))
                records = []
        if records:
            tasks.append(workers.submit(self._decode, records, batch.crops, pixels))
        return _Begun(batch.positions, pixels, tasks)

    def _decode(
        self,
        records: list[tuple[Encoded, list[int], int]],
        crops: Sequence[Crop] | None,
        into: UInt8[np.ndarray, "B C h w"],
    ) -> dict[int, ImageError]:
        errors: dict[int, ImageError] = {}
        for record, places, position in records:
            name = self.split.names[position]
            for place in places:
                try:
                    if crops is not None:
                        into[place] = load_crop(record, crops[place], self.preprocessing, name=name)
                    elif isinstance(record, np.ndarray):
                        into[place] = fit(Image.fromarray(record), self.preprocessing)
                    else:
                        into[place] = load_image(record, self.preprocessing, name=name)
                except ImageError as error:
                    into[place], errors[place] = 0, error
        return errors


@dataclass(frozen=True)
class _Begun:
    """A batch that is being decoded."""

    positions: Positions
    pixels: UInt8[np.ndarray, "B C h w"]
    tasks: list[Future[dict[int, ImageError]]]

    def finished(self) -> DecodedBatch:
        errors = {place: error for task in self.tasks for place, error in task.result().items()}
        return DecodedBatch(self.positions, self.pixels, errors)
