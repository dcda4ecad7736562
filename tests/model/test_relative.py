"""Relative positions: which number is added to which score, on every path that attends."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vitrail
from tests.support.random_vit import random_vit
from vitrail.config import OptimConfig
from vitrail.errors import ConfigError
from vitrail.explanation.trace import embed, kept, logits_of, trace
from vitrail.model import ViT, record_attention
from vitrail.model.attention import attention_written_out
from vitrail.model.relative import Places, RelativePositions, resample_table
from vitrail.model.vit import Attention
from vitrail.runtime.merging import merged_logits
from vitrail.training.optim import build_optimizers
from vitrail.weights.writer import write


def _model(**changes: Any) -> ViT:
    return random_vit(relative_positions=True, num_registers=1, **changes)


def _images(model: ViT, side: int = 16) -> torch.Tensor:
    return torch.randn(3, model.config.num_channels, side, side, generator=torch.Generator().manual_seed(1))


def test_the_number_depends_on_the_offset_alone() -> None:
    layer = RelativePositions(2, (3, 4), num_prefix=1)
    with torch.no_grad():
        layer.table.copy_(torch.arange(2 * 5 * 7).view(2, 5, 7))
    bias = layer()
    assert bias.shape == (2, 13, 13)
    assert not bias[:, 0].any()
    assert not bias[:, :, 0].any()
    for query in range(12):
        for key in range(12):
            down, right = query // 4 - key // 4, query % 4 - key % 4
            assert bias[1, 1 + query, 1 + key] == layer.table[1, down + 2, right + 3]


def test_the_model_attends_by_the_formula() -> None:
    model = _model()
    layer = model.blocks[0].attn
    assert isinstance(layer, Attention)
    assert layer.relative
    x = torch.randn(2, 18, 32, generator=torch.Generator().manual_seed(2))
    q, k, v = layer.split(x)
    expected = layer.proj(attention_written_out(q, k, v, bias=layer.relative()).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # then by the fused kernel
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(
        layer(x), layer.proj(attention_written_out(q, k, v).transpose(1, 2).flatten(2)), atol=1e-3
    )


def test_a_new_model_begins_without() -> None:
    torch.manual_seed(0)
    model = ViT(_model().config).eval()
    torch.manual_seed(0)
    plain = ViT(random_vit(num_registers=1).config).eval()
    torch.testing.assert_close(model(_images(model))["logits"], plain(_images(model))["logits"])


def test_tables_learn_and_are_not_decayed() -> None:
    model = _model(pooling="mean").train()
    model(_images(model), torch.tensor([0, 1, 2]))["loss"].backward()
    names = [name for name, _ in model.named_parameters() if name.endswith("relative.table")]
    assert len(names) == 2
    assert set(names) <= model.no_weight_decay()
    optimizers = build_optimizers(model, OptimConfig(name="muon", lr=1e-3, muon_lr=0.02))
    rates = {id(p): g["peak_lr"] for o in optimizers for g in o.param_groups for p in g["params"]}
    assert {rates[id(model.get_parameter(name))] for name in names} == {4e-3}
    assert rates[id(model.pos_embed)] == 1e-3
    assert all(bool(model.get_parameter(name).grad.abs().sum() > 0) for name in names)  # type: ignore[union-attr]


def test_a_smaller_grid_keeps_offsets_in_patches_and_a_larger_one_stretches_them() -> None:
    table = torch.linspace(-1, 1, 7)[:, None].expand(7, 7).clone()[None]
    assert torch.equal(resample_table(table, (4, 4)), table)
    assert torch.equal(resample_table(table, (2, 3)), table[:, 2:5, 1:6])
    stretched = resample_table(table, (3, 7))
    assert stretched.shape == (1, 5, 13)
    torch.testing.assert_close(stretched[0, :, 0], table[0, 1:6, 0])
    model = _model()
    out = model(_images(model, 24), interpolate_pos_encoding=True)["logits"]
    resized = ViT(dataclasses.replace(model.config, image_size=24)).eval()
    state = model.state_dict()
    for name in [name for name in state if name.endswith("relative.table")]:
        state[name] = resample_table(state[name], (6, 6))
    state["pos_embed"] = model._positions((6, 6), interpolate=True)
    resized.load_state_dict(state)
    torch.testing.assert_close(resized(_images(model, 24))["logits"], out)


def test_maps_are_those_of_the_model() -> None:
    model = _model()
    with record_attention(model) as maps:
        model(_images(model))
    layer = model.blocks[0].attn
    assert isinstance(layer, Attention)
    inputs = model.blocks[0].norm1(embed(model, _images(model)))  # type: ignore[operator]
    mixed = (maps[0] @ layer.split(inputs)[2]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer.proj(mixed), layer(inputs), atol=1e-5, rtol=1e-5)


def test_patches_that_are_left_out_are_not_moved() -> None:
    """Leaving tokens out is the same as forbidding to attend to them."""
    model = _model(num_hidden_layers=1)
    tokens = embed(model, _images(model))
    patches = torch.tensor([[0, 5, 6], [15, 3, 2], [7, 8, 9]])
    found = logits_of(model, kept(tokens, patches, 2), patches)
    layer = model.blocks[0].attn
    assert isinstance(layer, Attention)
    assert layer.relative
    inside = torch.cat((torch.zeros(3, 2, dtype=torch.int64), patches + 2), 1) + torch.tensor([0, 1, 0, 0, 0])
    whole = layer.relative()
    for i in range(3):
        bias = layer.relative(Places((4, 4), patches))[i]
        torch.testing.assert_close(bias, whole[:, inside[i]][:, :, inside[i]])
    assert torch.isfinite(found).all()
    everything = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(logits_of(model, tokens, everything), trace(model, tokens).logits)


def test_merging_is_refused() -> None:
    model = _model()
    with pytest.raises(ConfigError, match="cannot be merged"):
        merged_logits(model, _images(model), 2)


def test_a_file_keeps_them(tmp_path: Path) -> None:
    settings = {"schedule.epochs": 1, "schedule.max_steps": 3, "model.relative_positions": True, "num_threads": 1}
    result = vitrail.train("digits", tmp_path / "run", settings=settings)
    model, card = vitrail.load(tmp_path / "run")
    assert model.config.relative_positions
    assert vitrail.evaluate(tmp_path / "run").accuracy == result.final.accuracy
    larger, _ = vitrail.load(tmp_path / "run", image_size=24)
    assert larger.state_dict()["blocks.0.attn.relative.table"].shape == (4, 11, 11)
    Image.new("L", (9, 9), 200).save(tmp_path / "a.png")
    for side in (16, 24):
        (found,) = vitrail.explain(tmp_path / "run", tmp_path / "a.png", image_size=side).items
        assert found.map.shape == (side // 4, side // 4)
        assert vitrail.predict(tmp_path / "run", tmp_path / "a.png", image_size=side)[0].label == found.top[0].label
    with pytest.raises(vitrail.VitrailError, match="relative positions"):
        write(tmp_path / "timm", model, card, "timm")
