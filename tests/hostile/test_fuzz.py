"""Mutants of honest weights, descriptions, sidecars and runs: an answer or one error, in bounded time and memory.

20,000 weight files, 20,000 JSON documents and 10,000 run directories; VITRAIL_FUZZ_WEIGHTS, VITRAIL_FUZZ_JSON and
VITRAIL_FUZZ_RUNS ask for fewer in each test. Mutant number N is the same on every machine.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.support.headers import parts_of
from tests.support.hostile import run_mutants
from tests.support.hostile_runs import make_runs, use_run
from tests.support.random_vit import random_vit
from vitrail import weights
from vitrail.config import Preprocessing, RunConfig, to_json
from vitrail.selftest.fork_server import ForkServer
from vitrail.weights import Card
from vitrail.weights.families import dinov2, google, reference

pytestmark = [pytest.mark.slow, pytest.mark.unchecked]

GEOMETRY = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8}


def _save(folder: Path, to: str) -> Path:
    model = random_vit(**GEOMETRY)
    preprocessing = Preprocessing(image_size=(8, 8), decode_size=(8, 8), mean=(0.4, 0.5, 0.6))
    card = Card(geometry=model.config, classes=tuple("abcde"), preprocessing=preprocessing, metrics={"accuracy": 0.5})
    weights.write(folder, model, card, to)  # type: ignore[arg-type]
    return folder


def _sharded(folder: Path) -> None:
    """The folder's weights in two files with an index."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        safetensors.torch.save_file({n: tensors[n] for n in names if where[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def weight_files(folder: Path) -> None:
    """One honest file of each container and form."""
    folder.mkdir()
    made = folder.parent / "made"
    _save(folder / "own.safetensors", "vitrail")
    shutil.copy(_save(made / "huggingface", "huggingface") / "model.safetensors", folder / "huggingface.safetensors")
    shutil.copy(_save(made / "timm", "timm") / "model.safetensors", folder / "timm.safetensors")
    state = random_vit(**GEOMETRY).state_dict()
    named = google.table(1, linen=True, big_vision=False).write(state)
    np.savez(folder / "google.npz", **{name: tensor.numpy() for name, tensor in named.items()})
    np.savez_compressed(folder / "small.npz", **{name: tensor.numpy() for name, tensor in named.items()})
    torch.save({"model": reference.TABLE.write(state), "epoch": 3}, folder / "zip.pth")
    torch.save(reference.TABLE.write(state), folder / "old.pth", _use_new_zipfile_serialization=False)
    features = random_vit(**GEOMETRY, layer_scale=0.3, use_mask_token=True, num_labels=0)
    torch.save(dinov2.META.write(features.state_dict()), folder / "dinov2.pth")


def folders(folder: Path) -> None:
    """Folders with JSON files beside the weights."""
    folder.mkdir()
    for to in ("huggingface", "timm"):
        _save(folder / to, to)
    _sharded(_save(folder / "sharded", "huggingface"))


def cards(folder: Path) -> None:
    """Model files of ours, as JSON: the mutants get their header put together again."""
    folder.mkdir()
    _save(folder / "own.safetensors", "vitrail")
    model, card = weights.load(_save(folder.parent / "made" / "huggingface", "huggingface"), num_labels=3)
    weights.save(folder / "converted.safetensors", model, replace(card, recipe=to_json(RunConfig())))


def test_the_honest_ones_load(tmp_path: Path) -> None:
    for make in (weight_files, folders, cards):
        make(tmp_path / make.__name__)
        for path in (tmp_path / make.__name__).iterdir():
            assert weights.load(path)[1].geometry.hidden_size == GEOMETRY["hidden_size"]
        shutil.rmtree(tmp_path / "made", ignore_errors=True)
    assert "vitrail" in parts_of(tmp_path / "cards" / "own.safetensors")[0]["__metadata__"]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.mark.parametrize(
    ("make", "target", "kind", "changed", "variable", "most"),
    [
        (weight_files, "weights", "bytes", "", "VITRAIL_FUZZ_WEIGHTS", 20_000),
        (folders, "weights", "json", "*.json", "VITRAIL_FUZZ_JSON", 10_000),
        (cards, "model", "card", "", "VITRAIL_FUZZ_JSON", 8_000),
        (cards, "model", "header", "", "VITRAIL_FUZZ_JSON", 2_000),
    ],
    ids=["weight files", "sidecars", "cards", "headers"],
)
def test_mutants(
    make: Callable[[Path], None],
    target: str,
    kind: str,
    changed: str,
    variable: str,
    most: int,
    server: ForkServer,
    tmp_path: Path,
) -> None:
    make(tmp_path / "seeds")
    job = {"target": target, "folder": str(tmp_path / "seeds"), "kind": kind, "changed": changed}
    run_mutants(server, "tests.support.hostile:attempt_mutants", job, variable, most, tmp_path / "log")


def test_honest_runs_are_used_without_an_error(tmp_path: Path) -> None:
    make_runs(tmp_path / "seeds")
    for run in (tmp_path / "seeds").iterdir():
        shutil.copytree(run, tmp_path / "work" / run.name)
        for use in use_run(tmp_path / "work" / run.name):
            use()


def test_runs(server: ForkServer, tmp_path: Path) -> None:
    made = server.run("tests.support.hostile_runs:make_runs", {"folder": str(tmp_path / "seeds")}, log=tmp_path / "log")
    assert made.statuses == [0], (tmp_path / "log").read_text()
    job = {"folder": str(tmp_path / "seeds")}
    run_mutants(server, "tests.support.hostile_runs:attempt_runs", job, "VITRAIL_FUZZ_RUNS", 10_000, tmp_path / "log")
