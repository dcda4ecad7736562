"""oneDNN's products equal those of F.linear, in values and in every gradient."""

import pytest
import torch
import torch.nn.functional as F

from tests.support.random_vit import random_vit
from vitrail.training.onednn_linear import has_onednn_linear, onednn_linear

RTOL = 2e-5  # relative to the largest entry: fp32 sums of up to 512 terms in another order

pytestmark = pytest.mark.skipif(not has_onednn_linear(), reason="torch without oneDNN")


def _close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=RTOL * float(expected.detach().abs().max()))


@pytest.mark.parametrize("shape", [(128, 48), (4, 65, 48), (2, 3, 40, 48)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients(shape: tuple[int, ...], has_bias: bool) -> None:
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(80, 48, requires_grad=True)
    bias = torch.randn(80, requires_grad=True) if has_bias else None
    wanted = [x, weight] + ([bias] if bias is not None else [])
    upstream = torch.randn(*shape[:-1], 80)
    expected = F.linear(x, weight, bias)
    with onednn_linear(True):
        got = F.linear(x, weight, bias)
    assert "_Linear" in type(got.grad_fn).__name__, "the quick kernel was not used"
    _close(got, expected)
    pairs = zip(
        torch.autograd.grad(got, wanted, upstream), torch.autograd.grad(expected, wanted, upstream), strict=True
    )
    for ours, theirs in pairs:
        _close(ours, theirs)


def test_only_the_gradients_that_are_wanted() -> None:
    x, weight = torch.randn(100, 8), torch.randn(4, 8, requires_grad=True)
    with onednn_linear(True):
        out = F.linear(x, weight)
    assert "_Linear" in type(out.grad_fn).__name__, "else it is torch that is tested"
    out.sum().backward()
    assert x.grad is None
    _close(weight.grad, x.sum(0).expand(4, 8))  # type: ignore[arg-type]
    frozen, moving = torch.randn(4, 8), torch.randn(100, 8, requires_grad=True)
    with onednn_linear(True):
        out = F.linear(moving, frozen, torch.randn(4))
    assert "_Linear" in type(out.grad_fn).__name__
    out.sum().backward()
    _close(moving.grad, frozen.sum(0).expand(100, 8))  # type: ignore[arg-type]


def test_what_does_not_fit_is_computed_as_ever() -> None:
    with onednn_linear(True):
        few = F.linear(torch.randn(63, 8), torch.randn(4, 8, requires_grad=True))
        double = F.linear(torch.randn(99, 8).double(), torch.randn(4, 8).double().requires_grad_())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = F.linear(torch.randn(99, 8), torch.randn(4, 8, requires_grad=True))
    for out in (few, double, half):
        assert "_Linear" not in type(out.grad_fn).__name__
    assert (double.dtype, half.dtype) == (torch.float64, torch.bfloat16)


def test_nothing_changes_outside_the_block() -> None:
    with onednn_linear(True):
        pass
    out = F.linear(torch.randn(99, 8), torch.randn(4, 8, requires_grad=True))
    assert "_Linear" not in type(out.grad_fn).__name__


def test_a_whole_model_and_twice_the_same() -> None:
    model = random_vit(num_hidden_layers=2, layer_scale=0.1).train()
    images, labels = torch.randn(12, 3, 16, 16), torch.arange(12) % 3
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(images, labels=labels)["loss"], parameters)
    runs = []
    for _ in range(2):
        with onednn_linear(True):
            runs.append(torch.autograd.grad(model(images, labels=labels)["loss"], parameters))
    for first, second, plain in zip(*runs, expected, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, plain, rtol=1e-4, atol=1e-6)
