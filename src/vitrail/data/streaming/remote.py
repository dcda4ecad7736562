"""Bytes of remote shards: ranges asked for again until they are whole, the same object all the time.

What the bytes are carried by is in `http_objects` and `stores`.
"""

import contextlib
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from vitrail.data.streaming.places import check_address, printable
from vitrail.data.streaming.table import Shard
from vitrail.errors import DataError
from vitrail.progress import say_above_bars

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Args:
        tries: without a byte in between, after which it is given up.
        first_s: longest pause after the first failure; it doubles with each one more. The pause is drawn from 0 on.
        longest_s: longest pause.
        timeout_s: without a byte, after which a connection is given up.
        deadline_s: of a range, all tries together.
        outage_s: for which is tried in any case, whatever the number of tries: a server is restarted in that time.
        said_s: without a byte, after which a line says what is waited for, where `outage_s` is not 0.
    """

    tries: int = 8
    first_s: float = 0.1
    longest_s: float = 15.0
    timeout_s: float = 30.0
    deadline_s: float = 900.0
    outage_s: float = 0.0
    said_s: float = 5.0


TRAINING = Patience(outage_s=300.0)
"""For chunks: a long run outlasts the restart of a server."""


class Passing(Exception):
    """A failure that may pass; `after_s`: not to be tried before."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Unreachable(DataError):
    """Bytes could not be had, however often they were asked for; later they may."""


class Budget:
    """A bound on bytes that are on the way, for all threads together; a larger piece than all of it goes alone."""

    def __init__(self, num_bytes: int) -> None:
        self._limit, self._held, self._changed = num_bytes, 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, num_bytes: int) -> Iterator[None]:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + num_bytes <= self._limit)
            self._held += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._held -= num_bytes
                self._changed.notify_all()


class Objects(ABC):
    """The objects below an address.

    Args:
        place: the address.
        patience: how long to try.
        requests: that are on their way at once.
        bytes_in_flight: of all of them.
    """

    def __init__(
        self, place: str, patience: Patience | None = None, requests: int = 16, bytes_in_flight: int = 256 << 20
    ) -> None:
        check_address(place)
        self.place, self.patience = place.rstrip("/"), patience or Patience()
        self._requests, self._budget = threading.BoundedSemaphore(requests), Budget(bytes_in_flight)
        self.num_retries = 0
        self._under_way: set[Future[Any]] = set()
        self._failing: dict[str, float] = {}
        """Since when no byte of an object has come, by its address."""
        self._is_said = False

    @abstractmethod
    def names(self, pattern: str) -> list[str]:
        """Names, relative to the place, of the objects that a pattern below it may stand for; not all need exist."""

    @abstractmethod
    def _about(self, name: str) -> tuple[int, str]:
        """Size and tag; one attempt. Raises Passing, DataError, FileNotFoundError."""

    @abstractmethod
    def _body(self, shard: Shard, start: int, stop: int) -> Iterator[bytes]:
        """The bytes of a range, in pieces; one attempt. Raises Passing, or DataError for what will not pass."""

    def about(self, name: str) -> tuple[int, str]:
        """Size in bytes, and the tag that changes with the object. Raises FileNotFoundError, DataError."""
        return self._tried(f"{self.place}/{name}", lambda: self._about(name))

    def _tried(self, address: str, attempt: Callable[[], T]) -> T:
        """What an attempt gives that does not fail. Raises DataError, and what will not pass."""

        def work(answer: Future[T]) -> T:
            tries, began = 0, time.monotonic()
            while True:
                try:
                    with self._requests:
                        found = attempt()
                    self._has_come(address)
                    return found
                except Passing as error:
                    tries += 1
                    self._pause(address, error, tries, began, began, answer)

        return self._in_thread(work)

    def fetch(self, shard: Shard, offset: int, length: int) -> bytes:
        """Bytes of an object, exactly as many as asked for.

        Raises:
            DataError: it could not be had, or the object is no longer the one that was indexed; or `stop` was called.
        """
        return self._in_thread(lambda answer: self._fetched(shard, offset, length, answer))

    def _fetched(self, shard: Shard, offset: int, length: int, answer: Future[bytes]) -> bytes:
        whole, tries, began = bytearray(), 0, time.monotonic()
        address = f"{self.place}/{shard.name}"
        with self._budget.taken(length), self._requests:
            last_byte = time.monotonic()
            while len(whole) < length and not answer.done():
                before = len(whole)
                try:
                    for piece in self._body(shard, offset + before, offset + length):
                        whole += piece[: length - len(whole)]
                        last_byte = time.monotonic()
                        self._has_come(address)
                        if last_byte - began > self.patience.deadline_s or answer.done():
                            break
                    if len(whole) < length:
                        raise Passing(f"the body ended after {len(whole)} of {length} bytes")
                except FileNotFoundError as error:
                    raise replaced(address, "no such object") from error
                except Passing as error:
                    tries = 1 if len(whole) > before else tries + 1
                    self._pause(address, error, tries, began, last_byte, answer)
        return bytes(whole)

    def stop(self) -> None:
        """End what is asked for now, which raises DataError, and wait for nothing; later requests are made as ever."""
        for answer in tuple(self._under_way):
            with contextlib.suppress(InvalidStateError):  # it has come
                answer.set_exception(DataError(f"{printable(self.place)}: reading was stopped."))
        self._failing.clear()

    def _in_thread(self, work: Callable[[Future[T]], T]) -> T:
        """What some work gives, done in a thread that nobody waits for once its answer was set by `stop`."""
        answer: Future[T] = Future()

        def run() -> None:
            with contextlib.suppress(InvalidStateError):  # it was stopped
                try:
                    answer.set_result(work(answer))
                except Exception as error:
                    answer.set_exception(error)

        self._under_way.add(answer)
        try:
            threading.Thread(target=run, daemon=True).start()
            return answer.result()
        finally:
            self._under_way.discard(answer)

    def _has_come(self, address: str) -> None:
        """Bytes of an object have come."""
        if self._failing and self._failing.pop(address, None) is not None and not self._failing:
            self._is_said = False

    def _pause(
        self, address: str, error: Passing, tries: int, began: float, last_byte: float, answer: Future[Any]
    ) -> None:
        """Wait before the next attempt, unless the answer is there. Raises Unreachable where there is none."""
        if answer.done():
            return
        patience, now = self.patience, time.monotonic()
        longest = min(patience.longest_s, patience.first_s * 2 ** min(tries - 1, 30))
        pause = max(random.uniform(0, longest), error.after_s)
        # Whoever asks for another chunk of a shard that was given up does not wait as long once more.
        outage_s = now - self._failing.setdefault(address, last_byte)
        is_over = tries >= patience.tries and outage_s >= patience.outage_s
        if is_over or now - began + pause > patience.deadline_s:
            raise Unreachable(
                f"{printable(address)}: could not be read.",
                got=f"{error}, after {tries} tries in {now - began:.0f} s",
                do="Check the connection and try again; what was fetched is kept.",
            ) from error
        if patience.outage_s and outage_s >= patience.said_s and not self._is_said:
            self._is_said = True
            until = time.strftime("%H:%M", time.localtime(time.time() + patience.outage_s - outage_s))
            say_above_bars(f"waiting for {printable(address)}: {error}; trying again until {until}")
        self.num_retries += 1
        wait([answer], timeout=pause)


def replaced(address: str, got: str) -> DataError:
    """The error for an object that is another one than was indexed."""
    return DataError(
        f"{printable(address)}: the object was replaced after it was indexed.",
        got=got,
        expected="the same object during the whole run",
        do="Index the data again, and start again: vitrail data index SOURCE -o DIR.",
    )


def not_readable(address: str, got: str) -> DataError:
    """The error for what does not pass, however often it is tried."""
    return DataError(f"{printable(address)}: could not be read.", got=got, do="Check the address and your access.")
