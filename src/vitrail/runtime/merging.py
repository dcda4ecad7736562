"""Token merging (ToMe): in every layer the pairs of patches that look most alike become one token; no training.

In: a `ViT` and images. Out: logits, at a cost in accuracy that is measured, not promised. The model itself is untouched
and stays the one to read; here its layers are walked through with two changes:

* between attention and MLP, `count` patches are merged into their most similar partner, as their keys tell;
* a token that stands for s patches counts s times in the attention: log(s) is added to its scores.

Class, distillation and register tokens are never merged. Before pooling, every patch gets the token that stands for it,
so that means and attention pooling weigh a merged token by its patches.

Paper: "Token Merging: Your ViT But Faster", arXiv:2210.09461, section 3
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from vitrail.errors import ConfigError
from vitrail.model import ViT
from vitrail.model.vit import Attention, Block


def check_mergeable(model: ViT) -> None:
    """Raise ConfigError for a model whose tokens must know where they lie."""
    if model.config.relative_positions:
        raise ConfigError(
            "Tokens of a model with relative positions cannot be merged: a merged token lies at several places.",
            got="--merge",
            do="Leave --merge out.",
        )


def merged_logits(
    model: ViT, images: Float[Tensor, "B C H W"], count: int, *, interpolate: bool = False
) -> Float[Tensor, "B L"]:
    """Classify with `count` tokens fewer after each layer, as long as there are pairs.

    Args:
        model: in evaluation mode.
        images: normalised.
        count: r of the paper; at most half of the patches that are left are merged.
        interpolate: as interpolate_pos_encoding of the model.
    """
    check_mergeable(model)
    x = model._embed(images, None, interpolate)
    num_prefix = model.config.num_prefix_tokens
    sizes = x.new_ones(x.shape[:2])  # patches that a token stands for
    place = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)  # where each token of the start is now
    for block in model.blocks:
        assert isinstance(block, Block)
        attended, keys = _attend(block.attn, block.norm1(x), sizes)
        x = x + block.ls1(attended)
        num_merged = min(count, (x.shape[1] - num_prefix) // 2)
        if num_merged > 0:
            new_place = match(keys, num_prefix, num_merged)
            x, sizes = merge(x, sizes, new_place, x.shape[1] - num_merged)
            place = new_place.gather(1, place)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    x = model.norm(x)
    return model.classify(x.gather(1, place[..., None].expand(-1, -1, x.shape[2])))


def match(keys: Float[Tensor, "B N K"], num_prefix: int, num_merged: int) -> Int64[Tensor, "B N"]:
    """Decide which patches are merged: bipartite soft matching.

    The patches are dealt into two sets, in turn. Each of the first set finds the most similar one of the second; the
    `num_merged` most similar pairs become one token.

    Args:
        keys: what similarity is measured on, the keys averaged over the heads; the prefix tokens come first.
        num_prefix: tokens that stay as they are.
        num_merged: at most half of the patches.
    Returns:
        Where each token goes: prefix, then the unmerged ones of the first set in their order, then the second set.
    Source: arXiv:2210.09461, section 3 and appendix D.
    """
    keys = F.normalize(keys[:, num_prefix:], dim=-1)
    first, second = keys[:, 0::2], keys[:, 1::2]
    best, partner = (first @ second.transpose(1, 2)).max(-1)  # [B, first]
    order = best.argsort(dim=1, descending=True)
    is_merged = torch.zeros_like(best, dtype=torch.bool).scatter_(1, order[:, :num_merged], True)
    kept = (~is_merged).cumsum(1) - 1
    num_kept = first.shape[1] - num_merged
    place = keys.new_empty(keys.shape[:2], dtype=torch.int64)
    place[:, 0::2] = torch.where(is_merged, num_kept + partner, kept)
    place[:, 1::2] = num_kept + torch.arange(second.shape[1], device=keys.device)
    prefix = torch.arange(num_prefix, device=keys.device).expand(keys.shape[0], -1)
    return torch.cat((prefix, num_prefix + place), dim=1)


def merge(
    x: Float[Tensor, "B N D"], sizes: Float[Tensor, "B N"], place: Int64[Tensor, "B N"], num_places: int
) -> tuple[Float[Tensor, "B M D"], Float[Tensor, "B M"]]:
    """Average the tokens that go to the same place, each weighted by the patches it stands for.

    Args:
        place: where each token goes, as `match` says.
        num_places: M, tokens that are left.
    Returns:
        The tokens, and the patches that each of them stands for.
    """
    weights = F.one_hot(place, num_places).to(x.dtype).mul_(sizes[..., None]).transpose(1, 2)  # [B, M, N]
    new_sizes = weights.sum(2)
    return (weights / new_sizes[..., None]) @ x, new_sizes


def _attend(layer: Attention, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The model's attention, with tokens that count by their size; and the keys [B, N, K], averaged over the heads."""
    q, k, v = layer.split(x)
    weight = sizes.log()[:, None, None, :].to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=weight, scale=layer.scale)
    return layer.proj(out.transpose(1, 2).flatten(2)), k.mean(1)
