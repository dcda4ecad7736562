"""scripts/check_sizes.py sees what is too large, and the package is not."""

from pathlib import Path

import pytest

from scripts.check_sizes import excesses, main

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "vitrail"
LIMITS = {"file_lines": 9, "function_lines": 3, "room_files": 2}


def test_names_what_is_too_large(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "long.py").write_text("x = 1\n" * 10)
    (room / "fits.py").write_text("x = 1\n" * 9)
    (room / "third.py").write_text("class A:\n    @property\n    def f(self):\n        a = 1\n        return a\n")
    assert list(excesses(tmp_path, LIMITS)) == [
        ("room/long.py", "10 lines, limit 9"),
        ("room/third.py:A.f", "4 lines, limit 3"),
        ("room/", "3 files, limit 2"),
    ]


def test_the_package_fits(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(PACKAGE)
    assert status == 0, capsys.readouterr().out
