"""Does the model react to what a map shows? Patches are taken away in the map's order, and the answer is measured.

Taken away means that the token is not there; nothing is painted over, as a ViT runs on any of its tokens. The argument
is that of arXiv:2204.08945. Behind a convolutional stem a token has seen its neighbours, so that images with cells of
the mean colour are measured as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitrail.explanation.trace import TOKENS_AT_ONCE, Target, embed, kept, logits_of
from vitrail.model import ViT

Answers = Callable[[Int64[Tensor, "S M"], Int64[Tensor, " S"]], Float[Tensor, "S L"]]
"""Patches that stay, of the images of these numbers, to logits."""


@dataclass(frozen=True)
class Faithfulness:
    """How the probability falls while patches are taken away, all of them in the end; a mean of that curve, in [0, 1].

    Args:
        morf: the most relevant patches first; low is good.
        lerf: the least relevant first; high is good.
    """

    morf: float
    lerf: float

    @property
    def srg(self) -> float:
        """LeRF - MoRF: 0 for a random order, at most about the probability itself. Source: arXiv:2401.06654."""
        return self.lerf - self.morf


def steps(num_patches: int) -> list[int]:
    """How many patches are kept: 100, 90, ..., 10 %, and one."""
    return list(dict.fromkeys([max(1, round(num_patches * tenths / 10)) for tenths in range(10, 0, -1)] + [1]))


def without_tokens(model: ViT, tokens: Float[Tensor, "B N D"]) -> Answers:
    """What the model says when patches are not there."""

    def answers(patches: Tensor, images: Tensor) -> Tensor:
        return logits_of(model, kept(tokens[images], patches, model.config.num_prefix_tokens), patches)

    return answers


def with_mean_colour(model: ViT, images: Float[Tensor, "B C H W"], grid: tuple[int, int]) -> Answers:
    """What the model says when the cells of patches are painted with the mean colour of the image."""

    def answers(patches: Tensor, numbers: Tensor) -> Tensor:
        chosen = images[numbers]
        stays = torch.zeros(len(patches), grid[0] * grid[1], dtype=torch.bool, device=patches.device)
        mask = stays.scatter_(1, patches, True).unflatten(1, grid)[:, None]
        for axis, (size, cells) in enumerate(zip(chosen.shape[2:], grid, strict=True)):
            mask = mask.repeat_interleave(size // cells, axis + 2)
        return logits_of(model, embed(model, torch.where(mask, chosen, chosen.mean((2, 3), keepdim=True))))

    return answers


def curves(
    answers: Answers, orders: Int64[Tensor, "B O n"], target: Target, tokens_at_once: int = 4 * TOKENS_AT_ONCE
) -> Float[Tensor, "B O steps"]:
    """The probability while patches are taken away, the last of each order first.

    Args:
        answers: of the model.
        orders: O orders of the patches for each image; those in front are kept longest.
        target: whose probability is measured.
    """
    num_images, num_orders, num_patches = orders.shape
    rows = orders.flatten(0, 1)
    images = torch.arange(num_images, device=orders.device).repeat_interleave(num_orders)
    targets = target.repeated(num_orders)
    found: list[Tensor] = []
    for keep in steps(num_patches):
        if keep == num_patches:  # the same for every order
            logits = answers(orders[:, 0], images[::num_orders])
            found.append(targets.probability(logits.repeat_interleave(num_orders, 0)))
            continue
        parts = torch.arange(len(rows), device=rows.device).split(max(1, tokens_at_once // (keep + 8)))
        logits = torch.cat([answers(rows[part, :keep], images[part]) for part in parts])
        found.append(targets.probability(logits))
    return torch.stack(found, -1).unflatten(0, (num_images, num_orders))


def area(curve: Float[Tensor, "*rest steps"], num_patches: int) -> Float[Tensor, "*rest"]:
    """The mean of a curve over the share that was taken away, by trapezoids."""
    removed = torch.tensor([1 - keep / num_patches for keep in steps(num_patches)], device=curve.device)
    return torch.trapezoid(curve, removed, dim=-1) / removed[-1].clamp(min=1e-9) if len(removed) > 1 else curve[..., 0]


def faithfulness(answers: Answers, maps: Float[Tensor, "B n"], target: Target) -> list[Faithfulness]:
    """Measure maps, one for each image."""
    order = maps.argsort(dim=1, descending=True, stable=True)
    areas = area(curves(answers, torch.stack((order.flip(1), order), dim=1), target), maps.shape[1])
    return [Faithfulness(morf, lerf) for morf, lerf in areas.tolist()]


def random_srg(
    answers: Answers, num_patches: int, num_orders: int, target: Target, seed: int = 0
) -> Float[Tensor, "B O"]:
    """SRG of random orders, others for each image: what a map has that says nothing."""
    draw = torch.Generator().manual_seed(seed)
    orders = torch.rand(len(target.chosen), num_orders, num_patches, generator=draw).argsort(-1)
    both = torch.cat((orders.flip(-1), orders), dim=1).to(target.chosen.device)
    areas = area(curves(answers, both, target), num_patches)
    return areas[:, num_orders:] - areas[:, :num_orders]
