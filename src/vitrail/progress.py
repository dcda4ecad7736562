"""How far something is, for people, on standard error: a bar on a terminal, a line now and then everywhere else."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from vitrail.errors import shown
from vitrail.terminal import LONGEST_LINE, is_terminal, say

FIRST_SECONDS, LONGEST_SECONDS, PART = 10.0, 300.0, 0.1
"""Where there is no terminal: a line every ten seconds, later every tenth of the time passed, at most five minutes."""


def duration(seconds: float) -> str:
    """A length of time in one unit, as a person says it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Bar:
    """Counts things that are done.

    Args:
        total: how many there are.
        unit: what they are.
        title: of what.
        done: of them, before this began.
        about: the total is a guess.
        enabled: show anything at all.
        keep: leave the finished bar on the terminal.
        left: gives the seconds that are left, None where they are not known; None: by the rate so far.
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str = "images",
        title: str = "",
        done: int = 0,
        about: bool = False,
        enabled: bool = True,
        keep: bool = True,
        left: Callable[[], float | None] | None = None,
    ) -> None:
        self.total, self.unit, self.title, self.done, self.enabled, self.left = total, unit, title, done, enabled, left
        self._about = about
        self._began, self._first, self._said, self._note = time.monotonic(), done, 0.0, ""
        self._bar = self._on_terminal(keep) if enabled and is_terminal(sys.stderr) else None

    def _on_terminal(self, keep: bool) -> "tqdm[Any]":
        bar = _Tqdm(
            total=self.total,
            initial=self.done,
            unit=f" {self.unit}",
            unit_scale=self.total > 10_000,
            desc=shown(self.title, 60) or None,
            leave=keep,
            dynamic_ncols=True,
            mininterval=0.5,
            bar_format=_WITH_LEFT if self.left else _WITH_GUESS if self._about else None,
        )
        bar.left = self.left
        return bar

    def advance(self, count: int) -> None:
        """Count what was done since the last call."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.enabled:
            passed = time.monotonic() - self._began
            if passed - self._said >= min(max(FIRST_SECONDS, PART * passed), LONGEST_SECONDS):
                self._said = passed
                self.line(self._text(passed))

    def expect(self, total: int) -> None:
        """Say anew how many things there are, where that shows only on the way."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total

    def restart(self) -> None:
        """Forget the time until now: the work begins."""
        self._began, self._first, self._said = time.monotonic(), self.done, 0.0
        if self._bar is not None:
            self._bar.unpause()

    def note(self, text: str) -> None:
        """Show a few words beside the count from now on."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def line(self, text: str) -> None:
        """Write a line that stays, above the bar."""
        if self._bar is not None:
            with tqdm.external_write_mode():
                self._bar.write(shown(text, LONGEST_LINE), file=self._bar.fp)
        elif self.enabled:
            say(text, prefix="")

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _text(self, passed: float) -> str:
        rate = (self.done - self._first) / passed
        left = self.left() if self.left else (self.total - self.done) / rate if rate else None
        parts = [
            f"{self.title}: {self.done} of {'about ' * self._about}{self.total} {self.unit}".removeprefix(": "),
            f"{rate:.0f} a second" if rate >= 10 else f"{rate:.2g} a second",
            *([self._note] if self._note else []),
            *([f"{duration(left)} left"] if left is not None else []),
        ]
        return ", ".join(parts)


_WITH_LEFT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}{postfix}]"
_WITH_GUESS = "{l_bar}{bar}| {n_fmt}/~{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _Tqdm(tqdm):  # type: ignore[type-arg]
    """A bar that is told how much time is left, where the rate so far does not tell."""

    left: Callable[[], float | None] | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        known = dict(super().format_dict)
        seconds = self.left() if self.left else None
        return {**known, "left": "?" if seconds is None else tqdm.format_interval(seconds)}


def say_above_bars(text: str) -> None:
    """A message on standard error, above the bars that are shown there."""
    with tqdm.external_write_mode():
        say(text)
