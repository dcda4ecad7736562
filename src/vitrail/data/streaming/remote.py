"""Bytes of remote shards: ranges asked for again until they are whole, the same object all the time.

What the bytes are carried by is in `http_objects` and `stores`.
"""

import contextlib
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from vitrail.data.streaming.places import check_address, printable
from vitrail.data.streaming.table import Shard
from vitrail.errors import DataError

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
    """

    tries: int = 8
    first_s: float = 0.1
    longest_s: float = 15.0
    timeout_s: float = 30.0
    deadline_s: float = 900.0


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
        tries, began = 0, time.monotonic()
        while True:
            try:
                with self._requests:
                    return attempt()
            except Passing as error:
                tries += 1
                self._pause(address, error, tries, began)

    def fetch(self, shard: Shard, offset: int, length: int) -> bytes:
        """Bytes of an object, exactly as many as asked for.

        Raises:
            DataError: it could not be had, or the object is no longer the one that was indexed.
        """
        whole, tries, began = bytearray(), 0, time.monotonic()
        address = f"{self.place}/{shard.name}"
        with self._budget.taken(length), self._requests:
            while len(whole) < length:
                before = len(whole)
                try:
                    for piece in self._body(shard, offset + before, offset + length):
                        whole += piece[: length - len(whole)]
                        if time.monotonic() - began > self.patience.deadline_s:
                            break
                    if len(whole) < length:
                        raise Passing(f"the body ended after {len(whole)} of {length} bytes")
                except FileNotFoundError as error:
                    raise replaced(address, "no such object") from error
                except Passing as error:
                    tries = 1 if len(whole) > before else tries + 1
                    self._pause(address, error, tries, began)
        return bytes(whole)

    def _pause(self, address: str, error: Passing, tries: int, began: float) -> None:
        """Wait before the next attempt. Raises Unreachable where there is none."""
        patience = self.patience
        longest = min(patience.longest_s, patience.first_s * 2 ** (tries - 1))
        pause = max(random.uniform(0, longest), error.after_s)
        passed = time.monotonic() - began
        if tries >= patience.tries or passed + pause > patience.deadline_s:
            raise Unreachable(
                f"{printable(address)}: could not be read.",
                got=f"{error}, after {tries} tries in {passed:.0f} s",
                do="Check the connection and try again; what was fetched is kept.",
            ) from error
        self.num_retries += 1
        time.sleep(pause)


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
