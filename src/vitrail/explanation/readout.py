"""The row of the readout: from which tokens, and how much from each, the model's pooling takes what it classifies."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.explanation.trace import Target, Trace
from vitrail.model import ViT


def readout(model: ViT, run: Trace, target: Target | None = None) -> Float[Tensor, "B N"]:
    """Weights of the tokens after the last block; those of one image sum to 1, but for attention pooling with a target.

    | pooling | weights |
    |---|---|
    | cls; cls_dist | the class token; half each, class and distillation token |
    | mean | the same for each patch |
    | max | share of the channels whose maximum the patch holds, weighted by the size of their gradient |
    | mean_max | half as max, half as mean |
    | cls_mean | class token and patches, as the norms of the two gradients |
    | map | the positive part of attention times gradient of the pooling head, heads averaged |

    Args:
        target: whose gradient weighs channels, halves and heads; None: nothing weighs them, and no graph is needed.
    """
    pooling, first, tokens = model.config.pooling, model.config.num_prefix_tokens, run.normed
    row = tokens.new_zeros(tokens.shape[:2])
    patches = row[:, first:]
    if pooling in ("cls", "cls_dist"):
        row[:, 0] = 1.0
        if pooling == "cls_dist":
            row[:, :2] = 0.5
        return row
    if run.pooling is not None:
        patches.copy_(_pooling_head(run, target))
        return row
    patches.fill_(1 / patches.shape[1])
    if pooling == "mean":
        return row
    slope = torch.ones_like(tokens)
    if target is not None:
        (slope,) = torch.autograd.grad(target.logit(run.logits).sum(), run.normed, retain_graph=True)
    if pooling == "cls_mean":
        of_class, of_mean = slope[:, 0].norm(dim=-1), slope[:, first:].sum(1).norm(dim=-1)
        share = of_class / (of_class + of_mean) if target is not None else torch.full_like(of_class, 0.5)
        row *= (1 - share)[:, None]
        row[:, 0] = share
        return row
    with torch.no_grad():
        held = tokens[:, first:] == tokens[:, first:].amax(1, keepdim=True)
        weight = slope[:, first:].sum(1).abs()[:, None] * held / held.sum(1, keepdim=True)
        largest = weight.sum(-1) / weight.sum((1, 2))[:, None].clamp(min=torch.finfo(weight.dtype).tiny)
        patches.copy_(largest if pooling == "max" else 0.5 * (patches + largest))
    return row


def _pooling_head(run: Trace, target: Target | None) -> Float[Tensor, "B patches"]:
    """How the query of attention pooling attends to the patches."""
    assert run.pooling is not None
    if target is None:
        return run.pooling.weights().mean(1)[:, 0]
    (gradient,) = torch.autograd.grad(target.logit(run.logits).sum(), run.pooling.mixed, retain_graph=True)
    with torch.no_grad():
        weights, slope = run.pooling.weights_and_gradient(gradient)
        return (weights * slope).clamp(min=0).mean(1)[:, 0]
