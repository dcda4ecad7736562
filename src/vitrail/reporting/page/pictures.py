"""Small pictures of the images that a report shows, re-encoded, so that nothing of a file but its pixels is kept."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from vitrail.data.decode import thumbnail
from vitrail.data.sources import Encoded, Split
from vitrail.errors import ImageError
from vitrail.reporting.images import Images
from vitrail.reporting.measured import Measured
from vitrail.reporting.page.figures import linked
from vitrail.run.predictions import Predictions

SIDE, MOST = 128, 300
"""Longest side in pixels, and how many pictures a page has at most."""
MOST_BYTES = 5 << 20
"""Of all pictures together, as text."""
_TINY = 64
"""Up to this side every pixel is kept and drawn as a square."""
_SAMPLES, _QUALITY = 60, 80


@dataclass(frozen=True)
class Picture:
    """A picture as the page holds it.

    Args:
        uri: data:image/..., of our own making.
        width, height: in which it is shown, in pixels.
        is_tiny: its pixels are to be seen as squares.
    """

    uri: Markup
    width: int
    height: int
    is_tiny: bool


@dataclass(frozen=True)
class Pictures:
    """Those of one page.

    Args:
        by_id: of the measured split.
        samples: some of each class, by its number; of the training images where there are any.
        left_out: how many would have been shown, but for the limits or because they cannot be read.
    """

    by_id: dict[int, Picture]
    samples: tuple[tuple[int, Picture], ...]
    left_out: int


def pictures(images: Images | str, measured: Measured | None, found: Predictions | None) -> Pictures:
    """Decode what the page shows: mistakes, examples of pairs, some of each class."""
    if isinstance(images, str) or measured is None or found is None:
        return Pictures({}, (), 0)
    wanted = [mistake.id for mistake in measured.mistakes]
    wanted += [number for pair in linked(measured) for number in pair.examples]
    ids = list(dict.fromkeys(wanted))[:MOST]
    budget = _Budget()
    by_id = {number: made for number, record in images.records(ids) if (made := budget.picture(record))}
    source = images.source
    split = source.splits.get("train", images.split)
    places = _sample_places(split, source.classes, found.classes)[: MOST - len(by_id)]
    order = np.array(sorted(place for _, place in places), dtype=np.int64)
    of_place = dict(zip(order.tolist(), map(budget.picture, split.read(order)), strict=True))
    samples = tuple((number, made) for number, place in places if (made := of_place[place]))
    return Pictures(by_id, samples, len(set(wanted)) - len(by_id))


def pictures_of(images: Images | str, ids: Sequence[int]) -> dict[int, Picture]:
    """Small pictures of some images, as far as there is room and they can be read."""
    if isinstance(images, str):
        return {}
    budget = _Budget()
    return {number: made for number, record in images.records(ids[:MOST]) if (made := budget.picture(record))}


def _sample_places(split: Split, classes: Sequence[str], shown: Sequence[str]) -> list[tuple[int, int]]:
    """The number of a class, and where an image of it is: several a class where there are few classes."""
    number_of = {name: number for number, name in enumerate(shown)}
    each = max(1, min(4, _SAMPLES // max(1, len(shown))))
    found: list[tuple[int, int]] = []
    for label, name in enumerate(classes):
        if name in number_of and len(found) < _SAMPLES:
            found += [(number_of[name], place) for place in np.flatnonzero(split.labels == label)[:each].tolist()]
    return sorted(found)[:_SAMPLES]


class _Budget:
    """Makes pictures as long as there is room."""

    def __init__(self) -> None:
        self.left = MOST_BYTES

    def picture(self, record: Encoded) -> Picture | None:
        """A small picture of a record; None where it cannot be read, or there is no room."""
        try:
            pixels = _small(record) if isinstance(record, np.ndarray) else thumbnail(record, SIDE)
        except ImageError:
            return None
        made = _encoded(pixels)
        if len(made.uri) > self.left:
            return None
        self.left -= len(made.uri)
        return made


def _small(pixels: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Decoded pixels, [H, W] or [H, W, 3], at most SIDE wide and high."""
    if max(pixels.shape[:2]) <= SIDE:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)


def _encoded(pixels: UInt8[np.ndarray, "..."]) -> Picture:
    height, width = pixels.shape[:2]
    is_tiny = max(height, width) <= _TINY
    file, image = io.BytesIO(), Image.fromarray(np.ascontiguousarray(pixels))
    if is_tiny:
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "WEBP", quality=_QUALITY, method=4)
    kind = "png" if is_tiny else "webp"
    uri = Markup("data:image/{};base64,{}").format(kind, base64.b64encode(file.getvalue()).decode("ascii"))
    scale = max(1, 96 // max(height, width)) if is_tiny else 1
    return Picture(uri, width * scale, height * scale, is_tiny)
