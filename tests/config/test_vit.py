"""Geometry: named sizes, and contradictions that are refused."""

from typing import Any

import pytest

from vitrail.config import ArchitectureConfig, ViTConfig
from vitrail.config.vit import check_divisible, token_stride
from vitrail.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Ti/16", (192, 12, 3, 768)),
        ("S/8", (384, 12, 6, 1536)),
        ("B/32", (768, 12, 12, 3072)),
        ("L/14", (1024, 24, 16, 4096)),
        ("So400m/14", (1152, 27, 16, 4304)),
        ("H/14", (1280, 32, 16, 5120)),
        ("g/14", (1408, 40, 16, 6144)),
        ("G/14", (1664, 48, 16, 8192)),
    ],
)
def test_named_sizes(name: str, expected: tuple[int, ...]) -> None:
    c = ViTConfig.named(name)
    assert (c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size) == expected
    assert c.patch_size == int(name.split("/")[1])


def test_named_takes_changes() -> None:
    c = ViTConfig.named("B/16", num_labels=10, image_size=(224, 160))
    assert (c.num_labels, c.grid) == (10, (14, 10))


@pytest.mark.parametrize("name", ["B", "X/16", "B/", "B/sixteen", "b/16"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no ViT size"):
        ViTConfig.named(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 384, "num_attention_heads": 5}, "multiple of model.num-attention-heads"),
        ({"hidden_size": 0}, "model.hidden-size"),
        ({"num_hidden_layers": -1}, "model.num-hidden-layers"),
        ({"patch_size": 0}, "model.patch-size"),
        ({"attention_dropout": 1.0}, "model.attention-dropout"),
        ({"stochastic_depth": -0.1}, "model.stochastic-depth"),
        ({"use_class_token": False}, "model.use-class-token"),
        ({"stem_channels": (8,)}, "model.stem-strides"),
        ({"hidden_size": 18, "num_attention_heads": 3, "position": "sincos"}, "multiple of 4"),
        ({"num_labels": -1}, "model.num-labels"),
        ({"num_channels": 0}, "model.num-channels"),
        ({"image_size": 225}, "data.image-size"),
        ({"image_size": (224, 8)}, "data.image-size"),
    ],
)
def test_contradictions_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViTConfig(**changes)  # type: ignore[arg-type]


def test_the_message_about_heads_suggests_a_number_that_works() -> None:
    with pytest.raises(ConfigError) as caught:
        ArchitectureConfig(hidden_size=384, num_attention_heads=5)
    suggested = int(str(caught.value).split("--model.num-attention-heads ")[1].split()[0])
    assert 384 % suggested == 0


def test_the_message_about_sizes_suggests_one_that_works() -> None:
    architecture = ArchitectureConfig(patch_size=(4, 6))
    with pytest.raises(ConfigError, match="--data.image-size 32x30"):
        check_divisible((33, 32), architecture)
    check_divisible((32, 30), architecture)


def test_a_stem_multiplies_the_stride_and_changes_the_label() -> None:
    plain = ArchitectureConfig(patch_size=4)
    conv = ArchitectureConfig(patch_size=2, stem_channels=(8, 16), stem_strides=(1, 2))
    assert token_stride(plain) == token_stride(conv) == (4, 4)
    assert (plain.kind, conv.kind) == ("plain ViT", "ViT + conv")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**9},
        {"num_hidden_layers": 10**7},
        {"num_attention_heads": 2**62, "hidden_size": 2**62},
        {"mlp_ratio": 1e300},
        {"num_registers": 10**12},
        {"num_labels": 10**12},
        {"num_channels": 10**9},
        {"image_size": 11_600, "patch_size": 4},
        {"image_size": 2**60, "patch_size": 2**58},
        {"stem_channels": (100_000,), "stem_strides": (1,)},
        {"stem_channels": (4,) * 100_000, "stem_strides": (1,) * 100_000},
        {"stem_channels": (4,), "stem_strides": (10**9,)},
    ],
    ids=str,
)
def test_numbers_beyond_any_model_are_refused_at_once(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at most") as caught:
        ViTConfig(**changes)
    assert len(str(caught.value)) < 500


def test_the_largest_published_model_is_no_exception() -> None:
    """ViT-22B, arXiv:2302.05442, table 1; and B/16 on a side of 4,096 pixels."""
    ViTConfig(hidden_size=6144, num_hidden_layers=48, num_attention_heads=48, mlp_ratio=4.0, patch_size=14)
    ViTConfig.named("B/16", image_size=4096)
