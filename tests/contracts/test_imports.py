"""Who may import whom, and what stays light."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "numpy", "PIL", "sklearn", "pyarrow", "scipy"}


def modules_after(statement: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["vitrail", "vitrail.config", "vitrail.errors", "vitrail.fsio"])
def test_settings_load_without_torch(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert "vitrail" in loaded
    assert not loaded & HEAVY


def test_the_probe_sees_torch() -> None:
    assert {"torch", "numpy"} <= modules_after("import torch")


def test_imports_point_down() -> None:
    """The ladder and the two bans of pyproject.toml hold; `lint-imports` prints the offending chain."""
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documented_ladder_is_the_checked_one() -> None:
    """ARCHITECTURE.md shows the layers of pyproject.toml, less the rooms that are not built yet."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    checked = [[room.strip() for room in layer.split("|") if "(" not in room] for layer in layers]
    block = re.search(r"```\n(cli\n.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL)
    assert block is not None
    documented = [[room.strip() for room in line.split("|")] for line in block[1].splitlines()]
    assert documented == [rooms for rooms in checked if rooms]
