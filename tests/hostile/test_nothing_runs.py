"""No code of a stranger runs: folders and files that bring some, through every command that opens them.

The commands run in one process of its own, where a hook of the interpreter sees each module, each piece of code and
each process that comes from the stranger's folder, and every connection; and answers y to whoever asks.
"""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.folders import image_folder
from tests.support.random_vit import random_vit
from vitrail import weights
from vitrail.config import Preprocessing
from vitrail.weights import Card

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.unchecked

WATCH = """
import json, sys
folder, commands = sys.argv[1], json.loads(sys.argv[2])
seen = []
PROCESSES = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen"}
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
OURS = ("'git'", "'uname'", "ldconfig", "/sbin/ldconfig")

def hook(event, details):
    if event == "exec" and folder in str(details[0].co_filename):
        seen.append(f"code of {details[0].co_filename}")
    elif event == "import" and folder in str(details[:2]):
        seen.append(f"module {details[:2]}")
    elif event in PROCESSES and (folder in str(details) or not any(name in str(details) for name in OURS)):
        seen.append(f"{event} {details}"[:300])
    elif event in NETWORK:
        seen.append(f"{event} {details}"[:300])

import tests.support.torchvision_operators  # before transformers
sys.addaudithook(hook)
from vitrail.cli import main
statuses = [main(words) for words in commands]
print("seen " + json.dumps([statuses, seen]))
"""


class Payload:
    """Makes a folder, when it is unpickled by something that calls what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def _huggingface(folder: Path) -> Path:
    model = random_vit()
    preprocessing = Preprocessing(image_size=(16, 16), decode_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    card = Card(geometry=model.config, classes=tuple("abcde"), preprocessing=preprocessing)
    weights.write(folder, model, card, "huggingface")
    (folder / "evil.py").write_text(
        f"import os\nos.mkdir({str(folder.parent / 'it-ran')!r})\nclass Model: pass\nConfig = Processor = Model\n"
    )
    return folder


def _with(name: str, **changes: Any) -> Callable[[Path], Path]:
    """A folder in which one of the JSON files says something more."""

    def make(folder: Path) -> Path:
        file = _huggingface(folder) / name
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | changes))
        return folder

    return make


_CONFIG = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForImageClassification": "evil.Model"}
FOLDERS: dict[str, Callable[[Path], Path]] = {
    "honest": _huggingface,
    "config": _with("config.json", auto_map=_CONFIG),
    "other type": _with("config.json", auto_map=_CONFIG, model_type="evil"),
    "preprocessor": _with("preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Processor"}),
    "processor": _with(
        "processor_config.json",
        image_processor={"auto_map": {"AutoImageProcessor": "evil.Processor"}},
        auto_map={"AutoProcessor": "evil.Processor"},
    ),
    "tokenizer": _with("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Model", None]}),
    "attention": _with("config.json", attn_implementation="evil/kernel", _attn_implementation="evil/kernel"),
    "adapter": _with("adapter_config.json", base_model_name_or_path="evil/base", peft_type="LORA"),
}


def _torch(folder: Path, *, zipped: bool) -> Path:
    folder.mkdir()
    path = folder / "weights.pt"
    torch.save({"a": torch.zeros(3), "b": Payload(folder / "it-ran")}, path, _use_new_zipfile_serialization=zipped)
    return path


def _plain_pickle(folder: Path) -> Path:
    folder.mkdir()
    (folder / "weights.pt").write_bytes(pickle.dumps({"a": Payload(folder / "it-ran")}, 2))
    return folder / "weights.pt"


def _npz(folder: Path) -> Path:
    folder.mkdir()
    array = np.array([Payload(folder / "it-ran")], dtype=object)
    np.savez(folder / "weights.npz", a=array)
    return folder / "weights.npz"


def _npz_outside(folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "weights.npz", "w") as archive:
        archive.writestr("../it-ran/a.npy", b"x")
    return folder / "weights.npz"


FILES: dict[str, Callable[[Path], Path]] = {
    "zip": lambda folder: _torch(folder, zipped=True),
    "old": lambda folder: _torch(folder, zipped=False),
    "plain": _plain_pickle,
    "npz": _npz,
    "npz-outside": _npz_outside,
}


@pytest.mark.timeout(600)
def test_no_code_of_a_stranger_runs(tmp_path: Path) -> None:
    images = str(image_folder(tmp_path / "images", {f"{split}/{c}": 2 for split in ("train", "test") for c in "ab"}))
    image = str(next((tmp_path / "images" / "test" / "a").iterdir()))
    commands: list[tuple[str, ...]] = []
    for name, make in (FOLDERS | FILES).items():
        path = str(make(tmp_path / name))
        commands += [
            ("convert", path, str(tmp_path / f"{name}.safetensors"), "--to", "vitrail", "--verify"),
            ("inspect", path),
            ("predict", path, image, "--device", "cpu"),
            ("eval", path, "--data", images, "--device", "cpu"),
            ("finetune", path, "--data", images, "--settings"),
        ]
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps({b"label_names": Payload(folder / "it-ran")}, 2))
    commands.append(("data", "info", "cifar10", "--data-root", str(tmp_path)))
    env = os.environ | {"HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(tmp_path), json.dumps(commands)],
        cwd=tmp_path, env=env, input="y\n" * 1000, capture_output=True, text=True, check=False, timeout=590,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("seen "))
    statuses, seen = json.loads(line.removeprefix("seen "))
    assert not seen
    assert not list(tmp_path.rglob("it-ran"))
    told = {words[:2]: status for words, status in zip(map(tuple, commands), statuses, strict=True)}
    assert set(statuses) <= {0, 2}, told
    assert [told["convert", str(tmp_path / name)] for name in FOLDERS] == [0, *[2] * 7], done.stderr
    for why in (
        "config.json asks",
        "preprocessor_config.json asks",
        "tokenizer_config.json asks",
        "(attn_impl",
        "adapter",
    ):
        assert why in done.stderr
