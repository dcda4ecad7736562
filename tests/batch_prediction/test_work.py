"""What runs ahead of the model is bounded in images and in bytes, and keeps its order."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vitrail
from vitrail.batch_prediction import work
from vitrail.batch_prediction.units import Record
from vitrail.errors import DataError, ImageError
from vitrail.predictor.batch import BatchPredictor, Pixels, _Ready  # pyright: ignore[reportPrivateUsage]
from vitrail.predictor.image_like import ImageLike

SIZE = 16


class Numbered(BatchPredictor):
    """Decodes the bytes b"7" to pixels of 7, when it may."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), threads=3)
        self.may_decode = threading.Event()
        preprocessing = vitrail.Preprocessing(image_size=(1, 1), decode_size=(1, 1))
        self.__dict__["loaded"] = _Ready(preprocessing, False, lambda pixels: {"sum": pixels}, SIZE, {})

    def decode(self, image: ImageLike) -> Pixels | ImageError:
        assert isinstance(image, bytes)
        self.may_decode.wait(60)
        return np.full((3, 1, 1), int(image.rstrip(b"\0")) % 256, np.uint8)


def counted(total: int, taken: list[int], num_bytes: int = 3) -> Iterator[Record]:
    for number in range(total):
        taken.append(number)
        yield Record(str(number), number, str(number).encode().ljust(num_bytes, b"\0"))


def settled(taken: list[int]) -> int:
    """How many were taken when no more are."""
    before = -1
    while before != len(taken):
        before = len(taken)
        time.sleep(0.2)
    return before


def test_two_batches_are_read_ahead_in_order() -> None:
    predictor, taken = Numbered(), list[int]()
    predictor.may_decode.set()
    with work._Pipeline(predictor) as pipeline:
        batches = pipeline.batches(counted(100, taken))
        rows, pixels = next(batches)
        assert settled(taken) == SIZE * (1 + work._AHEAD)
        found = [(row.row, int(np.asarray(one)[0, 0, 0])) for row, one in zip(rows, pixels, strict=True)]
        for rows, pixels in batches:
            found += [(row.row, int(np.asarray(one)[0, 0, 0])) for row, one in zip(rows, pixels, strict=True)]
    assert found == [(number, number) for number in range(100)]


def test_bytes_that_wait_for_a_decoder_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_MOST_BYTES", 1000)
    predictor, taken = Numbered(), list[int]()
    with work._Pipeline(predictor) as pipeline:
        reading = pipeline._reader.submit(pipeline._take, counted(SIZE, taken, num_bytes=400))
        # Three of 400 bytes are more than a thousand; the fourth is in the reader's hand.
        assert settled(taken) == 4
        predictor.may_decode.set()
        assert len(reading.result(60)) == SIZE


def test_what_reading_raises_comes_to_the_caller() -> None:
    predictor = Numbered()
    predictor.may_decode.set()

    def broken() -> Iterator[Record]:
        yield from counted(SIZE + 3, [])
        raise DataError("damaged")

    with work._Pipeline(predictor) as pipeline:
        batches = pipeline.batches(broken())
        assert len(next(batches)[0]) == SIZE
        with pytest.raises(DataError, match="damaged"):
            next(batches)
