"""Translated models give the model's logits, whatever the geometry, the batch and the image size."""

import pytest
import torch

from tests.support.random_vit import random_vit
from vitrail.config.checks import pair
from vitrail.errors import ConfigError
from vitrail.model import ViT
from vitrail.runtime import start, torch_runtime
from vitrail.runtime.graph import onnx_bytes

pytest.importorskip("onnx")
ONNX_TOLERANCE = 2e-5  # relative to the largest logit; sums are added in another order
INT8_TOLERANCE = 0.2

SMALL = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "oblong": {"image_size": (16, 32), "patch_size": (8, 4)},
    "mean, no class token": {"pooling": "mean", "use_class_token": False, "final_norm": "pooled"},
    "mean beside a class token": {"pooling": "mean", "final_norm": "pooled"},
    "max": {"pooling": "max"},
    "mean_max": {"pooling": "mean_max", "final_norm": "pooled"},
    "map": {"pooling": "map", "use_class_token": False},
    "cls_mean": {"pooling": "cls_mean"},
    "cls_dist": {"pooling": "cls_dist", "use_distillation_token": True},
    "registers": {"num_registers": 3, "layer_scale": 0.1},
    "patch positions only": {"prefix_positions": False, "num_registers": 2},
    "sincos, grey": {"position": "sincos", "num_channels": 1},
    "swiglu": {"activation": "swiglu", "qk_norm": True},
    "gelu_tanh": {"activation": "gelu_tanh", "qkv_bias": False},
    "quick_gelu": {"activation": "quick_gelu", "attention_scale": 0.3},
    "stem": {"stem_channels": (8, 16), "stem_strides": (2, 1), "stem_pools": (1, 2), "patch_size": 2},
    "features": {"num_labels": 0},
    "dropout": {"embedding_dropout": 0.1, "projection_dropout": 0.1, "stochastic_depth": 0.1},
}


def a_model(**changes: object) -> ViT:
    return random_vit(**{**SMALL, "num_labels": 10, **changes})


def images_for(model: ViT, count: int, size: tuple[int, int] | None = None) -> torch.Tensor:
    height, width = size or pair(model.config.image_size)
    return torch.randn(count, model.config.num_channels, height, width, generator=torch.Generator().manual_seed(3))


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / ours.abs().max())


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_geometry_gives_the_models_logits(engine: str, variant: str) -> None:
    pytest.importorskip("onnxruntime" if engine == "onnx" else engine)
    model = a_model(**VARIANTS[variant])
    size = pair(model.config.image_size)
    runtime, plain = start(engine, onnx_bytes(model, size)), torch_runtime(model, size)
    for count in (3, 1):
        images = images_for(model, count)
        assert relative(plain(images), runtime(images)) < ONNX_TOLERANCE


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize(("variant", "count"), [*((name, 3) for name in VARIANTS), ("plain", 1), ("plain", 100)])
def test_the_same_tokens_are_merged(engine: str, variant: str, count: int) -> None:
    """With a layer more, so that merged tokens are merged again: 16 patches, at most 8, 12 and 14 of them gone."""
    pytest.importorskip("onnxruntime" if engine == "onnx" else engine)
    model = a_model(**{"num_hidden_layers": 3, **VARIANTS[variant]})
    size = pair(model.config.image_size)
    runtime, plain = start(engine, onnx_bytes(model, size, merge=count)), torch_runtime(model, size, count)
    for batch in (3, 1):
        images = images_for(model, batch)
        assert relative(plain(images), runtime(images)) < ONNX_TOLERANCE
        assert relative(torch_runtime(model, size)(images), runtime(images)) > ONNX_TOLERANCE


@pytest.mark.parametrize("variant", ["plain", "swiglu", "map", "mean, no class token"])
def test_merging_and_integer_arithmetic(variant: str) -> None:
    pytest.importorskip("onnxruntime")
    model = a_model(**VARIANTS[variant])
    size = pair(model.config.image_size)
    images = images_for(model, 4)
    plain, runtime = torch_runtime(model, size, 3)(images), start("onnx", onnx_bytes(model, size, int8=True, merge=3))
    assert ONNX_TOLERANCE < relative(plain, runtime(images)) < INT8_TOLERANCE


@pytest.mark.parametrize("variant", ["plain", "sincos, grey", "mean, no class token"])
def test_another_image_size(variant: str) -> None:
    pytest.importorskip("onnxruntime")
    model = a_model(**VARIANTS[variant])
    images = images_for(model, 2, (40, 24))
    runtime = start("onnx", onnx_bytes(model, (40, 24)))
    assert relative(torch_runtime(model, (40, 24))(images), runtime(images)) < ONNX_TOLERANCE


@pytest.mark.parametrize("variant", ["plain", "swiglu", "map", "stem", "gelu_tanh"])
def test_integer_arithmetic_is_close_and_is_another(variant: str) -> None:
    pytest.importorskip("onnxruntime")
    model = a_model(**VARIANTS[variant])
    size = pair(model.config.image_size)
    images = images_for(model, 4)
    plain, whole = torch_runtime(model, size)(images), start("onnx", onnx_bytes(model, size, int8=True))(images)
    assert ONNX_TOLERANCE < relative(plain, whole) < INT8_TOLERANCE
    assert len(onnx_bytes(model, size, int8=True)) < 0.6 * len(onnx_bytes(model, size))


def test_too_large_for_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.runtime.graph.vit._MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="--engine torch"):
        onnx_bytes(a_model(), (32, 32))


def test_no_merging_is_the_model_itself() -> None:
    model, images = a_model(), images_for(a_model(), 2)
    with torch.inference_mode():
        assert torch.equal(torch_runtime(model, (32, 32), 0)(images), model(images)["logits"])
