"""Finding where in a model a number first was not finite."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.distributed import World
from vitrail.errors import RunError
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


def gather_reports(world: World, where: str, ids: list[int]) -> tuple[list[dict[str, Any]], str]:
    """What every process found in a step that was skipped, and the same in words. All of them must call it.

    Args:
        where: the layer that this one found; empty: none.
        ids: of its images.
    """
    said = world.gather((world.rank, where, ids))
    # Where gradients are summed over processes all see the bad ones; whoever saw more than that knows better.
    said = [one for one in said if one[1] and not one[1].startswith("the gradient")] or [o for o in said if o[1]]
    found = [{"rank": rank, "where": where, "ids": ids} for rank, where, ids in said]
    return found, "; ".join(f"{where} (rank {rank})" for rank, where, _ in said) or "not found a second time"


def too_many(count: int, step: int, text: str, ids: list[int]) -> RunError:
    """The error of a run in which no step changes anything."""
    return RunError(
        f"{count} steps in a row had no finite gradient; the last one was step {step}.",
        got=f"{text}; images {', '.join(map(str, ids[:8]))}, ...",
        expected="finite numbers",
        do="The last checkpoint is intact. Start again with a lower --optim.lr, or with --optim.clip-norm 1.",
    )


def check_finite(value: float, what: str, step: int) -> None:
    """Raise RunError rather than go on, or save, after the weights have become worthless."""
    if not math.isfinite(value):
        raise RunError(
            f"The {what} is {value} at step {step}.",
            expected="a finite number",
            do="Start again with a lower --optim.lr, or with --optim.clip-norm 1.",
        )
