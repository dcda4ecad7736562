"""Attention weights and their gradients beside the fused kernels: recomputed, the forward pass untouched.

The fused kernel gives z = softmax(q k^T * scale) v and never has the weights A = softmax(...) in memory. Both A and its
gradient follow from what enters and leaves the kernel: A is computed again from q and k, and because a logit depends on
A only through z = A v, its gradient is dA = G v^T, where G is the gradient of z. So the logits stay those of the fused
kernel to the last bit, and one layer's weights are in memory at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vitrail.model.pooling import AttentionPooling
from vitrail.model.relative import Places
from vitrail.model.vit import Attention, ViT


@dataclass(frozen=True, eq=False)
class Attended:
    """One attention of one forward pass: M queries (N of them in a layer, one in attention pooling), N keys.

    Args:
        module: whose attention it is.
        inputs: the tokens that entered it.
        mixed: z, the weighted values, heads side by side, as they go into the projection.
        places: where the tokens lie, as it was told.
    """

    module: Attention | AttentionPooling
    inputs: Float[Tensor, "B N D"]
    mixed: Float[Tensor, "B M D"]
    places: Places | None = None

    def weights(self) -> Float[Tensor, "B A M N"]:
        """A = softmax(q k^T * scale), without dropout: rows sum to 1. Source: arXiv:1706.03762, equation (1)."""
        q, k, _ = self.module.split(self.inputs)
        return self._softmax(q, k)

    def weights_and_gradient(
        self, mixed_gradient: Float[Tensor, "B M D"]
    ) -> tuple[Float[Tensor, "B A M N"], Float[Tensor, "B A M N"]]:
        """A, and the gradient of something with respect to A, from the gradient of the same with respect to `mixed`."""
        q, k, v = self.module.split(self.inputs)
        gradient = mixed_gradient.unflatten(-1, (self.module.num_heads, -1)).transpose(1, 2)
        return self._softmax(q, k), gradient @ v.transpose(-2, -1)

    def _softmax(self, q: Tensor, k: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5 if self.module.scale is None else self.module.scale
        scores = q @ k.transpose(-2, -1) * scale
        if isinstance(self.module, Attention) and self.module.relative:
            scores = scores + self.module.relative(self.places)
        return scores.softmax(dim=-1)


@contextmanager
def tap_attention(model: ViT, on_attended: Callable[[Attended], object]) -> Iterator[None]:
    """Call `on_attended` after each attention of each forward pass in the block: the layers', then the pooling's."""
    handles = [
        handle
        for module in model.modules()
        if isinstance(module, Attention | AttentionPooling)
        for handle in _hooked(module, on_attended)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_attention(model: ViT) -> Iterator[list[Float[Tensor, "B A M N"]]]:
    """Collect the attention weights of every layer while the block runs.

    The model keeps its fused attention and answers with the same logits; the weights are computed a second time. Each
    forward pass appends one tensor a layer, and all of them stay in memory; `vitrail.explain` needs one at a time.

    Yields:
        The list that grows: [B, A, N, N] a layer, rows sum to 1, tokens in the order of `ViT.forward_features`; with
        attention pooling a last one, [B, A, 1, patches].
    Source: arXiv:1706.03762, equation (1).
    """
    maps: list[Tensor] = []
    with tap_attention(model, lambda attended: maps.append(attended.weights())):
        yield maps


def _hooked(
    module: Attention | AttentionPooling, on_attended: Callable[[Attended], object]
) -> Iterator[RemovableHandle]:
    entered: list[tuple[Any, ...]] = []

    def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        entered[:] = [inputs]

    def leave(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tokens, *places = entered.pop()
        on_attended(Attended(module, tokens, inputs[0], *places))

    yield module.register_forward_pre_hook(enter)
    yield module.proj.register_forward_pre_hook(leave)
