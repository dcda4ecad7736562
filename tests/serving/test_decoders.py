"""Decoders: what they read, and that the death of one costs no more than the request it was reading."""

import asyncio
import base64
import json
import os
import signal
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.image_bombs import flat_png
from tests.support.images import encode, noise, smooth
from vitrail.config import Preprocessing
from vitrail.data.decode import load_image
from vitrail.serving import decoders as room
from vitrail.serving.decoders import DecoderDied, Decoders, Refused
from vitrail.serving.frames import FrameError, FrameReader, packed
from vitrail.serving.options import ServeOptions

PREPROCESSING = Preprocessing(image_size=(32, 48), decode_size=(32, 48))
PLAIN = {"kind": "predict", "is_json": False, "header_length": None, "tensor": False}
SLOW = flat_png(7000, 7000)
"""49 megapixels, a few tenths of a second."""


def with_decoders(work: Callable[[Decoders], Awaitable[None]], **options: Any) -> int:
    """Run something with decoders; how many had to be replaced."""
    restarts: list[None] = []

    async def run() -> None:
        found = Decoders(PREPROCESSING, ServeOptions(**{"decoders": 1, **options}), lambda: restarts.append(None))
        await found.start()
        try:
            await asyncio.wait_for(work(found), 60)
        finally:
            await found.close()
        assert found.alive == 0

    asyncio.run(run())
    return len(restarts)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


def test_pixels_are_those_of_the_one_decoder() -> None:
    images = [encode(noise(40, 50, seed), kind) for seed, kind in enumerate(("PNG", "JPEG", "WEBP"))]

    async def work(found: Decoders) -> None:
        listed = json.dumps({"images": [base64.b64encode(image).decode() for image in images], "top": 3})
        answer = await found.decode(bytearray(listed.encode()), PLAIN)
        assert answer.asked == {"listed": True, "top": 3}
        for i, image in enumerate(images):
            expected = load_image(image, PREPROCESSING, with_torch=False)
            assert np.array_equal(answer.pixels[i], expected)
            alone = await found.decode(bytearray(image), PLAIN)
            assert np.array_equal(alone.pixels[0], expected)

    assert with_decoders(work) == 0


def test_the_death_of_a_decoder_costs_one_request() -> None:
    async def work(found: Decoders) -> None:
        (pid,) = found.pids
        first = asyncio.ensure_future(found.decode(bytearray(SLOW), PLAIN))
        second = asyncio.ensure_future(found.decode(bytearray(encode(smooth(9, 9), "PNG")), PLAIN))
        await asyncio.sleep(0.05)
        assert found.estimated_wait >= 0
        os.kill(pid, signal.SIGSEGV)
        with pytest.raises(DecoderDied):
            await first
        assert (await second).pixels[0].shape == (3, 32, 48)
        (other,) = found.pids
        assert other != pid
        os.kill(other, signal.SIGKILL)  # without work
        await until(lambda: other not in found.pids and found.alive)

    assert with_decoders(work) == 2


def test_a_decoder_that_is_silent_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LONGEST_DECODING_SECONDS", 0.3)

    async def work(found: Decoders) -> None:
        (pid,) = found.pids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(DecoderDied):
            await found.decode(bytearray(b"x"), PLAIN)
        assert (await found.decode(bytearray(b"x"), PLAIN)).errors[0][2] == 415

    assert with_decoders(work) == 1


def test_a_client_that_leaves_takes_no_decoder_along() -> None:
    async def work(found: Decoders) -> None:
        first = asyncio.ensure_future(found.decode(bytearray(SLOW), PLAIN))
        waits = asyncio.ensure_future(found.decode(bytearray(SLOW), PLAIN))
        await asyncio.sleep(0.05)
        first.cancel()
        waits.cancel()
        await asyncio.gather(first, waits, return_exceptions=True)
        assert (await found.decode(bytearray(encode(smooth(9, 9), "PNG")), PLAIN)).pixels

    assert with_decoders(work) == 0


def test_memory_of_a_decoder_is_limited() -> None:
    async def work(found: Decoders) -> None:
        limits = Path(f"/proc/{found.pids[0]}/limits").read_text()
        line = next(line for line in limits.splitlines() if line.startswith("Max address space"))
        assert int(line.split()[3]) < 4 << 30
        descriptors = [os.readlink(entry) for entry in Path(f"/proc/{found.pids[0]}/fd").iterdir()]
        assert sorted(name.partition(":")[0] for name in descriptors) == ["/dev/null"] * 3 + ["socket"]
        # More than the limits of an image allow:
        assert (await found.decode(bytearray(SLOW), PLAIN)).errors[0][2] == 422

    assert with_decoders(work, max_pixels=10_000_000) == 0


def test_bodies_that_are_none() -> None:
    async def work(found: Decoders) -> None:
        for body in (b"", b"{", b"[" * 10**5, b'{"images": [' + b"1," * 10**6 + b"1]}", b'{"a":' * 10**5):
            with pytest.raises(Refused) as caught:
                await found.decode(bytearray(body), PLAIN)
            assert caught.value.status == 400
        infer = {**PLAIN, "kind": "infer", "tensor": True, "header_length": 99}
        with pytest.raises(Refused, match="beyond"):
            await found.decode(bytearray(b"{}"), infer)

    assert with_decoders(work) == 0


def test_frames_come_whole_from_any_pieces() -> None:
    stream = packed({"a": 1}, 3) + b"xyz" + packed({"b": "\u00e9"}) + packed({"c": []}, 1) + b"!"
    for step in (1, 2, 7, 1000):
        reader = FrameReader(3)
        found = [frame for i in range(0, len(stream), step) for frame in reader.add(stream[i : i + step])]
        assert [frame.header for frame in found] == [{"a": 1}, {"b": "\u00e9"}, {"c": []}]
        assert [frame.data for frame in found] == [b"xyz", b"", b"!"]
    for bad in (
        packed({}, 4),
        struct.pack("!II", 1 << 21, 0),
        struct.pack("!II", 2, 0) + b"[]",
        struct.pack("!II", 1, 0) + b"{",
    ):
        with pytest.raises(FrameError):
            FrameReader(3).add(bad)
