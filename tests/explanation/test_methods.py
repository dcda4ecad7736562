"""Maps: the forward pass as it was, gradients of attention as if it were written out, and what each method promises."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.random_vit import random_vit
from vitrail.explanation.methods import METHODS, removal_gradient
from vitrail.explanation.readout import readout
from vitrail.explanation.trace import Target, Trace, embed, grid_of, kept, logits_of, trace
from vitrail.model import ViT
from vitrail.model.attention import attention_written_out
from vitrail.model.vit import Attention
from vitrail.runtime.merging import _attend

MODELS: dict[str, dict[str, Any]] = {
    "cls": {},
    "cls, registers, own scale": {"num_registers": 2, "attention_scale": 0.2},
    "cls_dist": {"pooling": "cls_dist", "use_distillation_token": True},
    "mean, registers, qk-norm, layer scale": {
        "pooling": "mean",
        "num_registers": 2,
        "qk_norm": True,
        "layer_scale": 0.5,
    },
    "mean, no class token, features normed": {"pooling": "mean", "use_class_token": False, "final_norm": "pooled"},
    "max": {"pooling": "max"},
    "mean_max": {"pooling": "mean_max"},
    "cls_mean": {"pooling": "cls_mean"},
    "map": {"pooling": "map", "use_class_token": False},
    "conv stem": {"pooling": "mean", "stem_channels": (8,), "stem_strides": (2,), "patch_size": 2},
    "swiglu": {"activation": "swiglu"},
}
SIZES = [(16, 16), (24, 40)]
BY_HAND = 1e-5
"""Relative to the largest value: fp32 products in another order."""


def images(size: tuple[int, int] = (16, 16), count: int = 3) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=BY_HAND * max(1e-6, float(expected.detach().abs().max())))


class WrittenOut(nn.Module):
    """An attention of ours with its weights in the graph."""

    def __init__(self, layer: Attention) -> None:
        super().__init__()
        self.layer, self.weights = layer, torch.empty(0)

    def forward(self, x: Tensor, places: object = None) -> Tensor:
        q, k, v = self.layer.split(x)
        scale = q.shape[-1] ** -0.5 if self.layer.scale is None else self.layer.scale
        self.weights = (q @ k.transpose(-2, -1) * scale).softmax(-1)
        mixed = self.weights @ v
        torch.testing.assert_close(mixed, attention_written_out(q, k, v, self.layer.scale))
        return self.layer.proj(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_logits_stay_and_gradients_are_those_of_attention_written_out(name: str, size: tuple[int, int]) -> None:
    model, target = random_vit(**MODELS[name]), Target(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))
    pixels = images(size)
    plain = model(pixels, interpolate_pos_encoding=True)["logits"]
    tokens = embed(model, pixels)
    run = trace(model, tokens)
    assert torch.equal(run.logits, plain)
    assert torch.equal(logits_of(model, tokens), plain)
    gradients = torch.autograd.grad(target.logit(run.logits).sum(), [layer.mixed for layer in run.layers])
    found = [layer.weights_and_gradient(g) for layer, g in zip(run.layers, gradients, strict=True)]

    for block in model.blocks:
        block.attn = WrittenOut(block.attn)  # type: ignore[assignment]
    logits = model(pixels, interpolate_pos_encoding=True)["logits"]
    twins = [block.attn.weights for block in model.blocks]  # type: ignore[union-attr]
    for (weights, slope), twin, twin_slope in zip(
        found, twins, torch.autograd.grad(target.logit(logits).sum(), twins), strict=True
    ):
        close(weights, twin)
        close(slope, twin_slope)


def _with_presence(model: ViT, tokens: Tensor, presence: Tensor, target: Target) -> Tensor:
    """The logit where each token counts `presence` times, as token merging counts tokens; not for maxima."""
    x = tokens
    for block in model.blocks:
        x = x + block.ls1(_attend(block.attn, block.norm1(x), presence)[0])  # type: ignore[operator]
        x = x + block.ls2(block.mlp(block.norm2(x)))  # type: ignore[operator]
    x, first = model.norm(x), model.config.num_prefix_tokens
    share = presence[:, first:, None]
    mean = (share * x[:, first:]).sum(1) / share.sum(1)
    match model.config.pooling:
        case "mean":
            logits = model.head(model.fc_norm(mean))
        case "cls_mean":
            logits = model.head(torch.cat((x[:, 0], mean), dim=-1))
        case "map":
            assert model.attn_pool is not None
            q, k, v = model.attn_pool.split(x[:, first:])
            weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + presence[:, None, None, first:].log()).softmax(
                -1
            )
            pooled = model.attn_pool.proj((weights @ v).transpose(1, 2).flatten(2))
            logits = model.head((pooled + model.attn_pool.mlp(model.attn_pool.norm(pooled)))[:, 0])
        case _:
            logits = model.classify(x)
    return target.logit(logits)


@pytest.mark.parametrize("name", [name for name in MODELS if "max" not in name])
def test_removal_gradient_is_the_gradient_of_presence(name: str) -> None:
    model, target = random_vit(**MODELS[name]), Target(torch.tensor([0, 1, 2]))
    tokens = embed(model, images((24, 40)))
    presence = torch.ones(tokens.shape[:2], requires_grad=True)
    logit = _with_presence(model, tokens, presence, target)
    close(logit, target.logit(logits_of(model, tokens)))
    (slope,) = torch.autograd.grad(logit.sum(), presence)
    close(removal_gradient(model, tokens, target), slope)


def test_a_maximum_loses_what_its_second_patch_does_not_have() -> None:
    model = random_vit(pooling="max", num_hidden_layers=1)
    for parameter in model.blocks.parameters():  # the block passes tokens on, so that nothing but the pooling counts
        parameter.data.zero_()
    model.fc_norm, model.norm = nn.Identity(), nn.Identity()
    tokens, target = embed(model, images()), Target(torch.tensor([0, 1, 2]))
    found = removal_gradient(model, tokens, target)[:, 1:]
    falls = METHODS["occlusion"].row(model, tokens, target)
    whole = target.logit(logits_of(model, tokens))
    for i in range(16):
        others = torch.tensor([[j for j in range(16) if j != i]]).expand(3, -1)
        close(found[:, i], whole - target.logit(logits_of(model, kept(tokens, others, 1))))
    assert torch.equal(found > 1e-6, (found > 1e-6) & (falls != 0))


def _matrix(layer: Any, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return 0.5 * layer.weights().mean(1) + 0.5 * torch.eye(layer.inputs.shape[1])
    weights, slope = layer.weights_and_gradient(gradient)
    return torch.eye(layer.inputs.shape[1]) + (weights * slope).clamp(min=0).mean(1)


@pytest.mark.parametrize("name", MODELS)
def test_the_row_is_that_of_the_whole_product(name: str) -> None:
    model, target = random_vit(**MODELS[name]), Target(torch.tensor([0, 1, 2]))
    tokens = embed(model, images())
    run = trace(model, tokens)
    slopes = torch.autograd.grad(target.logit(run.logits).sum(), [a.mixed for a in run.layers], retain_graph=True)

    def product(gradients: list[Tensor | None]) -> Tensor:
        whole = torch.eye(tokens.shape[1]).expand(3, -1, -1)
        for layer, gradient in zip(run.layers, gradients, strict=True):
            whole = _matrix(layer, gradient) @ whole
        return whole

    with_gradient, without = product(list(slopes)), product([None] * len(run.layers))
    close(without.sum(-1), torch.ones(3, tokens.shape[1]))
    first_row = readout(model, run, target)
    assert bool((first_row >= 0).all())
    close(METHODS["gradient-rollout"].row(model, tokens, target), (first_row[:, None] @ with_gradient)[:, 0])
    rollout = METHODS["rollout"].row(model, tokens, target)
    close(rollout, (readout(model, run)[:, None] @ without)[:, 0])
    close(rollout.sum(1), torch.ones(3))


def test_shares_of_the_readout() -> None:
    target = Target(torch.tensor([0, 1, 2]))

    def row(**changes: Any) -> tuple[Tensor, Trace]:
        model = random_vit(**changes)
        run = trace(model, embed(model, images()))
        return readout(model, run, target).detach(), run

    close(row()[0][:, 0], torch.ones(3))
    close(row(pooling="cls_dist", use_distillation_token=True)[0][:, :2], torch.full((3, 2), 0.5))
    close(row(pooling="mean", num_registers=3)[0][:, 4:], torch.full((3, 16), 1 / 16))
    largest, run = row(pooling="max")
    held = run.normed[:, 1:].argmax(1)  # [B, D]
    assert torch.equal(
        largest[:, 1:] > 0, torch.stack([torch.bincount(channels, minlength=16) > 0 for channels in held])
    )
    half = row(pooling="mean_max")[0]
    close(half.sum(1), torch.ones(3))
    assert bool((half[:, 1:] >= 1 / 32 - 1e-6).all())
    both = row(pooling="cls_mean")[0]
    close(both[:, 1:], both[:, 1:2].expand(-1, 16))
    assert bool((both[:, 0] > 0).all() and (both[:, 0] < 1).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["cls_dist", "mean, registers, qk-norm, layer scale", "mean_max", "map", "conv stem"])
def test_every_method_gives_a_number_for_each_patch(name: str, method: str) -> None:
    model, target = random_vit(**MODELS[name]), Target(torch.tensor([0, 1]))
    pixels = images((24, 40), 2)
    tokens = embed(model, pixels)
    found = METHODS[method].row(model, tokens, target).detach()
    num_patches = torch.Size(grid_of(model, (24, 40))).numel()
    assert num_patches == 60
    assert found.shape in ((2, 60), tokens.shape[:2])
    assert bool(found.isfinite().all())
    assert METHODS[method].is_signed or bool((found >= 0).all())
    alone = METHODS[method].row(model, tokens[1:], Target(target.chosen[1:])).detach()
    close(alone, found[1:])  # no image knows of the others
    other = METHODS[method].row(model, tokens, Target(torch.tensor([2, 3]))).detach()
    assert torch.equal(other, found) != METHODS[method].is_class_specific


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["cls", "mean, registers, qk-norm, layer scale", "max", "map"])
def test_equal_patches_have_an_even_map(name: str, method: str) -> None:
    model = random_vit(**MODELS[name])
    first = model.config.num_prefix_tokens
    tokens = embed(model, images())
    tokens[:, first:] = tokens[:, first : first + 1]
    found = METHODS[method].row(model, tokens, Target(torch.tensor([0, 1, 2]))).detach()[:, -16:]
    scale = 1.0 if METHODS[method].is_signed else float(found.abs().max())
    torch.testing.assert_close(found, found.mean(1, keepdim=True).expand(-1, 16), rtol=0, atol=BY_HAND * scale)


@pytest.mark.long
@pytest.mark.parametrize("size", [(224, 224), (154, 252)])
def test_logits_stay_in_a_model_of_dinov2s_size(size: tuple[int, int]) -> None:
    model = random_vit(
        image_size=518, patch_size=14, hidden_size=384, num_hidden_layers=12, num_attention_heads=6, layer_scale=1.0
    )
    pixels = images(size, 1)
    run = trace(model, embed(model, pixels))
    assert torch.equal(run.logits, model(pixels, interpolate_pos_encoding=True)["logits"])
    assert grid_of(model, size) == (size[0] // 14, size[1] // 14)
