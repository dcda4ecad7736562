"""Regular files up to a limit, and JSON that fails in one way."""

import os
from pathlib import Path

import pytest

from vitrail.reading import open_regular, parsed_json, read_json_object, read_regular


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    assert read_regular(tmp_path / "a", 1000) == b"x" * 1000
    with pytest.raises(OSError, match="more than 999 bytes"):
        read_regular(tmp_path / "a", 999)


def test_a_file_that_says_less_than_it_has_is_bounded_too() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    assert read_regular(Path("/proc/self/status"), 1 << 20).startswith(b"Name:")
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_regular(Path("/proc/self/status"), 10)


def test_pipes_devices_and_folders_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "endless"):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)
    with pytest.raises(OSError, match=r"."):
        read_regular(tmp_path, 10)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"b": {"a": 1, "a": 2}}', "'a' is there twice"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"{" + b'"a": ' + b"9" * 10_000 + b"}", "limit"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_no_json_is_a_value_error(raw: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed_json(raw)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_ours_has_finite_numbers(text: str) -> None:
    parsed_json(f'{{"a": {text}}}')
    with pytest.raises(ValueError, match="not a finite number"):
        parsed_json(f'{{"a": {text}}}', finite=True)
    assert parsed_json('{"a": 1.5e3}', finite=True) == {"a": 1500.0}


def test_a_folder_that_is_refused_stays_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(OSError, match=r"."):
            open_regular(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_object_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"a": [1, {"b": null}]}')
    assert read_json_object(tmp_path / "a") == {"a": [1, {"b": None}]}
    (tmp_path / "a").write_text("[1]")
    with pytest.raises(ValueError, match="not a JSON object but list"):
        read_json_object(tmp_path / "a")
