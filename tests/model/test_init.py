"""First values: the table of vitrail.model.init, row by row."""

import pytest
import torch
from torch import nn

from tests.support.random_vit import SMALL
from vitrail.config import ViTConfig
from vitrail.model import ViT
from vitrail.model.init import truncated_normal

STD_RTOL = 0.05
WIDE = {**SMALL, "hidden_size": 96, "num_attention_heads": 3, "num_registers": 4, "use_mask_token": True}


def built(**changes: object) -> ViT:
    torch.manual_seed(0)
    return ViT(ViTConfig(**{**WIDE, **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize("std", [0.02, 0.05])
def test_normal_has_the_configured_std_zero_biases_and_plain_norms(std: float) -> None:
    model = built(initializer_range=std, qk_norm=True, stem_channels=(32,), stem_strides=(1,))
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            is_stem = name.startswith("stem")
            expected = (2 / layer.weight[0].numel()) ** 0.5 if is_stem else std
            tolerance = 2 * STD_RTOL if layer.weight.numel() > 5000 else 4 * STD_RTOL
            assert layer.weight.std().item() == pytest.approx(expected, rel=tolerance), name
            assert layer.bias is None or not layer.bias.any()
        elif isinstance(layer, nn.LayerNorm | nn.BatchNorm2d):
            assert layer.weight.eq(1).all()
            assert not layer.bias.any()
    assert model.pos_embed.std().item() == pytest.approx(std, rel=2 * STD_RTOL)
    for token in (model.cls_token, model.reg_token):
        assert token is not None
        assert token.std().item() == pytest.approx(std, rel=6 * STD_RTOL)
    assert model.mask_token is not None
    assert not model.mask_token.any()


def test_a_range_of_zero_gives_zeros() -> None:
    assert not built(initializer_range=0.0).head.weight.any()


def test_truncated_normal_is_drawn_in_fp32_and_cut() -> None:
    low, full = torch.empty(4096, dtype=torch.bfloat16), torch.empty(4096)
    torch.manual_seed(1)
    truncated_normal(low, 1.0)
    torch.manual_seed(1)
    truncated_normal(full, 1.0)
    assert torch.equal(low, full.bfloat16())
    assert full.abs().max() <= 2


def test_zero_residual_makes_every_block_the_identity() -> None:
    block = built(init="zero-residual").blocks[0]
    x = torch.randn(2, 9, 96)
    assert torch.equal(block(x), x)
    assert block.attn.qkv.weight.any()


def test_zero_residual_scales_what_it_keeps_by_the_inputs() -> None:
    model = built(init="zero-residual", patch_size=8)
    rows = [(model.patch_embed.proj, 1.0)]
    rows += [(layer, 0.6) for block in model.blocks for layer in (block.attn.qkv, block.mlp.fc1)]
    for layer, gain in rows:
        expected = gain * layer.weight[0].numel() ** -0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=2 * STD_RTOL)
    assert not model.head.weight.any()


def test_layer_scale_starts_at_its_value() -> None:
    model = built(layer_scale=1e-4)
    for block in model.blocks:
        assert block.ls1.gamma.eq(1e-4).all()
        assert block.ls2.gamma.eq(1e-4).all()


def identity_share(product: torch.Tensor) -> float:
    """Correlation of a matrix with the identity, in [-1, 1]."""
    identity = torch.eye(len(product))
    return (torch.sum(product * identity) / (product.norm() * identity.norm())).item()


def test_mimetic_products_lie_near_plus_and_minus_identity() -> None:
    for block in built(init="mimetic").blocks:
        query, key, value = block.attn.qkv.weight.detach().unflatten(0, (3, 96))
        for head in range(3):
            rows = slice(32 * head, 32 * (head + 1))
            assert identity_share(query[rows].T @ key[rows]) > 0.3
        # x W_V W_O, in torch's order of rows and columns: 0.4 (Z - I), whose correlation with -I is 1 / sqrt(2).
        product = (block.attn.proj.weight @ value).detach()
        assert identity_share(product) == pytest.approx(-(0.5**0.5), abs=0.05)
        assert product.diagonal().mean().item() == pytest.approx(-0.4, abs=0.05)
    normal = built().blocks[0].attn.qkv.weight.detach().unflatten(0, (3, 96))
    assert abs(identity_share(normal[0].T @ normal[1])) < 0.1


def test_mimetic_full_rank_query_key_product_is_the_stated_matrix() -> None:
    query, key, _ = (
        built(init="mimetic", num_attention_heads=1).blocks[0].attn.qkv.weight.detach().unflatten(0, (3, 96))
    )
    product = query.T @ key
    assert product.diagonal().mean().item() == pytest.approx(0.7, abs=0.05)
    off_diagonal = product - torch.diag(product.diagonal())
    assert off_diagonal.pow(2).sum().sqrt().item() == pytest.approx(0.7 * 96**0.5, rel=0.1)


def test_a_model_made_without_storage_can_be_initialised_later() -> None:
    with torch.device("meta"):
        model = ViT(ViTConfig(**{**WIDE, "position": "sincos"}))  # type: ignore[arg-type]
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.reset_parameters()
    expected = built(position="sincos")
    assert torch.equal(model.pos_embed, expected.pos_embed)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
