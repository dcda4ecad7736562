"""One step: accumulation, clipping, smoothing, averaging, and that it learns."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from vitrail.config import ComputeConfig, OptimConfig, ViTConfig
from vitrail.model import ViT
from vitrail.training.optim import build_optimizers
from vitrail.training.step import TrainStep, WeightAverage

TINY = ViTConfig(image_size=8, patch_size=4, num_labels=3, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
ACCUMULATION_TOLERANCE = 1e-6


def _step(optim: OptimConfig, compute: ComputeConfig | None = None, config: ViTConfig = TINY) -> TrainStep:
    torch.manual_seed(0)
    model = ViT(config)
    return TrainStep(model, build_optimizers(model, optim), optim, compute or ComputeConfig(), seed=0)


def _batch(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, generator=generator), torch.randint(3, (n,), generator=generator)


@pytest.mark.parametrize("micro", [2, 3, 5])
@pytest.mark.parametrize("soft", [False, True])
def test_accumulation_equals_the_whole_batch(micro: int, soft: bool) -> None:
    images, labels = _batch()
    targets = F.one_hot(labels, 3).float() * 0.8 + 0.2 / 3 if soft else labels
    optim = OptimConfig(name="sgd", lr=0.1)
    whole, parts = _step(optim), _step(optim, ComputeConfig(accumulation_steps=micro))
    for step in range(3):
        a, b = whole(images, targets, step, 1.0), parts(images, targets, step, 1.0)
        assert abs(float(a - b)) < ACCUMULATION_TOLERANCE
    for name, tensor in whole.model.state_dict().items():
        assert (tensor - parts.model.state_dict()[name]).abs().max() < ACCUMULATION_TOLERANCE, name


def test_more_micro_batches_than_images() -> None:
    images, labels = _batch(3)
    optim = OptimConfig(name="sgd", lr=0.1)
    whole, parts = _step(optim), _step(optim, ComputeConfig(accumulation_steps=5))
    assert float(whole(images, labels, 0, 1.0)) == pytest.approx(float(parts(images, labels, 0, 1.0)), abs=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "muon"])
def test_it_learns_twelve_images_by_heart(name: str) -> None:
    images, labels = _batch()
    step = _step(OptimConfig(name=name, lr=0.5 if name == "sgd" else 3e-3, weight_decay=0.0))  # type: ignore[arg-type]
    losses = [float(step(images, labels, i, 1.0)) for i in range(60)]
    assert losses[0] > 0.9
    assert losses[-1] < 0.05


def test_label_smoothing_is_that_of_cross_entropy() -> None:
    images, labels = _batch()
    step = _step(OptimConfig(label_smoothing=0.2))
    with torch.no_grad():
        expected = F.cross_entropy(step.model(images)["logits"], labels, label_smoothing=0.2)
    assert float(step(images, labels, 0, 1.0)) == pytest.approx(float(expected), abs=1e-6)


def test_clipping_bounds_the_move() -> None:
    images, labels = _batch()
    step = _step(OptimConfig(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.01))
    before = torch.cat([p.detach().flatten().clone() for p in step.model.parameters()])
    step(images, labels, 0, 1.0)
    after = torch.cat([p.detach().flatten() for p in step.model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_zero_learning_rate_moves_nothing() -> None:
    images, labels = _batch()
    step = _step(OptimConfig(name="muon", weight_decay=0.1))
    before = {n: p.detach().clone() for n, p in step.model.named_parameters()}
    step(images, labels, 0, 0.0)
    assert all(torch.equal(before[n], p.detach()) for n, p in step.model.named_parameters())


def test_dropout_follows_from_the_seed_and_the_step_alone() -> None:
    images, labels = _batch()
    config = dataclasses.replace(TINY, projection_dropout=0.5, stochastic_depth=0.5)
    losses: list[float] = []
    for step_number, noise in ((7, 0), (7, 1), (8, 0)):
        step = _step(OptimConfig(), config=config)
        torch.rand(noise)
        losses.append(float(step(images, labels, step_number, 1.0)))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_the_average_by_hand() -> None:
    torch.manual_seed(0)
    model = ViT(TINY)
    average = WeightAverage(model, decay=0.9)
    expected = model.head.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model.head.weight.add_(1.0)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.head.weight.detach()
    torch.testing.assert_close(average.model.head.weight, expected)
    assert not average.model.head.weight.requires_grad


def test_the_average_takes_the_buffers_of_a_stem_along() -> None:
    config = dataclasses.replace(TINY, patch_size=2, stem_channels=(4,), stem_strides=(2,))
    images, labels = _batch()
    step = _step(OptimConfig(ema_decay=0.5), config=config)
    for i in range(5):
        step(images, labels, i, 1.0)
    assert step.average is not None
    buffers = dict(step.average.model.named_buffers())
    ours = dict(step.model.named_buffers())
    counts = [name for name in buffers if name.endswith("num_batches_tracked")]
    means = [name for name in buffers if name.endswith("running_mean")]
    assert len(counts) == len(means) == 1
    assert int(buffers[counts[0]]) == int(ours[counts[0]]) == 5
    moved, latest = buffers[means[0]], ours[means[0]]
    assert moved.any()
    assert (moved - latest).norm() < latest.norm(), "on its way to the model's own"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["adam", "sgd", "muon"])
def test_it_learns_on_a_gpu(name: str, precision: str) -> None:
    torch.manual_seed(0)
    optim = OptimConfig(name=name, lr=0.5 if name == "sgd" else 3e-3, weight_decay=0.0, clip_norm=1.0, ema_decay=0.9)  # type: ignore[arg-type]
    model = ViT(TINY).cuda()
    step = TrainStep(model, build_optimizers(model, optim), optim, ComputeConfig(precision=precision), seed=0)  # type: ignore[arg-type]
    images, labels = (tensor.cuda() for tensor in _batch())
    losses = [float(step(images, labels, i, 1.0)) for i in range(60)]
    assert losses[-1] < 0.1 < losses[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_overflow_skips_the_step_of_every_optimiser() -> None:
    optim = OptimConfig(name="muon", clip_norm=1.0)
    model = ViT(TINY).cuda()
    step = TrainStep(model, build_optimizers(model, optim), optim, ComputeConfig(precision="fp16"), seed=0)
    images, labels = (tensor.cuda() for tensor in _batch())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    scale = step.scaler.get_scale()
    step(images * torch.inf, labels, 0, 1.0)
    assert all(torch.equal(before[n], p.detach()) for n, p in model.named_parameters())
    assert step.scaler.get_scale() < scale


def test_class_weights_do_not_depend_on_how_a_batch_is_cut() -> None:
    images, labels = _batch()
    optim = OptimConfig(name="sgd", lr=0.1, label_smoothing=0.1)
    weights = torch.tensor([0.3, 2.0, 0.7])
    whole, parts = _step(optim), _step(optim, ComputeConfig(accumulation_steps=4))
    whole.class_weights = parts.class_weights = weights
    logits = whole.model(images)["logits"].detach()
    losses = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    expected = (losses * weights[labels]).sum()
    found = whole(images, labels, 0, 1.0)
    assert float(found) == pytest.approx(float(expected / len(labels)), abs=1e-6)
    assert float(parts(images, F.one_hot(labels, 3).float(), 0, 1.0)) == pytest.approx(float(found), abs=1e-6)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], tensor, atol=ACCUMULATION_TOLERANCE, rtol=0)


def test_a_target_of_zeros_adds_nothing_with_label_smoothing() -> None:
    """An image that could not be read: its pixels are black and its target is empty."""
    images, labels = _batch()
    step = _step(OptimConfig(label_smoothing=0.1))
    logits, targets = step.model(images)["logits"], F.one_hot(labels, 3).float()
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    targets[5] = expected[5] = 0.0
    torch.testing.assert_close(step._loss_by_labels(logits, targets), expected.mean())


def test_an_average_that_keeps_the_start_lies_between_it_and_the_end() -> None:
    torch.manual_seed(0)
    model = ViT(TINY)
    average = WeightAverage(model, 0.9, keeps_start=True)
    start = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight += 1.0
    for step in range(3):
        average.update(step)
    torch.testing.assert_close(average.model.head.weight, start + 1 - 0.9**3)
