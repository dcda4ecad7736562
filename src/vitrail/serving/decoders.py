"""The decoders: child processes that turn bodies into pixels, one request at a time each, replaced when they die.

Decoding a large photograph takes longer than classifying it, and libraries that parse strangers' files can crash. So
neither happens in the server's process. A decoder that dies costs the request it was reading, and nothing else.
"""

import asyncio
import contextlib
import math
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vitrail.config import Preprocessing, to_json
from vitrail.errors import VitrailError
from vitrail.serving.frames import Frame, FrameError, FrameReader, packed
from vitrail.serving.options import LONGEST_DECODING_SECONDS, ServeOptions

_STARTING_SECONDS = 60.0
_FAILED_STARTS = 5
_SMOOTHING = 0.1
_SEND_BUFFER = 1 << 20


class DecoderDied(Exception):
    """The decoder died, or was killed because it took too long, while it read this request."""


class Refused(Exception):
    """The body is not what the route takes.

    Args:
        status: of HTTP.
        named: error, got, expected, do.
    """

    def __init__(self, status: int, named: dict[str, Any]) -> None:
        super().__init__(named["error"])
        self.status, self.named = status, named


@dataclass
class Decoded:
    """The images of a request.

    Args:
        errors: index, reason and HTTP status of each image that could not be read.
        asked: what else the body asked for (`bodies.Body.asked`).
    """

    pixels: dict[int, UInt8[np.ndarray, "C h w"]] = field(default_factory=dict[int, UInt8[np.ndarray, "C h w"]])
    errors: list[tuple[int, str, int]] = field(default_factory=list[tuple[int, str, int]])
    asked: dict[str, Any] = field(default_factory=dict[str, Any])


class Decoders:
    """A pool of decoders. `start` it in the event loop that uses it, and `close` it.

    Args:
        preprocessing: of the model.
        options: how many there are, and their limits.
        on_restart: told whenever one had to be replaced.
    """

    def __init__(
        self, preprocessing: Preprocessing, options: ServeOptions, on_restart: Callable[[], object] = lambda: None
    ) -> None:
        height, width = preprocessing.decode_size
        self.shape = (preprocessing.num_channels, height, width)
        self.size, self.on_restart = options.decoders, on_restart
        self.settings = {
            "preprocessing": to_json(preprocessing), "max_pixels": options.max_pixels,
            "max_images": options.max_images, "max_body": options.max_body,
        }  # fmt: skip
        self.seconds_a_request = 0.0
        self._free: deque[_Decoder] = deque()
        self._all: set[_Decoder] = set()
        self._waiting: deque[asyncio.Future[_Decoder]] = deque()
        self._starts: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._failed_starts = 0
        self._has_started = self._is_closed = False

    @property
    def alive(self) -> int:
        """Processes that are ready to work, or work."""
        return len(self._all)

    @property
    def estimated_wait(self) -> float:
        """Seconds that a request would wait until one is free."""
        if self._free:
            return 0.0
        return (len(self._waiting) + 1) * self.seconds_a_request / max(1, self.alive)

    @property
    def pids(self) -> list[int]:
        """Process numbers of those that are alive."""
        return [one.process.pid for one in self._all]

    async def start(self) -> None:
        """Start all of them. Raises VitrailError when they do not start."""
        await asyncio.gather(*(self._add() for _ in range(self.size)))
        self._has_started = True
        if not self.alive:
            raise VitrailError(
                "No decoder process starts.", do=f"See why: {sys.executable} -P -m vitrail.serving.decoder 0"
            )

    async def decode(self, body: bytearray, request: dict[str, Any]) -> Decoded:
        """The images of a body.

        Args:
            body: emptied on the way: it may be large.
            request: `kind`, `is_json`, `header_length`, `tensor`: what `bodies.read_body` takes.
        Raises:
            Refused: the body is not what the route takes.
            DecoderDied: it cost a decoder its life.
        """
        decoder = await self._taken()
        started = time.monotonic()
        try:
            # A client that leaves now does not take the decoder along: what it does is finished, and thrown away.
            return await asyncio.shield(decoder.work(body, request))
        finally:
            taken = time.monotonic() - started
            self.seconds_a_request += _SMOOTHING * (taken - self.seconds_a_request)

    async def close(self) -> None:
        """End all of them."""
        self._is_closed = True
        for task in self._starts:
            task.cancel()
        for decoder in list(self._all):
            decoder.kill()
        await asyncio.gather(*self._starts, return_exceptions=True)
        await asyncio.gather(*self._ending)

    def kill(self) -> None:
        """End all of them at once, without waiting."""
        for decoder in list(self._all):
            decoder.process.kill()

    async def _taken(self) -> "_Decoder":
        while self._free:
            decoder = self._free.popleft()
            if decoder.is_alive:
                return decoder
        waiter: asyncio.Future[_Decoder] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._hand_on(waiter.result())
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def _hand_on(self, decoder: "_Decoder") -> None:
        """Give a decoder without work to whoever waits longest."""
        if not decoder.is_alive:
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(decoder)
                return
        self._free.append(decoder)

    def _lost(self, decoder: "_Decoder") -> None:
        _keep(self._ending, _reaped(decoder.process))
        if decoder in self._all:
            self._all.discard(decoder)
            if not self._is_closed:
                self.on_restart()
                _keep(self._starts, self._add())

    async def _add(self) -> None:
        """Start one; again and again, later each time, while that fails."""
        while not self._is_closed:
            decoder = await _Decoder.started(self.settings, self.shape, self._hand_on, self._lost)
            if decoder is not None:
                self._failed_starts = 0
                self._all.add(decoder)
                self._hand_on(decoder)
                return
            self._failed_starts += 1
            if self._failed_starts > _FAILED_STARTS and not self._has_started:
                return
            await asyncio.sleep(min(0.1 * 2 ** min(self._failed_starts, 10), 10.0))


class _Decoder(asyncio.Protocol):
    """One child process, and the work it does."""

    def __init__(self, process: "subprocess.Popen[bytes]", shape: tuple[int, int, int], most: int) -> None:
        self.process, self.is_alive, self.is_ready = process, True, False
        self.transport: asyncio.Transport | None = None
        self.on_free: Callable[[_Decoder], None] = lambda _: None
        self.on_lost: Callable[[_Decoder], None] = lambda _: None
        self._reader = FrameReader(math.prod(shape))
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Decoded] | None = None
        self._found = Decoded()
        self._shape, self._most = shape, most
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def started(
        cls,
        settings: dict[str, Any],
        shape: tuple[int, int, int],
        on_free: "Callable[[_Decoder], None]",
        on_lost: "Callable[[_Decoder], None]",
    ) -> "_Decoder | None":
        """A decoder that has said that it is ready; None: it ended before."""
        ours, its = socket.socketpair()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # fewer and longer pieces
            ours.setsockopt(socket.SOL_SOCKET, option, _SEND_BUFFER)
            its.setsockopt(socket.SOL_SOCKET, option, _SEND_BUFFER)
        command = [sys.executable, "-P", "-m", "vitrail.serving.decoder", str(its.fileno())]
        nowhere = subprocess.DEVNULL
        with its:
            process = subprocess.Popen(
                command, pass_fds=[its.fileno()], stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
            )
        decoder = cls(process, shape, settings["max_images"])
        decoder.on_lost = on_lost
        ours.setblocking(False)
        await decoder._loop.create_connection(lambda: decoder, sock=ours)
        assert decoder.transport is not None
        ready = decoder._answer = decoder._loop.create_future()
        decoder._set_timer(_STARTING_SECONDS)
        decoder.transport.write(packed(settings))
        try:
            await ready
        except DecoderDied:
            return None
        except asyncio.CancelledError:
            decoder.kill()
            raise
        decoder.on_free = on_free
        return decoder

    def work(self, body: bytearray, request: dict[str, Any]) -> asyncio.Future[Decoded]:
        """Begin to read a body, which is not the caller's any more."""
        answer: asyncio.Future[Decoded] = self._loop.create_future()
        answer.add_done_callback(_seen)
        if not self.is_alive or self.transport is None:
            answer.set_exception(DecoderDied())
            return answer
        self._found, self._answer = Decoded(), answer
        self._set_timer(LONGEST_DECODING_SECONDS)
        self.transport.write(packed(request, len(body)))
        self.transport.write(body)
        with contextlib.suppress(BufferError):  # the transport has its own copy, from Python 3.12 on it holds this one
            body.clear()
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.add(data):
                self._take(frame)
        except (FrameError, KeyError, TypeError, ValueError):  # it does what it should not: it may be a stranger's now
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        self.kill()

    def kill(self) -> None:
        """End it, and whatever it works on."""
        if not self.is_alive:
            return
        self.is_alive = False
        self._set_timer(None)
        self.process.kill()
        if self.transport is not None:
            self.transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(DecoderDied())
        self.on_lost(self)

    def _take(self, frame: Frame) -> None:
        header, answer = frame.header, self._answer
        if answer is None or answer.done():
            raise FrameError("nothing was asked")
        self._set_timer(LONGEST_DECODING_SECONDS)
        if "index" in header:
            self._take_image(header, frame.data)
            return
        self._set_timer(None)
        self._answer = None
        if "refused" in header:
            named = {key: header["refused"].get(key) for key in ("error", "got", "expected", "do")}
            answer.set_exception(Refused(int(header["status"]), named))
        else:
            self._found.asked = dict(header.get("asked", {}))
            answer.set_result(self._found)
        self._found = Decoded()
        self.on_free(self)

    def _take_image(self, header: dict[str, Any], data: bytes) -> None:
        index = int(header["index"])
        if not 0 <= index < self._most:
            raise FrameError("an image that nobody sent")
        if "error" in header:
            self._found.errors.append((index, str(header["error"]), int(header["status"])))
        else:
            self._found.pixels[index] = np.frombuffer(data, np.uint8).reshape(self._shape)

    def _set_timer(self, seconds: float | None) -> None:
        """Kill it after so long, unless something comes before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self.kill)


def _keep(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    """Run something in the background; the loop itself holds no reference to it."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _seen(answer: asyncio.Future[Decoded]) -> None:
    """Whoever asked may have left; then nobody looks at an error, which is no fault."""
    if not answer.cancelled():
        answer.exception()


async def _reaped(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of a process that was killed."""
    while process.poll() is None:
        await asyncio.sleep(0.005)
