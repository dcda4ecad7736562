"""How much memory all threads together decode into: a few large images one after the other, small ones side by side."""

import contextlib
import threading
from collections.abc import Iterator

BYTES = 3 << 30
"""Of decoded pixels and their copies; a single image may have more, alone."""


class MemoryBudget:
    """A number of bytes that threads take from and give back to.

    Args:
        size: bytes.
    """

    def __init__(self, size: int = BYTES) -> None:
        self.size, self.taken = size, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, num_bytes: int) -> Iterator[None]:
        """Wait until so many bytes are free, or all of them, and hold them."""
        with self._changed:
            self._changed.wait_for(lambda: not self.taken or self.taken + num_bytes <= self.size)
            self.taken += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self.taken -= num_bytes
                self._changed.notify_all()
