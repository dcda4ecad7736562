"""What a person sees while a run goes on, and how a signal stops it. Everything goes to standard error."""

import contextlib
import signal
import time
import types
from collections.abc import Iterator

from vitrail.progress import Bar

NOTE_SECONDS = 1.0


class Progress(Bar):
    """A bar over the images of a run, with a few words that are not looked up more often than they are read."""

    def __init__(self, total: int, *, done: int = 0, enabled: bool) -> None:
        super().__init__(total, done=done, enabled=enabled)
        self._noted = 0.0

    def wants_note(self) -> bool:
        """Whether the words in the bar are a second old: reading a loss from the device each step would stall it."""
        return self.enabled and time.monotonic() - self._noted > NOTE_SECONDS

    def note(self, text: str) -> None:
        """Show a few words in the bar."""
        self._noted = time.monotonic()
        super().note(text)


class StopRequest:
    """The signal that asked the run to stop; 0 while there is none. A second signal ends the program at once."""

    signal_number = 0

    def __bool__(self) -> bool:
        return self.signal_number != 0


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request that the loop polls, for the length of a `with` block.

    Outside the main thread, where Python allows no handlers, signals keep their usual effect.
    """
    request = StopRequest()
    previous: dict[int, object] = {}

    def handler(number: int, frame: types.FrameType | None) -> None:
        if request:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        request.signal_number = number

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handler)
    except ValueError:
        previous.clear()
    try:
        yield request
    finally:
        for number, old in previous.items():
            signal.signal(number, old)  # type: ignore[arg-type]
