"""What is chosen when, what is kept, and what falls back to torch."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.runtime.test_graph import a_model, images_for
from vitrail.errors import ConfigError
from vitrail.model import ViT
from vitrail.runtime import EngineOptions, Translated, choice, choose, engines, find_batch_size, measure, torch_runtime

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIZE = (32, 32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vitrail" / "engines"


@pytest.fixture
def model() -> ViT:
    return a_model()


def test_little_work_stays_in_torch(model: ViT, cache: Path) -> None:
    chosen = choose(model, SIZE, EngineOptions(), num_images=10)
    assert (chosen.engine, chosen.precision) == ("torch", "fp32")
    assert not cache.exists()


def test_much_work_is_measured_once(model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "WORTH_MEASURING_S", 0.0)
    said: list[str] = []
    first = choose(model, SIZE, EngineOptions(), num_images=1000, on_wait=said.append)
    assert "measured now" in first.reason
    assert any("measuring" in line for line in said)
    said.clear()
    second = choose(model, SIZE, EngineOptions(), num_images=1000, on_wait=said.append)
    assert second.engine == first.engine
    assert "as measured before" in second.reason
    assert not said
    images = images_for(model, 5)
    assert torch.allclose(first.runtime(images), model(images)["logits"], atol=1e-4)


def test_the_translation_is_kept_and_a_damaged_one_made_again(model: ViT, cache: Path) -> None:
    asked = EngineOptions(engine="onnx")
    images = images_for(model, 2)
    expected = choose(model, SIZE, asked, num_images=1).runtime(images)
    (file,) = cache.glob("*.onnx")
    before = file.read_bytes()
    file.write_bytes(before[:-100])
    assert torch.equal(choose(model, SIZE, asked, num_images=1).runtime(images), expected)
    assert file.read_bytes() == before


def test_other_weights_are_another_file(model: ViT) -> None:
    path = Translated(model, SIZE).path
    assert Translated(model, SIZE).path == path
    assert Translated(model, SIZE, int8=True).path != path
    assert Translated(model, SIZE, merge=2).path != path
    assert Translated(model, (64, 64)).path != path
    model.head.bias.data[0] += 1
    assert Translated(model, SIZE).path != path


def test_an_engine_that_answers_otherwise_is_not_used(model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    real = engines.start
    monkeypatch.setattr(choice, "start", lambda *a: lambda images: real(*a)(images) + 0.01)
    chosen = choose(model, SIZE, EngineOptions(engine="onnx"), num_images=1)
    assert chosen.engine == "torch"
    assert "differ" in chosen.reason


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_numbers_that_are_not_finite_are_never_used(
    model: ViT, precision: Literal["fp32", "int8"], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engines.start
    monkeypatch.setattr(choice, "start", lambda *a: lambda images: real(*a)(images) / 0)
    chosen = choose(model, SIZE, EngineOptions(precision=precision, engine="onnx"), num_images=1)
    assert (chosen.engine, chosen.precision) == ("torch", "fp32")


def test_tokens_are_merged_in_the_engine_that_is_chosen(model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_for(model, 5)
    merged = torch_runtime(model, SIZE, 3)(images)
    asked = choose(model, SIZE, EngineOptions(engine="onnx", merge=3), num_images=1)
    assert (asked.engine, asked.merge) == ("onnx", 3)
    assert torch.allclose(asked.runtime(images), merged, atol=1e-4)
    both = choose(model, SIZE, EngineOptions(precision="int8", merge=3), num_images=1)
    assert (both.engine, both.precision, both.merge) == ("onnx", "int8", 3)
    assert choose(model, SIZE, EngineOptions(merge=3), num_images=1).engine == "torch"
    monkeypatch.setattr(choice, "WORTH_MEASURING_S", 0.0)
    measured = choose(model, SIZE, EngineOptions(merge=3), num_images=1000)
    assert measured.merge == 3
    assert torch.allclose(measured.runtime(images), merged, atol=1e-4)


def test_a_model_that_cannot_be_translated_runs_in_torch(model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.runtime.graph.vit._MAX_BYTES", 10)
    chosen = choose(model, SIZE, EngineOptions(engine="onnx"), num_images=1)
    assert chosen.engine == "torch"
    assert "too large" in chosen.reason


def test_what_is_not_installed(model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install onnx onnxruntime"):
        choose(model, SIZE, EngineOptions(engine="onnx"), num_images=1)
    with pytest.raises(
        ConfigError, match=r"^--precision int8 runs in ONNX Runtime, and what that needs is not installed"
    ):
        choose(model, SIZE, EngineOptions(precision="int8"), num_images=1)
    assert choose(model, SIZE, EngineOptions(), num_images=10**9).engine == "torch"


@pytest.mark.parametrize(
    "options",
    [
        {"merge": -1},
        {"merge": 2, "precision": "int8", "engine": "torch"},
        {"engine": "openvino", "precision": "int8"},
    ],
)
def test_what_does_not_go_together(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EngineOptions(**options)  # type: ignore[arg-type]


def test_the_batch_size_is_measured_once(model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = torch_runtime(model, SIZE)
    assert find_batch_size(runtime, "torch", model, SIZE, num_images=10, default=64) == 64
    monkeypatch.setattr(measure, "WORTH_MEASURING_S", 0.0)
    found = find_batch_size(runtime, "torch", model, SIZE, num_images=64, default=500)
    assert 1 <= found <= 64
    monkeypatch.setattr(measure, "_timed", lambda runtime, images: 1 / 0 if len(images) > 2 else 1.0)
    assert find_batch_size(runtime, "torch", model, SIZE, num_images=64, default=500) == found
