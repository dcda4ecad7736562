"""Attention weights beside the fused kernels: recomputed from the inputs of each layer, the forward pass untouched."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.model.vit import Attention, ViT


@contextmanager
def record_attention(model: ViT) -> Iterator[list[Float[Tensor, "B A N N"]]]:
    """Collect the attention weights of every layer while the block runs.

    The model keeps its fused attention and answers with the same logits; the weights are computed a second time, as
    softmax(q k^T * scale), without dropout. Each forward pass appends one tensor a layer.

    Yields:
        The list that grows: [B, A, N, N] a layer, rows sum to 1, tokens in the order of `ViT.forward_features`.
    Source: arXiv:1706.03762, equation (1).
    """
    maps: list[Tensor] = []

    def record(module: torch.nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        assert isinstance(module, Attention)
        q, k, _ = module.split(inputs[0])
        scale = q.shape[-1] ** -0.5 if module.scale is None else module.scale
        maps.append((q @ k.transpose(-2, -1) * scale).softmax(dim=-1))

    handles = [layer.register_forward_hook(record) for layer in model.modules() if isinstance(layer, Attention)]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
