"""The gate of scripts/check_calls.py stops what it should, lets pass what it should, and the package passes it."""

from pathlib import Path

import pytest

from scripts.check_calls import DECODES, SHOWS, TITLED, UNSAFE, WRITES, main, violations

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "vitrail"

FORBIDDEN = [
    ('open(path, "w")', WRITES),
    ("open(path, mode)", WRITES),
    ('open(path, mode="r+b")', WRITES),
    ('path.open("ab")', WRITES),
    ('path.write_text("x")', WRITES),
    ("path.write_bytes(b'x')", WRITES),
    ("path.mkdir(parents=True)", WRITES),
    ("path.unlink()", WRITES),
    ("path.rename(other)", WRITES),
    ("path.replace(other)", WRITES),
    ("import os; os.replace(a, b)", WRITES),
    ("from os import remove as delete; delete(a)", WRITES),
    ("import os; os.makedirs(a)", WRITES),
    ("import shutil; shutil.rmtree(a)", WRITES),
    ("from shutil import copyfile; copyfile(a, b)", WRITES),
    ("import tempfile; tempfile.mkdtemp()", WRITES),
    ("import torch; torch.save(a, b)", WRITES),
    ("from safetensors.torch import save_file; save_file(a, b)", WRITES),
    ("import numpy as np; np.save(a, b)", WRITES),
    ('import numpy as np; np.memmap(a, np.uint8, "w+")', WRITES),
    ("import numpy as np; np.memmap(a)", WRITES),
    ('import zipfile; zipfile.ZipFile(a, "w")', WRITES),
    ("from PIL import Image; Image.open(a)", DECODES),
    ("archive.extractall(folder)", UNSAFE),
    ("import pickle; pickle.load(file)", UNSAFE),
    ("from pickle import loads; loads(data)", UNSAFE),
    ("import torch; torch.load(a)", UNSAFE),
    ("import torch; torch.load(a, weights_only=False)", UNSAFE),
    ("import numpy as np; np.load(a, allow_pickle=True)", UNSAFE),
    ("print(name)", SHOWS),
    ("import sys; sys.stderr.write(name)", SHOWS),
    ("import traceback; traceback.print_exc()", SHOWS),
    ("from tqdm import tqdm; tqdm(files, desc=name)", TITLED),
    ("eval(text)", UNSAFE),
    ("exec(text)", UNSAFE),
]
FREE = [
    "open(path)",
    'open(path, "rb")',
    'path.open("rb")',
    'text.replace("a", "b")',
    "import dataclasses; dataclasses.replace(config, seed=1)",
    "from vitrail import fsio; fsio.write_bytes(path, data)",
    "model.eval()",
    "from tqdm import tqdm; from vitrail.errors import shown; tqdm(files, desc=name and shown(name))",
    "import torch; torch.load(a, weights_only=True)",
    "import numpy as np; np.load(a)",
    'import numpy as np; np.memmap(a, np.uint8, "r")',
    "import tarfile; tarfile.open(path)",
]


@pytest.mark.parametrize(("source", "why"), FORBIDDEN)
def test_stops(source: str, why: str) -> None:
    assert [v.why for v in violations(source, "engine/train.py")] == [why]


@pytest.mark.parametrize("source", FREE)
def test_lets_pass(source: str) -> None:
    assert not list(violations(source, "engine/train.py"))


def test_each_call_is_free_in_its_home_alone() -> None:
    assert not list(violations('open(path, "w")', "fsio.py"))
    assert list(violations('open(path, "w")', "run/fsio.py"))
    assert not list(violations("from PIL import Image; Image.open(a)", "data/decode.py"))
    assert list(violations("exec(text)", "fsio.py"))


def test_the_package_passes(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(PACKAGE)
    assert status == 0, capsys.readouterr().out
