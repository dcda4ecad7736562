"""Attention: the formula, and the fastest of torch's ways to compute it.

Shapes: B batch, A heads, N tokens, K head width.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

FEW_TOKENS = 128
"""Up to so many, all scores of attention take little room beside the other activations."""


def attention_written_out(
    q: Float[Tensor, "*batch N K"],
    k: Float[Tensor, "*batch N K"],
    v: Float[Tensor, "*batch N K"],
    scale: float | None = None,
    bias: Float[Tensor, "*#batch N N"] | None = None,
) -> Float[Tensor, "*batch N K"]:
    """Attend by the formula, softmax(q k^T * scale + bias) v: the readable twin of the fused kernel in the model.

    Args:
        scale: factor of the scores; None: 1 / sqrt(K).
        bias: of the scores; None: none.
    Source: arXiv:1706.03762, equation (1); arXiv:2010.11929, appendix A; the bias arXiv:2103.14030, equation (4).
    """
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (q * factor) @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(dim=-1) @ v


def attend(
    q: Float[Tensor, "B A N K"],
    k: Float[Tensor, "B A N K"],
    v: Float[Tensor, "B A N K"],
    *,
    scale: float | None,
    bias: Float[Tensor, "*#batch N N"] | None,
    dropout: float,
) -> Float[Tensor, "B A N K"]:
    """As `attention_written_out`, by torch's fused kernel wherever that is the fastest way.

    Args:
        dropout: probability with which a weight is dropped after the softmax.
    """
    on_cpu = q.device.type == "cpu"
    # Training in bf16 on a CPU: back through torch's fused kernel takes four to eight times as long as in fp32.
    slow_back = on_cpu and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    # Nor has the CPU's kernel a gradient for the bias; torch's own way around it takes half as long again.
    no_back = on_cpu and bias is not None and bias.requires_grad
    if not dropout and (no_back or (slow_back and q.shape[-2] <= FEW_TOKENS)):
        return attention_written_out(q, k, v, scale, bias)
    if slow_back and bias is None:
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), dropout_p=dropout, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
