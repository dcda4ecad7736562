"""Finding where in a model a number first was not finite."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.model import ViT


@contextlib.contextmanager
def watching(model: ViT) -> Iterator[list[str]]:
    """Note the layers whose output is not finite, in their order, for the length of a `with` block."""
    seen: list[str] = []
    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]

    def hook(name: str) -> Any:
        def note(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not bool(output.detach().isfinite().all()):
                seen.append(name)

        return note

    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_not_finite(model: ViT, images: Tensor, seen: list[str]) -> str:
    """The first thing that is not finite, in a few words; empty when everything is.

    Args:
        model: with gradients.
        images: its input.
        seen: what `watching` noted.
    """
    if not bool(images.isfinite().all()):
        return "the images"
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"the weight {name}"
    if seen:
        return f"the output of {seen[0]}"
    wrong = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    # Backwards, everything before the layer in which it began is spoilt: the last one in forward order is the culprit.
    return f"the gradient of {wrong[-1]}" if wrong else ""


def _finite(tensor: Tensor) -> bool:
    whole: Any = tensor.detach()
    return bool(torch.as_tensor(whole.to_local() if hasattr(whole, "to_local") else whole).isfinite().all())


def knowing(said: list[tuple[int, str, list[int]]]) -> list[tuple[int, str, list[int]]]:
    """Of what all processes say about a skipped step, (rank, where, ids), what tells most.

    Where gradients are summed over processes all see the bad ones; whoever saw more than that knows better.
    """
    return [one for one in said if one[1] and not one[1].startswith("the gradient")] or [o for o in said if o[1]]
