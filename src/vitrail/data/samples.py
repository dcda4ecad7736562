"""Some images of a data set as files, with their labels, for whatever decodes them in its own way."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image

from vitrail.config import DataConfig
from vitrail.data.dataset import chosen_splits, labels_in_model
from vitrail.data.order import epoch_order
from vitrail.data.sources import Encoded, Source
from vitrail.reading import read_regular

_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Samples:
    """Encoded images, in the order of the data set.

    Args:
        encoded: the file of each, as it comes; pixels that no file holds are in PNG, which loses nothing.
        labels: in the order of the classes asked for.
        fingerprint: SHA-256 of the files and labels, in hexadecimal.
    """

    encoded: list[bytes]
    labels: Int64[np.ndarray, "N"]
    fingerprint: str


def draw(config: DataConfig, split: str, count: int, classes: Sequence[str], source: Source) -> Samples:
    """Draw images of a split, the same every time. One that cannot be opened is left out.

    Args:
        config: how the data set is split.
        split: train, val, test or all, as for `vitrail.data.load`.
        count: at most so many.
        classes: of the model.
        source: the opened data set.
    Raises:
        DataError: there is no such split, or the data set has a class that the model does not have.
    """
    labels_of = labels_in_model(source, classes)
    examples, _ = chosen_splits(source, config, (split,))[split]
    places = np.sort(epoch_order(0, 0, len(examples))[:count])
    encoded: list[bytes] = []
    labels: list[int] = []
    digest = hashlib.sha256()
    for place, record in zip(places.tolist(), examples.read(places), strict=True):
        try:
            encoded.append(_as_file(record))
        except OSError:
            continue
        labels.append(int(labels_of[examples.labels[place]]))
        digest.update(hashlib.sha256(encoded[-1]).digest() + labels[-1].to_bytes(8, "little"))
    return Samples(encoded, np.array(labels, np.int64), digest.hexdigest())


def _as_file(record: Encoded) -> bytes:
    if isinstance(record, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(record).save(buffer, "PNG")
        return buffer.getvalue()
    return read_regular(record, _MAX_BYTES) if isinstance(record, Path) else record
