"""Nothing is reported to anybody: commands on local files open no connection, and engines do not report their use.

Each case is a fresh process whose environment looks like a user's: libraries that report keep quiet where they see
that they are tested. What native code does is seen by what it would leave in the user's folder.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.folders import write_images
from tests.support.random_vit import random_vit
from vitrail.config import Preprocessing
from vitrail.weights import Card, save

ROOT = Path(__file__).resolve().parents[2]
SAYS_TESTED = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "HF_HUB_OFFLINE")
LOCAL = ("('git', ", "('uname', ")  # the commit and the processor, which a run records
WATCH = """
import atexit, json, sys
seen = []
NAMES = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind", "os.system",
         "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen")
sys.addaudithook(lambda event, details: event in NAMES and seen.append([event, repr(details)[:300]]))
atexit.register(lambda: print("seen " + json.dumps(seen)))  # when other threads have ended
"""


def seen_by(code: str, home: Path, *args: str) -> list[list[str]]:
    """Connections and processes that code starts; nothing foreign may be left in the user's folder."""
    env = {name: value for name, value in os.environ.items() if name not in SAYS_TESTED}
    env |= {"HOME": str(home), "USERPROFILE": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-c", WATCH + code, *args]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    left = {path.name for folder in (home, home / ".cache") if folder.is_dir() for path in folder.iterdir()}
    assert left <= {".cache", "vitrail", "huggingface", "torch"}
    line = next(line for line in done.stdout.splitlines() if line.startswith("seen "))
    return json.loads(line.removeprefix("seen "))


def seen_of(home: Path, *verbs: tuple[str, ...]) -> list[list[str]]:
    """The same for commands of vitrail, one after another."""
    code = (
        "from vitrail.runtime import choice, measure\n"
        "choice.WORTH_MEASURING_S = measure.WORTH_MEASURING_S = 0.0\n"
        "from vitrail.cli import main\n"
        "for verb in json.loads(sys.argv[1]):\n"
        "    assert main(verb) == 0\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    seen = seen_by(code, home, json.dumps(verbs))
    return [event for event in seen if not any(name in event[1] for name in LOCAL)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("silence") / "model.safetensors"
    size: dict[str, Any] = {"image_size": 8, "num_channels": 1, "num_labels": 10}
    vit = random_vit(**size, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    classes = tuple(str(number) for number in range(10))
    preprocessing = Preprocessing(image_size=(8, 8), decode_size=(8, 8), channels="L", mean=(0.5,), std=(0.5,))
    save(path, vit, Card(geometry=vit.config, classes=classes, preprocessing=preprocessing))
    return path


def test_the_watch_sees(tmp_path: Path) -> None:
    code = "import socket, subprocess\nsubprocess.run([sys.executable, '-c', ''])\n"
    code += "try:\n    socket.create_connection(('127.0.0.1', 9), 0.1)\nexcept OSError:\n    pass\n"
    names = {event for event, _ in seen_by(code, tmp_path)}
    assert {"subprocess.Popen", "socket.connect", "socket.getaddrinfo"} <= names


def test_every_module_is_imported_in_silence(tmp_path: Path) -> None:
    code = (
        "import importlib, pkgutil, vitrail\n"
        "for module in pkgutil.walk_packages(vitrail.__path__, 'vitrail.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
    )
    assert seen_by(code, tmp_path) == []


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_a_library_that_is_there_already_is_left_alone(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.runtime import libraries

    users = object()
    monkeypatch.setitem(sys.modules, library, users)  # type: ignore[arg-type]
    assert getattr(libraries, library)() is users


def test_evaluation_and_prediction_are_silent(model: Path, tmp_path: Path) -> None:
    """With `auto` every engine that is installed is started and measured."""
    image = write_images(tmp_path / "images", 1)[0]
    evaluation = ("eval", str(model), "--data", "digits")
    verbs = [(*evaluation, "--engine", "auto"), ("predict", str(model), str(image))]
    if importlib.util.find_spec("openvino"):
        verbs.append((*evaluation, "--engine", "openvino"))
    if importlib.util.find_spec("onnxruntime"):
        verbs.append((*evaluation, "--precision", "int8"))
    assert seen_of(tmp_path / "home", *verbs) == []


def test_training_is_silent(tmp_path: Path) -> None:
    size = ("--model.num-hidden-layers", "1", "--model.hidden-size", "16", "--model.num-attention-heads", "2")
    verb = ("train", "digits", "--run", str(tmp_path / "run"), "--schedule.epochs", "1", *size)
    assert seen_of(tmp_path / "home", verb) == []
