"""What the documents show runs, and what they name exists."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_python_of_the_readme_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch.Size([2, 10]) tensor(")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert text.isascii()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_rooms_and_files_that_the_map_names_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"\| `([\w/.]+(?:/|\.py))`", text)
    assert len(named) > 5
    for name in named:
        assert (ROOT / "src" / "vitrail" / name).exists(), f"{document} names {name}"


def test_the_images_of_the_demo_are_one_of_each_digit(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "demo_images.py", tmp_path / "images"]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    paths = sorted((tmp_path / "images").glob("*.png"))
    assert [path.name.split("-")[1] for path in paths] == list("0123456789")
    for path in paths:
        with Image.open(path) as image:
            assert image.mode == "L"
            assert np.ptp(np.array(image)) > 100  # a picture, not a blank
