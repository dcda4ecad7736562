"""From tokens to what is classified. In: tokens after the encoder [B, N, D]. Out: features [B, D], or [B, 2D]."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.config import ViTConfig


def pool_tokens(tokens: Float[Tensor, "B N D"], kind: str, num_prefix: int) -> Float[Tensor, "B features"]:
    """Reduce tokens without learned parameters.

    Args:
        tokens: class token, distillation token and registers first, then the patches.
        kind: cls, mean, max, mean_max (the average of both) or cls_mean ([cls ; mean], 2D wide); means and maxima are
            over the patches alone.
        num_prefix: tokens before the patches.
    """
    if kind == "cls":
        return tokens[:, 0]
    patches = tokens[:, num_prefix:]
    if kind == "max":
        return patches.amax(dim=1)
    mean = patches.mean(dim=1)
    if kind == "mean_max":
        return 0.5 * (mean + patches.amax(dim=1))
    return torch.cat((tokens[:, 0], mean), dim=-1) if kind == "cls_mean" else mean


class AttentionPooling(nn.Module):
    """A learned query attends to every patch, then an MLP with a residual connection.

    Source: arXiv:2106.04560, multihead attention pooling (MAP), as in google-research/big_vision:models/vit.py.
    """

    def __init__(self, config: ViTConfig, mlp: nn.Module) -> None:
        super().__init__()
        width, self.num_heads, self.scale = config.hidden_size, config.num_attention_heads, None
        self.latent = nn.Parameter(torch.empty(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = mlp

    def split(self, patches: Float[Tensor, "B N D"]) -> tuple[Tensor, Tensor, Tensor]:
        """The one query [B, A, 1, K], and keys and values [B, A, N, K], as they go into the attention."""
        q = self.q(self.latent).expand(patches.shape[0], -1, -1).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(patches).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        q, k, v = self.split(patches)
        x = F.scaled_dot_product_attention(q, k, v)
        x = self.proj(x.transpose(1, 2).flatten(2))
        return (x + self.mlp(self.norm(x)))[:, 0]
