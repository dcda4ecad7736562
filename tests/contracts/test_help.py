"""Help is instant: no verb imports torch to describe itself."""

import subprocess
import sys

import pytest

from vitrail.cli import _VERBS  # pyright: ignore[reportPrivateUsage]

PROGRAM = """
import sys
from vitrail.cli import main
sys.argv = ["vitrail", *sys.argv[1:], "--help"]
try:
    status = main()
except SystemExit as exit:
    status = exit.code
heavy = {"torch", "numpy", "sklearn", "pyarrow"} & set(sys.modules)
print("status", status or 0, "heavy", *sorted(heavy))
"""


@pytest.mark.parametrize("verb", ["", *_VERBS, "data pack"])
def test_help_needs_no_torch(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *verb.split()], capture_output=True, text=True, check=False, timeout=60
    )
    *text, last = done.stdout.splitlines()
    assert last == "status 0 heavy", done.stdout[-2000:] + done.stderr[-2000:]
    assert text[0].startswith(f"usage: vitrail {verb}".split(" pack")[0]), done.stdout
    assert any("--help" in line for line in text), done.stdout
