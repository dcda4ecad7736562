"""The methods: which patches a class was read from, one number a patch.

In: a model, embedded tokens [B, N, D], and what is explained. Out: [B, patches], row-major. Positive maps say how much,
signed ones also in which direction. docs/explain.md has the figures that say which to trust.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.explanation.readout import readout
from vitrail.explanation.trace import TOKENS_AT_ONCE, Target, kept, logits_of, trace
from vitrail.model import ViT

Row = Float[Tensor, "B N"]
Map = Float[Tensor, "B patches"]


def attention(model: ViT, tokens: Float[Tensor, "B N D"], _: Target) -> Row:
    """Where the readout looks in the last layer, heads averaged."""
    with torch.no_grad():
        run = trace(model, tokens)
        return _through(readout(model, run), run.layers[-1].weights().mean(1))


def rollout(model: ViT, tokens: Float[Tensor, "B N D"], _: Target) -> Row:
    """Attention of all layers multiplied, half of each for the residual connection. Source: arXiv:2005.00928."""
    with torch.no_grad():
        run = trace(model, tokens)
        row = readout(model, run)
        for layer in reversed(run.layers):
            row = 0.5 * row + 0.5 * _through(row, layer.weights().mean(1))
        return row


def gradient_rollout(model: ViT, tokens: Float[Tensor, "B N D"], target: Target) -> Row:
    """Attention times its gradient, the positive part, carried down from the readout: r <- r + r E_h[(dA A)^+].

    Source: arXiv:2103.15679, section 3.2; the row of the readout alone is computed, which is the same.
    """
    run = trace(model, tokens)
    gradients = torch.autograd.grad(target.logit(run.logits).sum(), [a.mixed for a in run.layers], retain_graph=True)
    row = readout(model, run, target)
    with torch.no_grad():
        for layer, gradient in zip(reversed(run.layers), reversed(gradients), strict=True):
            weights, slope = layer.weights_and_gradient(gradient)
            row = row + _through(row, (slope * weights).clamp(min=0).mean(1))
        return row


def legrad(model: ViT, tokens: Float[Tensor, "B N D"], target: Target) -> Row:
    """The gradient of each layer's attention, as if that layer were the last; the positive part, layers averaged.

    Source: arXiv:2404.03214, section 3.
    """
    run, total = trace(model, tokens), tokens.new_zeros(tokens.shape[:2])
    for output, layer in zip(run.hidden[1:], run.layers, strict=True):
        score = target.logit(model.classify(model.norm(output)))
        (gradient,) = torch.autograd.grad(score.sum(), layer.mixed, retain_graph=True)
        with torch.no_grad():
            total += layer.weights_and_gradient(gradient)[1].clamp(min=0).mean((1, 2))
    return total / len(run.layers)


def grad_cam(model: ViT, tokens: Float[Tensor, "B N D"], target: Target) -> Row:
    """Channels of the last features weighted by their mean gradient, the positive part. Source: arXiv:1610.02391.

    Features: the output of the last block; where a class token is read, whose logit has no gradient at the other
    outputs, the input of the last attention.
    """
    run = trace(model, tokens)
    features = run.layers[-1].inputs if model.config.pooling in ("cls", "cls_dist") else run.hidden[-1]
    (gradient,) = torch.autograd.grad(target.logit(run.logits).sum(), features)
    weights = gradient[:, model.config.num_prefix_tokens :].mean(1, keepdim=True)
    return (features.detach() * weights).sum(-1).clamp(min=0)


def input_gradient(model: ViT, tokens: Float[Tensor, "B N D"], target: Target) -> Row:
    """Embedded tokens times the gradient there; signed."""
    run = trace(model, tokens)
    (gradient,) = torch.autograd.grad(target.logit(run.logits).sum(), run.hidden[0])
    return (gradient * tokens).sum(-1)


def removal_gradient(model: ViT, tokens: Float[Tensor, "B N D"], target: Target) -> Row:
    """How fast the logit falls when a token begins to vanish: `occlusion` to first order, all tokens at once; signed.

    Give each token a presence w, 1 as it is and 0 when it is not there: the attention to it is w exp(s) / sum w exp(s),
    and a mean over patches is sum w t / sum w. The derivative at w = 1 is, summed over layers, heads and queries,
    A (dA - sum_keys A dA), which is the gradient of the scores before the softmax; and what `_pooled` says of pooling.
    The derivation is our own; arXiv:2301.08110 weakens attention to tokens by a finite step, one pass for each token.
    """
    run = trace(model, tokens)
    taken = [*run.layers, run.pooling] if run.pooling else [*run.layers]
    *gradients, slope = torch.autograd.grad(
        target.logit(run.logits).sum(), [*(attended.mixed for attended in taken), run.normed]
    )
    with torch.no_grad():
        row, first = tokens.new_zeros(tokens.shape[:2]), model.config.num_prefix_tokens
        for attended, gradient in zip(taken, gradients, strict=True):
            weights, change = attended.weights_and_gradient(gradient)
            change = weights * change
            row[:, -weights.shape[-1] :] += (change - weights * change.sum(-1, keepdim=True)).sum((1, 2))
        row[:, first:] += _pooled(model.config.pooling, run.normed[:, first:], slope[:, first:].sum(1))
        return row


def _pooled(pooling: str, patches: Float[Tensor, "B n D"], slope: Float[Tensor, "B D"]) -> Map:
    """What a mean or a maximum over the patches loses when one begins to vanish; of a maximum, when it has vanished.

    Args:
        slope: gradient with respect to that mean or maximum.
    """
    parts = [torch.zeros_like(patches)] if pooling in ("cls", "cls_dist", "map") else []
    if pooling in ("mean", "mean_max", "cls_mean"):
        parts.append((patches - patches.mean(1, keepdim=True)) / patches.shape[1])
    if pooling in ("max", "mean_max") and patches.shape[1] > 1:
        two = patches.topk(2, dim=1).values
        parts.append((patches - two[:, 1:]).clamp(min=0))
    return torch.einsum("pbnd,bd->bn", torch.stack(parts), slope) / len(parts)


@torch.no_grad()
def occlusion(model: ViT, tokens: Float[Tensor, "B N D"], target: Target) -> Map:
    """How much the probability falls when a patch's token is left out; signed. As many passes as patches."""
    num_prefix = model.config.num_prefix_tokens
    num_patches = tokens.shape[1] - num_prefix
    whole = target.probability(logits_of(model, tokens))
    others = torch.tensor([[j for j in range(num_patches) if j != i] for i in range(num_patches)], device=tokens.device)
    at_once = max(1, 4 * TOKENS_AT_ONCE // tokens.shape[1] // len(tokens))
    falls: list[Tensor] = []
    for part in others.split(at_once):
        several, stay = tokens.repeat_interleave(len(part), 0), part.repeat(len(tokens), 1)
        logits = logits_of(model, kept(several, stay, num_prefix), stay)
        left = target.repeated(len(part)).probability(logits).unflatten(0, (len(tokens), -1))
        falls.append(whole[:, None] - left)
    return torch.cat(falls, dim=1)


@dataclass(frozen=True)
class Method:
    """A method, and how its maps are to be read.

    Args:
        row: of a batch of embedded tokens, a number for each token, or for each patch.
        is_signed: whether values below 0 speak against the class.
        is_class_specific: False: the map is the same for every class.
        is_cheap: False: as many passes as patches.
    """

    row: Callable[[ViT, Tensor, Target], Tensor]
    is_signed: bool = False
    is_class_specific: bool = True
    is_cheap: bool = True


METHODS = {
    "removal-gradient": Method(removal_gradient, is_signed=True),
    "gradient-rollout": Method(gradient_rollout),
    "legrad": Method(legrad),
    "grad-cam": Method(grad_cam),
    "input-gradient": Method(input_gradient, is_signed=True),
    "rollout": Method(rollout, is_class_specific=False),
    "attention": Method(attention, is_class_specific=False),
    "occlusion": Method(occlusion, is_signed=True, is_cheap=False),
}
DEFAULT = "removal-gradient"


def _through(row: Row, weights: Float[Tensor, "B N N"]) -> Row:
    return (row[:, None] @ weights)[:, 0]
