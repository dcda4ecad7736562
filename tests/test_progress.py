"""A bar on a terminal; elsewhere a line now and then, and rarer with time."""

import io
import re
import sys

import pytest

from vitrail import progress
from vitrail.progress import Bar, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: int, **more: object) -> str:
    """What is written without a terminal while something is done every second."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Bar(seconds, title="train", **more) as bar:  # type: ignore[arg-type]
        for _ in range(seconds):
            now[0] += 1
            bar.note("loss 1.5")
            bar.advance(1)
    return capsys.readouterr().err


def test_without_a_terminal_a_line_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    minute = _lines(monkeypatch, capsys, 60).splitlines()
    assert minute[0] == "train: 10 of 60 images, 1 a second, loss 1.5, 50 s left"
    assert len(minute) == 6
    hour = _lines(monkeypatch, capsys, 3600).splitlines()
    assert 20 < len(hour) < 60
    assert not any("\r" in line or "%|" in line for line in hour)
    assert _lines(monkeypatch, capsys, 5) == ""
    assert _lines(monkeypatch, capsys, 60, enabled=False) == ""
    assert _lines(monkeypatch, capsys, 60, about=True).startswith("train: 10 of about 60 images")


def test_what_is_known_about_the_time_left_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "25 min left" in _lines(monkeypatch, capsys, 20, left=lambda: 1500.0)
    assert "left" not in _lines(monkeypatch, capsys, 20, left=lambda: None)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    bar = Bar(100, left=lambda: 1500.0, done=40)
    bar.note("loss 1.5")
    bar.advance(10)
    bar.line("a line that stays")
    bar.close()
    shown = terminal.getvalue()
    assert "25:00" in shown
    assert "50/100" in shown
    assert re.search(r"a line that stays\n", shown)


def test_work_that_went_on_counts_its_own_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = Bar(1000, done=900)
    now[0] = 10.0
    bar.restart()
    now[0] = 20.0
    bar.advance(50)
    assert capsys.readouterr().err == "950 of 1000 images, 5 a second, 10 s left\n"


def test_a_closed_standard_error_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        Bar(10).advance(1)


def test_durations_are_said_in_one_unit() -> None:
    assert [duration(s) for s in (0.4, 61, 360, 9000)] == ["0 s", "61 s", "6 min", "2.5 h"]
