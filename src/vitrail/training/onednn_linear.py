"""Matrix products of linear layers by oneDNN's kernels while a model trains on a CPU; the model itself stays as it is.

On some processors (AMD's with AVX-512) oneDNN multiplies fp32 matrices of a ViT's shapes 5 to 25 % faster than the MKL
that `F.linear` calls: forward, and for the gradient of the input. On others it is slower; linear_kernels.py measures
which. The gradient of the weight stays with MKL, which is faster there. Sums are added in another order, so
results differ in the last bits (tests/training/test_onednn_linear.py).
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_LEAST_ROWS = 64  # below, the call costs more than the product


def has_onednn_linear() -> bool:
    """Whether this build of torch has the kernel."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(wanted: bool) -> contextlib.AbstractContextManager[object]:
    """Compute `F.linear` by oneDNN for the length of a `with` block, of everything that this thread calls there.

    fp32 on a CPU, outside autocast, with at least 64 rows; anything else is computed as ever.
    """
    return _Mode() if wanted else contextlib.nullcontext()


class _Mode(TorchFunctionMode):
    """Sees every call of a torch function and redirects one of them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and _fits(*args, **(kwargs or {})):
            return _Linear.apply(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fits(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    plain = type(input) is Tensor and input.device.type == "cpu" and weight.layout is torch.strided
    fp32 = input.dtype is torch.float32 and weight.dtype is torch.float32
    rows = input.numel() // max(input.shape[-1], 1) if input.ndim else 0
    return plain and fp32 and rows >= _LEAST_ROWS and weight.ndim == 2 and not torch.is_autocast_enabled("cpu")


class _Linear(torch.autograd.Function):
    """x W^T + b."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.has_bias = bias is not None
        return _product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the names of its arguments
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        rows = gradient.flatten(0, -2)
        needs_input, needs_weight = ctx.needs_input_grad[:2]
        needs_bias = ctx.has_bias and ctx.needs_input_grad[2]
        return (
            _product(gradient, weight.t(), None) if needs_input else None,
            rows.t() @ input.flatten(0, -2) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
