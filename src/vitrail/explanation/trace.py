"""A forward pass that is kept: from embedded tokens, all of an image or some, to logits, and everything between."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vitrail.config.vit import token_stride
from vitrail.model import Attended, ViT, tap_attention
from vitrail.model.relative import Places

TOKENS_AT_ONCE = 2048
"""Tokens in one pass with its gradient, about; four times as many without."""


@dataclass(frozen=True)
class Target:
    """What is explained, image by image: the logit of a class, or its lead over another one.

    Args:
        chosen: the class numbers.
        against: the other class numbers; None: the logit itself.
        is_yes_or_no: whether each logit stands for itself, as a sigmoid reads it.
    """

    chosen: Int64[Tensor, " B"]
    against: Int64[Tensor, " B"] | None = None
    is_yes_or_no: bool = False

    def logit(self, logits: Float[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """The number whose gradient is taken."""
        own = logits.gather(1, self.chosen[:, None])[:, 0]
        return own if self.against is None else own - logits.gather(1, self.against[:, None])[:, 0]

    def probability(self, logits: Float[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """The probability whose fall is measured: of the class; against another one, of the class if it is of both."""
        if self.against is not None or self.is_yes_or_no:
            return self.logit(logits).sigmoid()
        return logits.softmax(1).gather(1, self.chosen[:, None])[:, 0]

    def first(self, count: int) -> "Target":
        """That of the first images."""
        return Target(self.chosen[:count], None if self.against is None else self.against[:count], self.is_yes_or_no)

    def repeated(self, times: int) -> "Target":
        """The same for each image several times in a row."""
        against = None if self.against is None else self.against.repeat_interleave(times)
        return Target(self.chosen.repeat_interleave(times), against, self.is_yes_or_no)


@dataclass(frozen=True, eq=False)
class Trace:
    """One forward pass.

    Args:
        hidden: what enters the first block, and the output of each block.
        layers: the attention of each block.
        pooling: the attention of attention pooling, if the model has it.
        normed: what is pooled.
        logits: the same, to the last bit, as of the model.
    """

    hidden: tuple[Float[Tensor, "B N D"], ...]
    layers: tuple[Attended, ...]
    pooling: Attended | None
    normed: Float[Tensor, "B N D"]
    logits: Float[Tensor, "B L"]


@torch.no_grad()
def embed(model: ViT, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
    """The tokens that enter the first block: class, distillation, registers, patches, with their positions."""
    return model._embed(images, None, interpolate=True)


def grid_of(model: ViT, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches of images of this (height, width)."""
    stride_y, stride_x = token_stride(model.config)
    return size[0] // stride_y, size[1] // stride_x


def trace(model: ViT, tokens: Float[Tensor, "B N D"]) -> Trace:
    """Run the model from tokens on, and keep what the methods read; with a graph unless gradients are off."""
    taken: list[Attended] = []
    hidden = [tokens.detach().requires_grad_(torch.is_grad_enabled())]
    with tap_attention(model, taken.append):
        for block in model.blocks:
            hidden.append(block(hidden[-1]))
        normed = model.norm(hidden[-1])
        logits = model.classify(normed)
    depth = len(model.blocks)
    return Trace(tuple(hidden), tuple(taken[:depth]), taken[depth] if taken[depth:] else None, normed, logits)


@torch.no_grad()
def logits_of(
    model: ViT, tokens: Float[Tensor, "B N D"], patches: Int64[Tensor, "B M"] | None = None
) -> Float[Tensor, "B L"]:
    """The model's answer to tokens: of all patches, or of those that `kept` has kept."""
    places = Places(model.config.grid, patches)
    for block in model.blocks:
        tokens = block(tokens, places)
    return model.classify(model.norm(tokens))


def kept(
    tokens: Float[Tensor, "B N D"], patches: Int64[Tensor, "B M"], num_prefix: int
) -> Float[Tensor, "B prefix_and_M D"]:
    """The prefix tokens and some patches, each with the position it had."""
    chosen = (patches + num_prefix)[..., None].expand(-1, -1, tokens.shape[2])
    return torch.cat((tokens[:, :num_prefix], tokens.gather(1, chosen)), dim=1)
