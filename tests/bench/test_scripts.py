"""The scripts of bench/ run in little, on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ["step.py", "memory.py", "whole_run.py", "gpu/throughput.py", "gpu/input.py", "gpu/determinism.py"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_smoke(name: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "bench" / name), "--smoke"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|---" in done.stdout
    assert "failed" not in done.stdout


def test_every_piece_of_the_overview_is_in_the_readme() -> None:
    script = ROOT / "bench" / "gpu" / "run.sh"
    done = subprocess.run(["bash", str(script), "all-pieces"], capture_output=True, text=True, check=True)
    pieces = done.stdout.split()
    text = (ROOT / "bench" / "gpu" / "README.md").read_text(encoding="utf-8")
    assert len(pieces) == 11
    assert all(f"`{piece}`" in text for piece in pieces)
