"""The MLP's other forms: the GELUs of other libraries, and the gated SwiGLU. The plain MLP is in vit.py."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.config import ViTConfig


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation (arXiv:1606.08415, section 2), as Flax computes it."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """Approximate GELU by x * sigmoid(1.702 x), as in OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu}


class SwiGLU(nn.Module):
    """fc2(silu(gate(x)) * up(x)), applied to each token alone (arXiv:2002.05202)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.projection_dropout) if config.projection_dropout else nn.Identity()

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return self.dropout(self.fc2(self.dropout(F.silu(self.gate(x)) * self.up(x))))
