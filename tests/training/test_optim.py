"""Which parameter is moved by which rule, and Muon against its definition."""

import dataclasses

import pytest
import torch

from vitrail.config import OptimConfig, ViTConfig
from vitrail.model import ViT
from vitrail.training.optim import (
    Muon,
    build_optimizers,
    load_optimizer_tensors,
    optimizer_tensors,
    orthogonalise,
    set_lr,
)

TINY = ViTConfig(
    image_size=8, patch_size=4, num_labels=3, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_registers=1
)


@pytest.mark.parametrize("shape", [(64, 128), (128, 64), (32, 256), (96, 192)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int], scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=generator) * scale))
        assert values.min() >= 0.6
        assert values.max() <= 1.2


def test_orthogonalise_square_matrices_nearly_all() -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(20, 64, 64, generator=torch.Generator().manual_seed(0))))
    assert ((values >= 0.6) & (values <= 1.2)).float().mean() >= 0.97


def test_orthogonalise_ignores_the_scale_and_keeps_the_singular_vectors() -> None:
    g = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalise(g), orthogonalise(1000 * g), rtol=1e-4, atol=1e-5)
    u, _, vt = torch.linalg.svd(g, full_matrices=False)
    aligned = u.T @ orthogonalise(g) @ vt.T
    assert (aligned - aligned.diagonal().diag()).abs().max() < 1e-4
    assert aligned.diagonal().min() > 0.6


def test_orthogonalise_of_a_batch_is_that_of_each() -> None:
    batch = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalise(batch), torch.stack([orthogonalise(g) for g in batch]))


def test_muon_step_by_hand() -> None:
    torch.manual_seed(0)
    start, first, second = torch.randn(8, 4), torch.randn(8, 4), torch.randn(8, 4)
    p = torch.nn.Parameter(start.clone())
    optimizer = Muon([p], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, velocity = start.clone(), torch.zeros(8, 4)
    for gradient in (first, second):
        p.grad = gradient.clone()
        optimizer.step()
        velocity = 0.9 * velocity + 0.1 * gradient
        update = orthogonalise(0.1 * gradient + 0.9 * velocity)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 2**0.5 * update
    torch.testing.assert_close(p.detach(), expected)


def test_muon_takes_a_fused_matrix_apart() -> None:
    torch.manual_seed(0)
    fused = torch.nn.Parameter(torch.zeros(12, 4))
    fused.grad = torch.randn(12, 4)
    parts = [torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(3)]
    for part, gradient in zip(parts, fused.grad.split(4), strict=True):
        part.grad = gradient.clone()
    Muon([{"params": [fused], "parts": 3}], lr=0.1).step()
    Muon(parts, lr=0.1).step()
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in parts]))


def test_muon_takes_a_kernel_for_a_matrix() -> None:
    torch.manual_seed(0)
    kernel, matrix = torch.nn.Parameter(torch.zeros(6, 2, 3, 3)), torch.nn.Parameter(torch.zeros(6, 18))
    kernel.grad = torch.randn(6, 2, 3, 3)
    matrix.grad = kernel.grad.flatten(1)
    Muon([kernel, matrix], lr=0.1).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())


def test_muon_in_a_stem_leaves_the_pixels_alone() -> None:
    config = dataclasses.replace(TINY, patch_size=1, stem_channels=(4, 8), stem_strides=(2, 2))
    model = ViT(config)
    _, muon = build_optimizers(model, OptimConfig(name="muon"))
    names = {id(p): n for n, p in model.named_parameters()}
    taken = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    assert {n for n in taken if not n.startswith("blocks.")} == {"stem.1.conv.weight", "patch_embed.proj.weight"}


def test_muon_leaves_parameters_without_a_gradient() -> None:
    p, q = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    p.grad = torch.eye(2)
    Muon([p, q], lr=0.1).step()
    assert torch.equal(q.detach(), torch.ones(2, 2))
    assert not torch.equal(p.detach(), torch.ones(2, 2))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "muon"])
@pytest.mark.parametrize("decay_all", [False, True])
def test_every_parameter_is_in_exactly_one_group(name: str, decay_all: bool) -> None:
    model = ViT(TINY)
    config = OptimConfig(name=name, decay_all=decay_all)  # type: ignore[arg-type]
    grouped = [p for o in build_optimizers(model, config) for g in o.param_groups for p in g["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


def test_what_is_not_decayed() -> None:
    model = ViT(TINY)
    (optimizer,) = build_optimizers(model, OptimConfig(weight_decay=0.1))
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = {names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {n for n, p in model.named_parameters() if p.ndim >= 2 and "token" not in n and n != "pos_embed"}
    assert "blocks.0.attn.qkv.weight" in decayed
    assert "patch_embed.proj.weight" in decayed


def test_muon_takes_the_matrices_of_the_encoder_and_nothing_else() -> None:
    model = ViT(TINY)
    _, muon = build_optimizers(model, OptimConfig(name="muon"))
    names = {id(p): n for n, p in model.named_parameters()}
    taken = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert taken == {f"blocks.{i}.{part}.weight" for i in range(2) for part in parts}


def test_set_lr_scales_each_peak() -> None:
    optimizers = build_optimizers(ViT(TINY), OptimConfig(name="muon", lr=1e-3, muon_lr=0.02))
    set_lr(optimizers, 0.5)
    set_lr(optimizers, 0.25)
    assert [g["lr"] for o in optimizers for g in o.param_groups] == [2.5e-4, 2.5e-4, 0.005, 0.005]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "muon"])
def test_optimizer_state_goes_out_and_in(name: str) -> None:
    torch.manual_seed(0)
    config = OptimConfig(name=name)  # type: ignore[arg-type]
    first, second = ViT(TINY), ViT(TINY)
    ours, theirs = build_optimizers(first, config), build_optimizers(second, config)

    def step(model: ViT, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        model(images, labels=torch.tensor([0, 1]))["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    step(first, ours, 0)
    second.load_state_dict(first.state_dict())
    load_optimizer_tensors(theirs, {k: v.clone() for k, v in optimizer_tensors(ours).items()})
    step(first, ours, 1)
    step(second, theirs, 1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize(("num_examples", "factor"), [(0, 1.0), (100, 0.5), (400, 1.0), (900, 1.0)])
def test_few_examples_move_the_weights_less(num_examples: int, factor: float) -> None:
    model = ViT(TINY)
    config = OptimConfig(name="muon", lr=1e-3, muon_lr=0.02, lr_examples=400)
    rates = {g["peak_lr"] for o in build_optimizers(model, config, num_examples) for g in o.param_groups}
    assert rates == {1e-3 * factor, 0.02 * factor}


def _sgd_moved(*, fused: bool) -> list[torch.Tensor]:
    """The weights after a step of some parameters, and one of all of them."""
    torch.manual_seed(0)
    model = ViT(TINY)
    (optimizer,) = build_optimizers(model, OptimConfig(name="sgd", lr=0.1, weight_decay=0.0))
    if not fused:
        optimizer = torch.optim.SGD(optimizer.param_groups[0]["params"], lr=0.1, momentum=0.9, fused=False)
    parameters = list(model.parameters())
    for joined in (parameters[::2], parameters):
        for p in joined:
            p.grad = torch.full_like(p, 0.5)
        optimizer.step()
    return [p.detach() for p in parameters]


def test_sgd_moves_parameters_that_join_later() -> None:
    for ours, plain in zip(_sgd_moved(fused=True), _sgd_moved(fused=False), strict=True):
        torch.testing.assert_close(ours, plain)


def test_sgd_goes_on_where_a_momentum_is_missing() -> None:
    model = ViT(TINY)
    optimizers = build_optimizers(model, OptimConfig(name="sgd", lr=0.1))
    tensors = optimizer_tensors(optimizers)
    del tensors["0.1.momentum_buffer"]
    load_optimizer_tensors(optimizers, tensors)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizers[0].step()
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
