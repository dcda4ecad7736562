"""The forms of the model that pretrained weights need, each against its formula written out."""

import itertools
from typing import Any, cast, get_args

import pytest
import torch

from tests.support.random_vit import random_vit
from vitrail.config import ViTConfig
from vitrail.config.vit import PositionResampling
from vitrail.errors import ConfigError
from vitrail.model.position import resample_positions

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pooling", ["mean", "max", "mean_max", "cls_mean"])
@pytest.mark.parametrize("registers", [0, 3])
def test_pooling_leaves_prefix_tokens_out(pooling: str, registers: int) -> None:
    model: Any = random_vit(pooling=pooling, num_registers=registers, num_labels=0)
    tokens = model.forward_features(IMAGES)
    patches = tokens[:, 1 + registers :]
    expected = {
        "mean": patches.mean(1),
        "max": patches.max(1).values,
        "mean_max": (patches.mean(1) + patches.max(1).values) / 2,
        "cls_mean": torch.cat((tokens[:, 0], patches.mean(1)), 1),
    }[pooling]
    torch.testing.assert_close(model(IMAGES)["logits"], expected)


def test_two_heads_are_averaged() -> None:
    model: Any = random_vit(pooling="cls_dist", use_distillation_token=True)
    tokens = model.forward_features(IMAGES)
    assert model.head_dist is not None
    assert tokens.shape[1] == 2 + 16
    expected = (model.head(tokens[:, 0]) + model.head_dist(tokens[:, 1])) / 2
    torch.testing.assert_close(model(IMAGES)["logits"], expected)


def test_attention_pooling_against_the_library_attention() -> None:
    model: Any = random_vit(pooling="map", use_class_token=False)
    pool = model.attn_pool
    assert pool is not None
    tokens = model.forward_features(IMAGES)
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat((pool.q.weight, pool.kv.weight)))
        attention.in_proj_bias.copy_(torch.cat((pool.q.bias, pool.kv.bias)))
        attention.out_proj.weight.copy_(pool.proj.weight)
        attention.out_proj.bias.copy_(pool.proj.bias)
    x = attention(pool.latent.expand(2, -1, -1), tokens, tokens)[0]
    expected = model.head((x + pool.mlp(pool.norm(x)))[:, 0])
    torch.testing.assert_close(model(IMAGES)["logits"], expected)


def test_the_norm_after_pooling_is_another_function() -> None:
    after: Any
    before, after = random_vit(pooling="mean"), random_vit(pooling="mean", final_norm="pooled")
    assert "fc_norm.weight" in after.state_dict()
    assert "norm.weight" not in after.state_dict()
    tokens = after.forward_features(IMAGES)
    expected = after.head(after.fc_norm(tokens[:, 1:].mean(1)))
    torch.testing.assert_close(after(IMAGES)["logits"], expected)
    assert not torch.allclose(after(IMAGES)["logits"], before(IMAGES)["logits"], atol=1e-3)


def test_swiglu_gates_with_silu() -> None:
    model: Any = random_vit(activation="swiglu", mlp_ratio=1.5)
    mlp = model.blocks[0].mlp
    x = torch.randn(2, 5, 32)
    expected = mlp.fc2(torch.nn.functional.silu(mlp.gate(x)) * mlp.up(x))
    torch.testing.assert_close(mlp(x), expected)
    assert mlp.gate.weight.shape == (48, 32)


def test_other_gelus_are_those_of_their_formulas() -> None:
    x = torch.linspace(-5, 5, 101)
    mlps = {name: cast(Any, random_vit(activation=name).blocks[0]).mlp for name in ("gelu", "gelu_tanh", "quick_gelu")}
    exact = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    tanh = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    for name, expected in (("gelu", exact), ("gelu_tanh", tanh), ("quick_gelu", x * torch.sigmoid(1.702 * x))):
        torch.testing.assert_close(mlps[name].activation(x), expected, atol=1e-6, rtol=0)
    ours = [mlp.activation(x) for mlp in mlps.values()]
    assert all(float((a - b).abs().max()) > 1e-4 for a, b in itertools.combinations(ours, 2))


@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_positions_for_patches_alone(position: str) -> None:
    grid_only = random_vit(prefix_positions=False, position=position)
    both = random_vit(position=position)
    state = grid_only.state_dict()
    if position == "learned":
        assert state["pos_embed"].shape == (1, 16, 32)
        zero = torch.zeros(1, 1, 32)
        state = {**state, "pos_embed": torch.cat((zero, state["pos_embed"]), 1)}
    both.load_state_dict(state)
    torch.testing.assert_close(both(IMAGES)["logits"], grid_only(IMAGES)["logits"])
    larger = torch.randn(1, 3, 24, 16)
    torch.testing.assert_close(
        both(larger, interpolate_pos_encoding=True)["logits"],
        grid_only(larger, interpolate_pos_encoding=True)["logits"],
    )


@pytest.mark.parametrize("rule", get_args(PositionResampling))
def test_every_rule_keeps_its_own_grid_and_fits_another(rule: PositionResampling) -> None:
    positions = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resample_positions(positions, (4, 5), (4, 5), rule), positions)
    found = resample_positions(positions, (4, 5), (7, 3), rule)
    assert found.shape == (1, 21, 8)
    for other in set(get_args(PositionResampling)) - {rule}:
        assert not torch.allclose(found, resample_positions(positions, (4, 5), (7, 3), other), atol=1e-3), other
    corners = found.unflatten(1, (7, 3))[0, [0, 0, -1, -1], [0, -1, 0, -1]]
    theirs = positions.unflatten(1, (4, 5))[0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.allclose(corners, theirs, atol=1e-5) == rule.endswith("aligned"), "only these keep the corners"


@pytest.mark.parametrize(
    "wrong",
    [
        {"pooling": "cls_dist"},
        {"pooling": "cls_mean", "use_class_token": False},
        {"pooling": "map", "final_norm": "pooled"},
        {"pooling": "mean", "use_class_token": False, "use_distillation_token": True},
    ],
)
def test_what_does_not_go_together_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ViTConfig(**wrong)  # type: ignore[arg-type]


def test_a_new_head_for_every_pooling() -> None:
    for pooling, width in (("cls_dist", 32), ("cls_mean", 64), ("map", 32)):
        model: Any = random_vit(pooling=pooling, use_distillation_token=pooling == "cls_dist")
        model.reset_head(7)
        assert model.head.weight.shape == (7, width)
        assert model(IMAGES)["logits"].shape == (2, 7)
