"""The patch projection in whitened coordinates: what it sees, and that a run starts from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import vitrail
from vitrail import data, recipes, weights
from vitrail.augment import prepare
from vitrail.config import RunConfig, ViTConfig
from vitrail.errors import ConfigError
from vitrail.model import ViT
from vitrail.model.init import whiten_filters, whiten_patches
from vitrail.selftest.tiny import tiny_run
from vitrail.training import train
from vitrail.training.whitening import patch_statistics


def _digits() -> tuple[RunConfig, data.ImageSet]:
    config = recipes.get("digits")
    return config, data.load(config.data, ("train",))["train"]


def test_statistics_are_those_of_all_patches() -> None:
    config, train_set = _digits()
    preprocessing = data.preprocessing_for(config.data)
    mean, covariance = patch_statistics(train_set, preprocessing, (4, 4))
    images = prepare(torch.as_tensor(np.asarray(train_set.images)), preprocessing)
    patches = F.unfold(images, 4, stride=4).transpose(1, 2).reshape(-1, 16).double()
    torch.testing.assert_close(mean, patches.mean(0))
    torch.testing.assert_close(covariance, torch.cov(patches.T, correction=0))


def test_the_projection_sees_white_patches() -> None:
    """Of correlated values, a projection with orthonormal rows gives uncorrelated ones with the mean 0."""
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(48, 48, generator=draw, dtype=torch.float64)
    values = torch.randn(20_000, 48, generator=draw, dtype=torch.float64) @ mixing + 3
    model = ViT(ViTConfig(image_size=8, patch_size=4, hidden_size=48, num_attention_heads=4, num_hidden_layers=1))
    projection = model.patch_embed.proj
    with torch.no_grad():
        projection.weight.copy_(torch.linalg.qr(torch.randn(48, 48, generator=draw))[0].view_as(projection.weight))
    whiten_patches(projection, values.mean(0), torch.cov(values.T, correction=0), floor=0.0)
    seen = projection(values.float().view(-1, 3, 4, 4)).flatten(1)
    torch.testing.assert_close(seen.mean(0), torch.zeros(48), atol=2e-2, rtol=0)
    torch.testing.assert_close(torch.cov(seen.T), torch.eye(48), atol=2e-2, rtol=0)


def test_constant_pixels_do_no_harm() -> None:
    model = ViT(ViTConfig(image_size=8, patch_size=4, hidden_size=16, num_attention_heads=4, num_hidden_layers=1))
    whiten_patches(model.patch_embed.proj, torch.ones(48).double(), torch.zeros(48, 48).double())
    assert torch.isfinite(model.patch_embed.proj.weight).all()


def test_a_run_starts_from_it(tmp_path: Path) -> None:
    config, train_set = _digits()
    config = replace(
        config,
        init=replace(config.init, patches="whitened"),
        schedule=replace(config.schedule, epochs=1, max_steps=1, warmup_fraction=0.0),
        optim=replace(config.optim, lr=1e-12, muon_lr=1e-12),
    )
    model, _ = weights.load(train(config, tmp_path / "run").model)
    torch.manual_seed(config.seed)
    expected = ViT(model.config)
    whiten_patches(expected.patch_embed.proj, *patch_statistics(train_set, data.preprocessing_for(config.data), (4, 4)))
    torch.testing.assert_close(model.patch_embed.proj.weight, expected.patch_embed.proj.weight, atol=1e-6, rtol=0)


def test_the_first_convolution_sees_the_leading_directions_with_both_signs() -> None:
    """All 9 directions of a grey 3x3 fit into 20 filters twice: answers of variance 1, and two filters left random."""
    torch.manual_seed(0)
    mixing = torch.randn(9, 9, dtype=torch.float64)
    values = torch.randn(20_000, 9, dtype=torch.float64) @ mixing
    covariance = torch.cov(values.T, correction=0)
    convolution = torch.nn.Conv2d(1, 20, 3, bias=False)
    random = convolution.weight.detach().clone()
    whiten_filters(convolution, covariance, floor=0.0)
    seen = convolution(values.float().view(-1, 1, 3, 3)).flatten(1)
    torch.testing.assert_close(torch.cov(seen[:, :9].T), torch.eye(9), atol=1e-3, rtol=0)
    assert torch.equal(seen[:, 9:18], -seen[:, :9])
    assert torch.equal(convolution.weight[18:], random[18:])
    few = torch.nn.Conv2d(1, 4, 3, bias=False)
    whiten_filters(few, covariance, floor=0.0)
    strengths = few.weight[:2].detach().flatten(1).double() @ torch.linalg.eigh(covariance)[1][:, -2:]
    assert (strengths.abs() > 1e-3).sum() == 2  # the two directions of the largest variance, and nothing else


def test_a_run_with_convolutions_starts_from_it(tmp_path: Path) -> None:
    stem = {"stem_channels": (8,), "stem_strides": (1,), "stem_pools": (2,), "patch_size": 1}
    still = {"lr": 1e-12, "muon_lr": 1e-12}
    config = tiny_run(init={"patches": "whitened"}, model=stem, optim=still, schedule={"max_steps": 1})
    model, _ = weights.load(train(config, tmp_path / "run").model)
    train_set, preprocessing = data.load(config.data, ("train",))["train"], data.preprocessing_for(config.data)
    expected = torch.nn.Conv2d(1, 8, 3, bias=False)
    whiten_filters(expected, patch_statistics(train_set, preprocessing, (3, 3))[1])
    torch.testing.assert_close(next(model.stem.parameters()), expected.weight, atol=1e-6, rtol=0)


def test_pretrained_weights_are_not_whitened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="whitened"):
        vitrail.train(tiny_run(), tmp_path, settings={"init.patches": "whitened", "init.weights": "builtin:cifar100"})
