"""The examples of one split, ready to be trained on or measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float16, Int64, UInt8

from vitrail.data.on_demand import OnDemand
from vitrail.errors import DataError, ImageError


@dataclass(frozen=True)
class ImageSet:
    """The examples of one split."""

    split: str
    """train, val, test or all."""
    classes: tuple[str, ...]
    """Names of the classes; labels index them."""
    images: UInt8[np.ndarray, "N C H W"] | OnDemand | Float16[np.ndarray, "N views tokens D"]
    """In memory, or mapped from a file; or decoded when they are needed; or what frozen layers made of them."""
    labels: Int64[np.ndarray, "N"]
    ids: Int64[np.ndarray, "N"]
    """Position in the split of the source: the same whatever is held out or skipped."""
    names: Sequence[str]
    """The file of each example, or its place in a shard, as "train-00000-of-00003.parquet:17"."""
    errors: tuple[ImageError, ...]
    """Examples that could not be read; they are not in the other fields."""
    fingerprint: str
    """SHA-256 over classes, names, labels and pixels, in hexadecimal."""
    notes: tuple[str, ...] = ()
    """What of the data set is left out or read in another way than a glance tells, a line each."""

    chunk_starts: Int64[np.ndarray, "C1"] | None = None
    """As of a `Split`."""
    follow: Callable[..., None] | None = None
    """As of a `Split`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixels(self) -> UInt8[np.ndarray, "N C H W"]:
        """The decoded images. Raises DataError where they are decoded when they are needed."""
        if isinstance(self.images, OnDemand):
            raise DataError(
                f"The images of {self.split} are not kept: they are decoded each time they are needed.",
                do="Walk over them with vitrail.data.batches, or use data.store=memory.",
            )
        return self.images

    def take(self, positions: Int64[np.ndarray, "M"]) -> "ImageSet":
        """The examples at some ascending positions."""
        return replace(
            self,
            images=self.images.take(positions) if isinstance(self.images, OnDemand) else self.images[positions],
            labels=self.labels[positions],
            ids=self.ids[positions],
            names=[self.names[int(i)] for i in positions],
            chunk_starts=None,
            follow=None,
        )

    def without(self, unreadable: Mapping[int, ImageError]) -> "ImageSet":
        """The other examples, where some could not be read, by their places; these are in `errors` then."""
        if not unreadable:
            return self
        read = np.setdiff1d(np.arange(len(self)), list(unreadable))
        return replace(self.take(read), errors=(*self.errors, *(unreadable[at] for at in sorted(unreadable))))
