"""Weight files of any kind, damaged and hostile ones among them: tensors, or one clear line, quickly."""

import argparse
import io
import json
import os
import pickle
import sys
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from vitrail.errors import WeightsError
from vitrail.weights.files import open_source

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def opened(path: Path) -> dict[str, torch.Tensor]:
    return open_source(path).tensors


def refused(path: Path) -> str:
    started = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        open_source(path)
    assert time.perf_counter() - started < 2
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_container_gives_its_tensors(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in STATE.items()}
    safetensors.torch.save_file(state, tmp_path / "a.any")
    torch.save(state, tmp_path / "b.any")
    torch.save(state, tmp_path / "c.any", _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "d.safetensors")
    for name, kind in (("a.any", "safetensors"), ("b.any", "torch"), ("c.any", "torch"), ("d.safetensors", "torch")):
        source = open_source(tmp_path / name)
        assert source.container == kind
        assert source.tensors.keys() == state.keys()
        assert all(torch.equal(source.tensors[n], state[n]) for n in state)
        assert len(source.sha256) == 64


def test_npz_and_its_bfloat16(tmp_path: Path) -> None:
    values = torch.randn(4, 3).bfloat16()
    np.savez(
        tmp_path / "a.npz",
        **{
            "x/kernel": values.float().numpy(),
            "x/half": values.view(torch.int16).numpy().view("V2"),
            "x/fortran": np.asfortranarray(values.float().numpy()),
            "x/scalar": np.float32(3),
        },
    )
    tensors = opened(tmp_path / "a.npz")
    assert torch.equal(tensors["x/kernel"], values.float())
    assert torch.equal(tensors["x/half"], values.float())
    assert torch.equal(tensors["x/fortran"], values.float())
    assert tensors["x/scalar"].shape == ()


def test_dictionaries_of_a_training_file_become_prefixes(tmp_path: Path) -> None:
    torch.save(
        {
            "state_dict": STATE,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
            "args": argparse.Namespace(model="vit", lr=1e-3),
            "epoch": 3,
            "accuracy": np.float64(91.5),
            "loss": torch.tensor(0.25),
            "best": float("nan"),
            "note": "run\nvitrail: all is well",
        },
        tmp_path / "a.pth.tar",
    )
    source = open_source(tmp_path / "a.pth.tar")
    assert source.tensors.keys() == {"state_dict.a.weight", "state_dict.a.bias", "optimizer.state.0.exp_avg", "loss"}
    assert source.nested == source.tensors.keys() - {"loss"}
    assert source.told == {"epoch": 3, "accuracy": 91.5, "loss": 0.25, "note": "run\\nvitrail: all is well"}


def test_settings_of_lightning_are_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lightning.fabric.utilities.data")
    settings = type("AttributeDict", (dict,), {"__module__": module.__name__})
    module.AttributeDict = settings  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        for name in ("lightning", "lightning.fabric", "lightning.fabric.utilities"):
            patched.setitem(sys.modules, name, types.ModuleType(name))
        patched.setitem(sys.modules, module.__name__, module)
        torch.save(
            {"state_dict": STATE, "hyper_parameters": settings(lr=0.1), "callbacks": {"best": {"dirpath": tmp_path}}},
            tmp_path / "a.ckpt",
        )
    assert opened(tmp_path / "a.ckpt").keys() == {f"state_dict.{name}" for name in STATE}


def test_shards_are_read_together_or_not_at_all(tmp_path: Path) -> None:
    shards = {"model-1.safetensors": ["a.weight"], "model-2.safetensors": ["a.bias"]}
    for shard, names in shards.items():
        safetensors.torch.save_file({n: STATE[n] for n in names}, tmp_path / shard)
    index = {"weight_map": {n: shard for shard, names in shards.items() for n in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert opened(tmp_path).keys() == STATE.keys()
    (tmp_path / "model-2.safetensors").rename(tmp_path / "elsewhere.safetensors")
    assert "a.bias" in refused(tmp_path)
    index["weight_map"]["a.bias"] = "../model-2.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "../model-2.safetensors" in refused(tmp_path)
    index["weight_map"]["a.bias"] = "model-1.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "other tensors than the index" in refused(tmp_path)


class Runs:
    """A pickle of this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_never_runs(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "it-ran"
    torch.save({"a": Runs(mark)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Runs(mark)))
    assert "more than tensors" in refused(tmp_path / "a.pt")
    refused(tmp_path / "plain.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808, 0), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), \0",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1",
        "{'descr': [('a', '<f4', (2, 2))], 'fortran_order': False, 'shape': (0,), }",
    ],
)
def test_a_header_of_an_array_that_no_array_has(tmp_path: Path, header: str) -> None:
    text = header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    assert "array a.npy" in refused(tmp_path / "a.npz")


def test_python_objects_in_npz_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    np.savez(tmp_path / "a.npz", a=np.array([Runs(mark)], dtype=object))
    assert "Python objects" in refused(tmp_path / "a.npz")
    assert not mark.exists()


def test_bombs_and_lies_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as honest,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
    ):
        for member in honest.infolist():
            bomb.writestr(member.filename, honest.read(member))
        bomb.writestr("a/data/99", bytes(200 << 20))
    assert "grow far beyond" in refused(tmp_path / "bomb.pt")

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(64))
    assert "larger than it is" in refused(tmp_path / "lie.npz")
    (tmp_path / "huge.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{" + bytes(600))
    assert "header" in refused(tmp_path / "huge.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"hello", "no weight file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(30), "HDF5, of Keras"),
        (b"GGUF" + bytes(30), "GGUF"),
        (b"\x1c\0\0\0TFL3" + bytes(30), "TensorFlow Lite"),
        (b"\x08\x08\x12\x07pytorch" + bytes(30), "an ONNX export"),
        (b"\x1f\x8b\x08" + bytes(30), "Unpack it first"),
        (bytes(257) + b"ustar" + bytes(30), "a tar archive"),
        (pickle.dumps({"a": [1, 2]}), "a Python pickle"),
        (b"PK\x03\x04broken", "damaged archive"),
        (b"\x80\x02broken", "torch file"),
    ],
)
def test_what_is_no_weight_file_is_called_so(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    assert message in refused(tmp_path / "a.safetensors")


def test_programs_and_archives_are_called_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for member in ("vit/data.pkl", "vit/code/__torch__.py", "vit/constants.pkl"):
            archive.writestr(member, bytes(10))
    assert "a TorchScript program" in refused(tmp_path / "a.pt")
    for member, message in (("model.weights.h5", "a model of Keras"), ("weights/model.bin", "Unpack it first")):
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            archive.writestr(member, bytes(10))
        assert message in refused(tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("adapter_config.json", "merge_and_unload"),
        ("saved_model.pb", "a SavedModel"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("vit.onnx", "ONNX"),
        ("checkpoint-500/model.safetensors", "checkpoint-500"),
    ],
)
def test_folders_of_other_things_are_called_so(tmp_path: Path, inside: str, message: str) -> None:
    (tmp_path / inside).parent.mkdir(exist_ok=True)
    (tmp_path / inside).write_bytes(b"{}")
    assert message in refused(tmp_path)


def test_what_a_trainer_puts_beside_the_weights_is_not_taken_for_them(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "weights.safetensors")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "optimizer.bin", "scaler.pt"):
        (tmp_path / name).write_bytes(b"no weights")
    assert opened(tmp_path).keys() == STATE.keys()


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "a")
    torch.save(STATE, tmp_path / "b")
    torch.save(STATE, tmp_path / "c", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "d.npz", **{n: t.numpy() for n, t in STATE.items()})
    for name in ("a", "b", "c", "d.npz"):
        whole = (tmp_path / name).read_bytes()
        for part in range(1, 10):
            (tmp_path / "cut").write_bytes(whole[: len(whole) * part // 10])
            refused(tmp_path / "cut")


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    torch.save({**STATE, "b": [1, 2]}, tmp_path / "a")
    assert "'b' is no tensor" in refused(tmp_path / "a")
    torch.save({**STATE, "fc._packed_params.dtype": torch.qint8}, tmp_path / "a")
    assert "a quantised model" in refused(tmp_path / "a")
    torch.save([1, 2], tmp_path / "a")
    assert "holds no dictionary" in refused(tmp_path / "a")


def test_folders_without_weights_or_with_too_many(tmp_path: Path) -> None:
    assert "no weights here" in refused(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        safetensors.torch.save_file(STATE, tmp_path / name)
    assert "a.safetensors, b.safetensors" in refused(tmp_path)


def test_a_damaged_configuration_is_an_error(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in refused(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "not a JSON object" in refused(tmp_path)


def test_a_hub_id_is_fetched_once_the_better_container_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any(pattern.endswith(".py") for pattern in allow_patterns)
        if "pytorch_model.bin" in allow_patterns:
            torch.save(STATE, tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert open_source("owner/name@v1").tensors.keys() == STATE.keys()
    assert asked == [("owner/name", "v1")] * 2


def test_without_a_network_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="the cache does not hold it"):
        open_source("owner/no-such-model-anywhere")
    with pytest.raises(WeightsError, match="no weights here"):
        open_source(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    "name", ["runs/mien", "./x/y", "a/b/c", "here/model", "owner/model.safetensors", "owner/m.pth"]
)
def test_a_mistyped_path_asks_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    asked: list[object] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **_: asked.append(a))
    with pytest.raises(WeightsError, match="no weights here"):
        open_source(name)
    assert not asked


def test_a_mistyped_run_is_pointed_to_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(WeightsError, match="Did you mean runs/mine"):
        open_source("runs/mien")
