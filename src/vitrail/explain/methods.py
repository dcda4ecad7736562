"""The methods: which patches a class was read from, one number a patch.

In: a model, embedded tokens [B, N, D], and what is explained. Out: [B, patches], row-major. Positive maps say how much,
signed ones also in which direction. docs/explain.md has the figures that say which to trust.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.explain.readout import readout
from vitrail.explain.trace import TOKENS_AT_ONCE, Target, Trace, kept, logits_of, trace
from vitrail.model import ViT

Row = Float[Tensor, "B N"]
Map = Float[Tensor, "B patches"]


def attention(model: ViT, tokens: Float[Tensor, "B N D"], target: Target) -> Row:
    """Where the readout looks in the last layer, heads averaged."""
    with torch.no_grad():
        run = trace(model, tokens)
        return _through(readout(model, run), run.layers[-1].weights().mean(1))


def rollout(model: ViT, tokens: Float[Tensor, "B N D"], target: Target) -> Row:
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
        several = tokens.repeat_interleave(len(part), 0)
        logits = logits_of(model, kept(several, part.repeat(len(tokens), 1), num_prefix))
        left = target.repeated(len(part)).probability(logits).unflatten(0, (len(tokens), -1))
        falls.append(whole[:, None] - left)
    return torch.cat(falls, dim=1)


def _through(row: Row, weights: Float[Tensor, "B N N"]) -> Row:
    return (row[:, None] @ weights)[:, 0]
