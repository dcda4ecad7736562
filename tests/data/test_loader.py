"""Batches: the right examples, in the right order, from the right place on."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrail.data import Batch, ImageSet, Timed, batches, epoch_order
from vitrail.data.loader import one_ahead

CPU = torch.device("cpu")


def image_set(number: int, side: int = 4, images: np.ndarray | None = None) -> ImageSet:
    """Examples whose first pixel is their position; ids are not positions."""
    if images is None:
        images = np.zeros((number, 3, side, side), dtype=np.uint8)
        images[:, 0, 0, 0] = np.arange(number) % 256
    labels, ids = np.arange(number) % 7, np.arange(number) * 3 + 1
    return ImageSet("train", tuple("abcdefg"), images, labels, ids, [str(i) for i in range(number)], (), "")


def walk(
    examples: ImageSet, order: np.ndarray | None, size: int, start: int = 0, device: torch.device = CPU
) -> list[Batch]:
    return list(batches(examples, order, size, device=device, start=start))


@pytest.mark.parametrize("size", [1, 3, 10, 25, 40])
def test_batches_cut_the_order(size: int) -> None:
    examples, order = image_set(25), epoch_order(1, 2, 25)
    result = walk(examples, order, size)
    assert [len(batch.labels) for batch in result] == [len(order[at : at + size]) for at in range(0, 25, size)]
    np.testing.assert_array_equal(torch.cat([batch.images for batch in result])[:, 0, 0, 0], order)
    np.testing.assert_array_equal(torch.cat([batch.ids for batch in result]), order * 3 + 1)
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in result]), order % 7)
    assert result[0].images.dtype == torch.uint8
    assert result[0].labels.dtype == result[0].ids.dtype == torch.int64


def test_without_an_order_examples_come_one_after_the_other() -> None:
    ids = torch.cat([batch.ids for batch in walk(image_set(9), None, 4)])
    np.testing.assert_array_equal(ids, np.arange(9) * 3 + 1)


@pytest.mark.parametrize("start", range(6))
def test_start_goes_on_where_the_whole_epoch_would_be(start: int) -> None:
    examples, order = image_set(25), epoch_order(0, 0, 25)
    whole, rest = walk(examples, order, 6), walk(examples, order, 6, start)
    assert len(rest) == max(0, 5 - start)
    for expected, batch in zip(whole[start:], rest, strict=True):
        assert torch.equal(expected.images, batch.images)
        assert torch.equal(expected.ids, batch.ids)


def test_batches_are_copies() -> None:
    examples = image_set(5)
    for batch in batches(examples, None, 5, device=CPU):
        batch.images.zero_()
        batch.labels.fill_(9)
    assert examples.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert examples.labels.max() < 7


def test_mapped_file(tmp_path: Path) -> None:
    in_memory = image_set(20)
    (tmp_path / "pixels").write_bytes(in_memory.images.tobytes())
    mapped = np.memmap(tmp_path / "pixels", dtype=np.uint8, mode="r", shape=in_memory.images.shape)
    order = epoch_order(0, 0, 20)
    for expected, batch in zip(walk(in_memory, order, 8), walk(image_set(20, images=mapped), order, 8), strict=True):
        assert torch.equal(expected.images, batch.images)


def test_an_empty_set_has_no_batches() -> None:
    assert walk(image_set(0), None, 4) == []


def test_a_large_batch_takes_as_many_calls_as_a_small_one() -> None:
    """What would make it slow: a Python call for each image."""

    def calls(batch_size: int) -> int:
        count = 0

        def counted(*_: object) -> None:
            nonlocal count
            count += 1

        walker = batches(image_set(4000), epoch_order(0, 0, 4000), batch_size, device=CPU)
        next(walker)
        sys.setprofile(counted)
        try:
            batch = next(walker)
        finally:
            sys.setprofile(None)
        assert len(batch.labels) == batch_size
        return count

    assert 0 < calls(8) == calls(2000)


@pytest.mark.parametrize("number", [0, 1, 2, 7])
def test_one_ahead_is_map(number: int) -> None:
    assert list(one_ahead(lambda item: item * 10, range(number))) == [item * 10 for item in range(number)]


def test_one_ahead_works_on_the_next_item_and_no_further() -> None:
    begun = [threading.Event() for _ in range(4)]
    walker = one_ahead(lambda item: begun[item].set(), range(4))
    next(walker)
    assert begun[1].wait(5)
    assert not begun[2].is_set()
    walker.close()  # type: ignore[attr-defined]
    assert not begun[2].is_set()


def test_one_ahead_passes_errors_on() -> None:
    walker = one_ahead(lambda item: 1 // item, [1, 0, 1])
    assert next(walker) == 1
    with pytest.raises(ZeroDivisionError):
        next(walker)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("start", [0, 2, 9])
def test_gpu_gets_the_same_batches(start: int) -> None:
    examples, order = image_set(50), epoch_order(0, 0, 50)
    expected = walk(examples, order, 8, start)
    result = walk(examples, order, 8, start, torch.device("cuda"))
    assert len(result) == len(expected)
    for ours, theirs in zip(result, expected, strict=True):
        assert ours.images.device.type == "cuda"
        assert torch.equal(ours.images.cpu(), theirs.images)
        assert torch.equal(ours.ids.cpu(), theirs.ids)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_loader_can_be_left_early() -> None:
    walker = batches(image_set(50), None, 8, device=torch.device("cuda"))
    next(walker)
    walker.close()  # type: ignore[attr-defined]


def test_timed_counts_the_waiting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def slow() -> Iterator[int]:
        nonlocal now
        for number in range(3):
            now += 2.0
            yield number

    timed, seen = Timed(slow()), []
    for number in timed:
        seen.append(number)
        now += 6.0
    assert seen == [0, 1, 2]
    assert timed.waited_s == 6.0
    assert timed.waited == 0.25
