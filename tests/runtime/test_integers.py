"""int8 is right on every processor, or refused: no sum is cut off unnoticed."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runtime.test_graph import INT8_TOLERANCE, a_model, images_for, relative
from vitrail.runtime import EngineOptions, choose, integers, start, torch_runtime
from vitrail.runtime.graph import onnx_bytes

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
SIZE = (32, 32)


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    integers.exact_settings.cache_clear()
    yield
    integers.exact_settings.cache_clear()


def right(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (activations.astype(np.int64) @ weights.astype(np.int64)).astype(np.float32)


def cut_off(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As processors without dot products of bytes multiply: sums of pairs end at 16 bits."""
    lowest = activations.min()
    codes = (activations - lowest).astype(np.int64)
    total = np.zeros((len(activations), weights.shape[1]), np.int64)
    for k in range(0, len(weights), 2):
        pairs = codes[:, k : k + 2] @ weights[k : k + 2].astype(np.int64)
        total += pairs.clip(-(2**15), 2**15 - 1)
    return (total + lowest.astype(np.int64) * weights.astype(np.int64).sum(0)).astype(np.float32)


def wrong_with_all_settings(
    activations: np.ndarray, weights: np.ndarray, *, settings: integers.Settings = ()
) -> np.ndarray:
    return cut_off(activations, weights)


def test_cut_off_sums_are_seen() -> None:
    assert integers.is_exact(right)
    assert not integers.is_exact(cut_off)
    assert not integers.is_exact(lambda x, w: cut_off(x, w) if len(x) == 1 else right(x, w))
    assert not integers.is_exact(lambda x, w: right(x, w) if len(x) == 1 else cut_off(x, w))


def test_seven_bits_would_not_be_cut_off() -> None:
    """That the imitation cuts off what the processors do, and nothing else."""
    random = np.random.default_rng(1)
    activations = random.integers(0, 256, (5, 64)).astype(np.float32)
    for most, same in ((64, True), (127, False)):
        weights = random.integers(most - 8, most + 1, (64, 9)).astype(np.int8)
        activations[0, :2] = 0, 255
        assert np.array_equal(cut_off(activations, weights), right(activations, weights)) is same


def test_products_are_exact_here() -> None:
    """With the settings that are used on this processor, whichever it is."""
    settings = integers.exact_settings()
    assert integers.is_exact(lambda x, w: integers.product(x, w, settings=settings))


def test_where_the_fast_products_are_wrong_others_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, real, opened = a_model(), integers.product, list[integers.Settings]()
    monkeypatch.setattr(
        integers, "product", lambda x, w, *, settings=(): real(x, w, settings=settings) if settings else cut_off(x, w)
    )
    open_session = integers.session

    def noted(file: bytes, settings: integers.Settings, threads: int) -> object:
        opened.append(settings)
        return open_session(file, settings, threads)

    monkeypatch.setattr("vitrail.runtime.engines.open_session", noted)
    file, images = onnx_bytes(model, SIZE, int8=True), images_for(model, 4)
    other = start("onnx", file)(images)
    start("onnx", onnx_bytes(model, SIZE))
    assert opened == [(("session.x64quantprecision", "1"),), ()]
    assert relative(torch_runtime(model, SIZE)(images), other) < INT8_TOLERANCE
    monkeypatch.undo()
    integers.exact_settings.cache_clear()
    assert torch.equal(start("onnx", file)(images), other)


def test_where_all_products_are_wrong_int8_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(integers, "product", wrong_with_all_settings)
    model, images = a_model(), images_for(a_model(), 3)
    chosen = choose(model, SIZE, EngineOptions(precision="int8"), num_images=3)
    assert (chosen.engine, chosen.precision) == ("torch", "fp32")
    assert "wrong on this processor" in chosen.reason
    assert torch.equal(chosen.runtime(images), torch_runtime(model, SIZE)(images))
    assert choose(model, SIZE, EngineOptions(engine="onnx"), num_images=3).engine == "onnx"


@pytest.mark.slow
@pytest.mark.timeout(600)  # emulated
@pytest.mark.parametrize("processor", ["Haswell", "Nehalem"])
def test_processors_without_dot_products(processor: str) -> None:
    """Emulated; where ONNX Runtime's fast products are wrong (Haswell) the test is of the others."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("no qemu-x86_64 (qemu-user)")
    which = "tests/runtime/test_graph.py::test_integer_arithmetic_is_close_and_is_another"
    command = [emulator, "-cpu", processor, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", which]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=570)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "5 passed" in done.stdout
