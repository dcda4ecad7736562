"""Translated models give the model's logits, whatever the geometry, the batch and the image size."""

import dataclasses
from typing import Literal, NamedTuple, get_args, get_origin, get_type_hints

import pytest
import torch

from tests.support.random_vit import random_vit
from vitrail.config import ViTConfig
from vitrail.config.checks import pair
from vitrail.errors import ConfigError
from vitrail.model import ViT
from vitrail.runtime import start, torch_runtime
from vitrail.runtime.graph import onnx_bytes

pytest.importorskip("onnx")
ONNX_TOLERANCE = 2e-5  # relative to the largest logit; sums are added in another order
CHANGED = 1e-4  # by more than this, relative to the largest logit, two values of a field differ
INT8_TOLERANCE = 0.2

SMALL = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OTHER_SIZE = (40, 24)


class Case(NamedTuple):
    """Values of one field, and what other fields they need."""

    values: tuple[object, ...]
    beside: dict[str, object]
    size: tuple[int, int] | None = None


def case(*values: object, size: tuple[int, int] | None = None, **beside: object) -> Case:
    return Case(values, beside, size)


_STEM = {"stem_channels": (8, 16), "stem_strides": (1, 1), "patch_size": 4}
CASES: dict[str, Case] = {
    "patch_size": case(8, 16, (8, 4)),
    "hidden_size": case(16, 32),
    "num_hidden_layers": case(1, 3),
    "num_attention_heads": case(2, 4),
    "mlp_ratio": case(1.5, 4.0),
    "qkv_bias": case(True, False),
    "attention_scale": case(None, 0.9),
    "activation": case("gelu", "gelu_tanh", "quick_gelu", "swiglu"),
    "pooling": case(
        "cls", "mean", "max", "mean_max", "map", "cls_mean", "cls_dist", use_distillation_token=True, num_registers=1
    ),
    "final_norm": case("tokens", "pooled", pooling="mean_max"),
    "use_class_token": case(True, False, pooling="mean"),
    "use_distillation_token": case(True, False),
    "num_registers": case(0, 3),
    "position": case("learned", "sincos"),
    "relative_positions": case(False, True, size=OTHER_SIZE, num_registers=1),
    "prefix_positions": case(True, False, num_registers=2, use_distillation_token=True),
    "position_resampling": case(
        "bicubic",
        "bicubic_antialias",
        "bicubic_scale",
        "bicubic_aligned",
        "bilinear",
        "bilinear_aligned",
        size=OTHER_SIZE,
    ),
    "layer_scale": case(0.0, 0.1),
    "qk_norm": case(True, False),
    "layer_norm_eps": case(1e-12, 0.5, qk_norm=True, pooling="map"),
    "stem_channels": case((4, 16), (8, 16), **{**_STEM, "stem_strides": (2, 1)}),
    "stem_strides": case((1, 2), (2, 1), **_STEM),
    "stem_pools": case((), (1, 2), (2, 1), **_STEM),
    "image_size": case(32, (16, 40)),
    "num_channels": case(1, 3),
    "num_labels": case(0, 10),
}
TRAINING_ONLY: dict[str, Case] = {
    "use_mask_token": case(True, False),
    "embedding_dropout": case(0.0, 0.5),
    "attention_dropout": case(0.0, 0.5),
    "projection_dropout": case(0.0, 0.5),
    "stochastic_depth": case(0.0, 0.5),
    "initializer_range": case(0.02, 0.5),
    "init": case("normal", "mimetic", "zero-residual"),
}
"""Fields that change how a model is trained, not what a trained one computes."""

VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "mean, no class token": {"pooling": "mean", "use_class_token": False, "final_norm": "pooled"},
    "mean_max": {"pooling": "mean_max", "qkv_bias": False, "num_registers": 2, "layer_scale": 0.1},
    "map": {"pooling": "map", "use_class_token": False},
    "swiglu": {"activation": "swiglu", "qk_norm": True},
    "gelu_tanh": {"activation": "gelu_tanh", "pooling": "cls_dist", "use_distillation_token": True},
    "quick_gelu": {"activation": "quick_gelu", "attention_scale": 0.3},
    "stem": {"stem_channels": (8, 16), "stem_strides": (2, 1), "stem_pools": (1, 2), "patch_size": 2},
}
"""Every kind of node, in few models."""


def a_model(**changes: object) -> ViT:
    return random_vit(**{**SMALL, "num_labels": 10, **changes})


def images_for(model: ViT, count: int, size: tuple[int, int] | None = None) -> torch.Tensor:
    height, width = size or pair(model.config.image_size)
    return torch.randn(count, model.config.num_channels, height, width, generator=torch.Generator().manual_seed(3))


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / ours.abs().max())


def test_every_field_of_the_configuration_has_a_case() -> None:
    """Whoever adds a field says here how the translation is tested with it; every choice and both truths are there."""
    cases = {**CASES, **TRAINING_ONLY}
    assert sorted(cases) == sorted(field.name for field in dataclasses.fields(ViTConfig))
    for name, annotation in get_type_hints(ViTConfig).items():
        choices = get_args(annotation) if get_origin(annotation) is Literal else (False, True)
        if annotation is bool or get_origin(annotation) is Literal:
            assert {*cases[name].values} == {*choices}, name
        assert len({*cases[name].values}) >= 2, name


@pytest.mark.parametrize("field", [*CASES, *TRAINING_ONLY])
def test_every_setting_gives_the_models_logits(field: str) -> None:
    """With every token and with merged ones; a field that matters must matter in its case, or nothing is tested."""
    pytest.importorskip("onnxruntime")
    values, beside, size = {**CASES, **TRAINING_ONLY}[field]
    answers: list[torch.Tensor] = []
    for value in values:
        model = a_model(**{**beside, field: value})
        pixels = size or pair(model.config.image_size)
        for merge in (0, 0 if model.config.relative_positions else 2):
            runtime = start("onnx", onnx_bytes(model, pixels, merge=merge))
            plain = torch_runtime(model, pixels, merge)
            for batch in (3, 1):
                images = images_for(model, batch, pixels)
                answers.append(plain(images))
                assert relative(answers[-1], runtime(images)) < ONNX_TOLERANCE, (value, merge, batch)
    exact = answers[::4]
    alike = [a.shape == b.shape and relative(a, b) < CHANGED for i, a in enumerate(exact) for b in exact[:i]]
    assert not any(alike) or field in TRAINING_ONLY


@pytest.mark.parametrize("merge", [0, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_openvino_reads_every_kind_of_node(variant: str, merge: int) -> None:
    pytest.importorskip("openvino")
    model = a_model(**VARIANTS[variant])
    size = pair(model.config.image_size)
    runtime, plain = start("openvino", onnx_bytes(model, size, merge=merge)), torch_runtime(model, size, merge)
    for batch in (3, 1):
        images = images_for(model, batch)
        assert relative(plain(images), runtime(images)) < ONNX_TOLERANCE


@pytest.mark.parametrize("count", [1, 3, 100])
def test_the_same_tokens_are_merged(count: int) -> None:
    """With a layer more, so that merged tokens are merged again: 16 patches, at most 8, 12 and 14 of them gone."""
    pytest.importorskip("onnxruntime")
    model = a_model(num_hidden_layers=3)
    size = pair(model.config.image_size)
    images = images_for(model, 3)
    merged = start("onnx", onnx_bytes(model, size, merge=count))(images)
    assert relative(torch_runtime(model, size, count)(images), merged) < ONNX_TOLERANCE
    assert relative(torch_runtime(model, size)(images), merged) > ONNX_TOLERANCE


@pytest.mark.parametrize("variant", ["plain", "swiglu", "map", "mean, no class token"])
def test_merging_and_integer_arithmetic(variant: str) -> None:
    pytest.importorskip("onnxruntime")
    model = a_model(**VARIANTS[variant])
    size = pair(model.config.image_size)
    images = images_for(model, 4)
    plain, runtime = torch_runtime(model, size, 3)(images), start("onnx", onnx_bytes(model, size, int8=True, merge=3))
    assert ONNX_TOLERANCE < relative(plain, runtime(images)) < INT8_TOLERANCE


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
