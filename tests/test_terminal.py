"""Colours and width follow the terminal; nothing but text goes into a pipe."""

import io
import os
import shutil

import pytest

from vitrail import terminal
from vitrail.cli.answer import table
from vitrail.errors import ConfigError

RED, BOLD, END = "\x1b[31m", "\x1b[1m", "\x1b[0m"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def written(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **environment: str) -> str:
    """What an error and a table come to on a stream."""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", stream)
    terminal.say(ConfigError("Wrong.", got="\x1b[5mx"))
    terminal.say("a note")
    terminal.answer(table(("name", "count"), [("a", 1)]))
    return stream.getvalue()


def test_an_error_and_a_heading_stand_out_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = written(monkeypatch, Screen(), TERM="xterm")
    assert text == (
        f"{RED}vitrail: Wrong.{END}\n  Got \\x1b[5mx.\nvitrail: a note\n"
        f"{BOLD}name  count{END}\n----  -----\na         1\n"
    )


@pytest.mark.parametrize(
    ("stream", "environment"), [(io.StringIO, {}), (Screen, {"NO_COLOR": "1"}), (Screen, {"TERM": "dumb"})]
)
def test_no_colour_where_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], environment: dict[str, str]
) -> None:
    text = written(monkeypatch, stream(), **environment)
    assert "\x1b" not in text
    assert "vitrail: Wrong." in text


def test_an_empty_no_color_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RED in written(monkeypatch, Screen(), NO_COLOR="")


def test_a_long_last_column_is_folded_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("first", "one two three four five six"), ("second", "seven")]
    whole = table(("what", "value"), rows)
    assert whole[2] == "first   one two three four five six"
    monkeypatch.setattr("sys.stdout", Screen())
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((30, 20)))
    folded = table(("what", "value"), rows)
    assert folded[2:] == ["first   one two three four", "        five six", "second  seven"]
    assert max(map(len, folded)) <= 30
    assert (terminal.columns(), terminal.columns(20)) == (30, 20)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert table(("what", "value"), rows) == whole
    assert terminal.columns() == 112
