"""What is made from the code is up to date: the architecture picture, the tutorial's notebook, the API reference."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vitrail
from scripts import draw_architecture, tutorial

ROOT = Path(__file__).resolve().parents[2]


def run_script(*words: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, without the type checker of the tests."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "JAXTYPING_DISABLE": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=590
    )


# ---- the architecture picture ------------------------------------------------------------------------------------


def test_the_picture_is_what_the_imports_say() -> None:
    stored = draw_architecture.PICTURE.read_text(encoding="utf-8")
    assert draw_architecture.drawn() == stored, "run `make docs`"
    for name in (name for row in draw_architecture.layers() for name in row):
        assert re.search(rf"[> ]{name}[,<]", stored), f"{name} is not in the picture"


def test_the_picture_finds_imports_of_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "top.py").write_text("from vitrail import low\n\n\ndef f():\n    import vitrail.middle.deep\n")
    (tmp_path / "middle").mkdir()
    (tmp_path / "middle" / "deep.py").write_text("import torch\nfrom vitrail.low import x\n")
    (tmp_path / "low.py").write_text("import vitrail.low\n")
    monkeypatch.setattr(draw_architecture, "PACKAGE", tmp_path)
    found = draw_architecture.imports(["top", "middle", "low"])
    assert found == {("top", "low"), ("top", "middle"), ("middle", "low")}
    assert draw_architecture.reduced(found) == {("top", "middle"), ("middle", "low")}


# ---- the tutorial ------------------------------------------------------------------------------------------------


def test_the_notebook_is_the_tutorial() -> None:
    text = tutorial.SOURCE.read_text(encoding="utf-8")
    assert tutorial.NOTEBOOK.read_text(encoding="utf-8") == tutorial.notebook(text), "run `make docs`"
    for target in re.findall(r"\]\((images/[^)]+)\)", text):
        assert (tutorial.SOURCE.parent / target).exists(), f"{target}: run scripts/tutorial.py --run"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_tutorial_runs_and_prints_what_it_shows() -> None:
    done = run_script("scripts/tutorial.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


# ---- the API reference -------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_reference_has_every_public_name_and_needs_no_network(tmp_path: Path) -> None:
    done = run_script("-W", "error", "scripts/build_reference.py", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "vitrail.html").read_text(encoding="utf-8")
    assert [name for name in vitrail.__all__ if f'id="{name}"' not in page and f"vitrail/{name}.html" not in page] == []
    for path in tmp_path.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'(src="|@import |url\()https?:', text), path.name
        for target in re.findall(r'href="([^"#:]+\.html)', text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("name", [name for name in vitrail.__all__ if name != "recipes"])
def test_a_public_name_is_described(name: str) -> None:
    value = getattr(vitrail, name)
    text = inspect.getdoc(value) or ""
    assert text
    if name[0].islower() and name != "save":
        assert inspect.isfunction(value)
        missing = [
            parameter for parameter in inspect.signature(value).parameters if not re.search(rf"\b{parameter}\b", text)
        ]
        assert missing == []
        assert "Raises:" in text or name == "record_attention"
