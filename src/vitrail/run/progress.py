"""What a person sees while a run goes on, and how a signal stops it. Everything goes to standard error."""

import contextlib
import signal
import time
import types
from collections.abc import Iterator

from tqdm import tqdm

from vitrail.errors import shown
from vitrail.terminal import LONGEST_LINE

NOTE_SECONDS = 1.0


class Progress:
    """One bar over the images of a run, and a line for each epoch.

    Args:
        total: images the whole run sees.
        done: images already seen, when it is resumed.
        enabled: show anything at all.
    """

    def __init__(self, total: int, *, done: int = 0, enabled: bool) -> None:
        self.enabled, self._noted = enabled, 0.0
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5,
            disable=not enabled,
        )

    def advance(self, images: int) -> None:
        """Count images that were trained on."""
        self._bar.update(images)

    def wants_note(self) -> bool:
        """Whether the words in the bar are a second old: reading a loss from the device each step would stall it."""
        return self.enabled and time.monotonic() - self._noted > NOTE_SECONDS

    def note(self, text: str) -> None:
        """Show a few words in the bar."""
        self._noted = time.monotonic()
        self._bar.set_postfix_str(text, refresh=False)

    def line(self, text: str) -> None:
        """Write a line that stays, above the bar."""
        if self.enabled:
            with tqdm.external_write_mode():
                self._bar.write(shown(text, LONGEST_LINE), file=self._bar.fp)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


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
