"""The queue before the model: what is computed together, what is left out, what is refused."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from vitrail.serving.batching import Batcher, Expired, measured_batch

FAR = 1e9


class Model:
    """Gives back what it is given; waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.begun = threading.Event()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.begun.set()
        assert self.gate.wait(20)
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        return pixels[:, 0, 0, 0].copy()


def images(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), np.uint8)


def with_batcher(work: Callable[[Model, Batcher[np.ndarray]], Awaitable[None]], **options: Any) -> Model:
    """Run something with a model that is busy with image 0."""
    model = Model()

    async def run() -> None:
        batcher = Batcher(model, lambda outputs, start, stop: outputs[start:stop], max_batch=4, **options)
        first = asyncio.ensure_future(batcher(images(0), FAR))
        await asyncio.to_thread(model.begun.wait, 20)
        try:
            await asyncio.wait_for(work(model, batcher), 30)
            await first
        finally:
            model.gate.set()
            batcher.close()

    asyncio.run(run())
    return model


def test_what_waits_is_computed_together_up_to_the_limit() -> None:
    async def work(model: Model, batcher: Batcher[np.ndarray]) -> None:
        asked = [batcher(images(*found), FAR) for found in ((1,), (2, 3), (4,), (5,), (6, 7, 8, 9, 10, 11))]
        waiting = [asyncio.ensure_future(one) for one in asked]
        await asyncio.sleep(0.05)
        assert batcher.queued_images == 11
        model.gate.set()
        found = [outputs.tolist() for outputs, _ in await asyncio.gather(*waiting)]
        assert found == [[1], [2, 3], [4], [5], [6, 7, 8, 9, 10, 11]]
        assert batcher.queued_images == 0

    assert with_batcher(work).batches == [[0], [1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11]]


def test_whoever_left_or_is_late_costs_nothing() -> None:
    async def work(model: Model, batcher: Batcher[np.ndarray]) -> None:
        late = asyncio.ensure_future(batcher(images(1), time.monotonic() + 0.05))
        left = asyncio.ensure_future(batcher(images(2, 2), FAR))
        stays = asyncio.ensure_future(batcher(images(3), FAR))
        await asyncio.sleep(0.01)
        left.cancel()
        with pytest.raises(Expired):
            await late
        assert batcher.queued_images == 1
        model.gate.set()
        outputs, waited = await stays
        assert outputs.tolist() == [3]
        assert waited > 0.02

    assert with_batcher(work).batches == [[0], [3]]


def test_an_error_of_the_model_reaches_its_batch_alone() -> None:
    async def run() -> None:
        def compute(pixels: np.ndarray) -> np.ndarray:
            if pixels.max() == 7:
                raise ValueError("seven")
            return pixels[:, 0, 0, 0]

        batcher = Batcher(compute, lambda outputs, start, stop: outputs[start:stop], max_batch=4)
        with pytest.raises(ValueError, match="seven"):
            await batcher(images(7), FAR)
        assert (await batcher(images(1), FAR))[0].tolist() == [1]
        assert batcher.running_since is None
        batcher.close()

    asyncio.run(run())


def test_it_waits_for_a_fuller_batch_only_if_asked() -> None:
    async def work(model: Model, batcher: Batcher[np.ndarray]) -> None:
        model.gate.set()
        first = asyncio.ensure_future(batcher(images(1), FAR))
        await asyncio.sleep(0.2)
        assert not first.done()
        await asyncio.gather(first, batcher(images(2, 3, 4), FAR))

    assert with_batcher(work, wait=0.6).batches[-1] == [1, 2, 3, 4]


def test_the_wait_is_estimated_from_what_is_queued() -> None:
    async def work(model: Model, batcher: Batcher[np.ndarray]) -> None:
        assert batcher.estimated_wait == pytest.approx(2.0)
        waiting = asyncio.ensure_future(batcher(images(1, 2), FAR))
        await asyncio.sleep(0.01)
        assert batcher.estimated_wait == pytest.approx(6.0)
        model.gate.set()
        await waiting

    with_batcher(work, seconds_an_image=2.0)


def test_the_batch_is_doubled_while_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("vitrail.serving.batching.time.monotonic", lambda: clock[0])

    def model(an_image: float, a_call: float) -> Callable[[np.ndarray], None]:
        def compute(pixels: np.ndarray) -> None:
            clock[0] += a_call + an_image * len(pixels)

        return compute

    assert measured_batch(model(0.08, 0.0), (3, 4, 4)) == (1, pytest.approx(0.08, rel=0.01))
    assert measured_batch(model(0.0001, 0.001), (3, 4, 4))[0] == 32
    assert measured_batch(model(0.0001, 0.001), (3, 4, 4), most=3)[0] == 2
