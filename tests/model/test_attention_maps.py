"""Attention weights with the fast kernels: the right ones, for every layer, and the logits as they were."""

from typing import Any, cast

import torch

from tests.support.random_vit import random_vit
from vitrail.model import record_attention

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_every_layer_is_recorded_and_the_logits_stay() -> None:
    model = random_vit(num_registers=2, qk_norm=True)
    plain = model(IMAGES)["logits"]
    with record_attention(model) as maps:
        recorded = model(IMAGES)["logits"]
    assert torch.equal(plain, recorded)
    assert [tuple(m.shape) for m in maps] == [(2, 4, 19, 19)] * 2
    for layer in maps:
        torch.testing.assert_close(layer.sum(-1), torch.ones(2, 4, 19))
    model(IMAGES)
    assert len(maps) == 2  # recording has ended


def test_the_weights_are_those_that_the_kernel_used() -> None:
    model = random_vit()
    attention: Any = cast(Any, model.blocks[0]).attn
    inputs: list[torch.Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    with record_attention(model) as maps:
        model(IMAGES)
    handle.remove()
    v = attention.qkv(inputs[0])[..., 64:].unflatten(-1, (4, 8)).transpose(1, 2)
    mixed = attention.proj((maps[0] @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, attention(inputs[0]), atol=1e-5, rtol=1e-5)
