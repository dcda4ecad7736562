"""Small models whose every parameter is random, so that no wrong path hides behind a zero or a one."""

import torch
from torch import nn

from vitrail.config import ViTConfig
from vitrail.model import ViT

SMALL = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_labels": 5,
}


def random_vit(seed: int = 0, **changes: object) -> ViT:
    """A ViT of the SMALL geometry with `changes`, all parameters random, in evaluation mode."""
    model = ViT(ViTConfig(**{**SMALL, **changes}))  # type: ignore[arg-type]
    randomise(model, seed)
    return model.eval()


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0, std: float = 0.1) -> None:
    """Fill every parameter from N(0, std), scales of norms from N(1, std); statistics of batch norms likewise."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_scale = name == "weight" and isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
            parameter.normal_(1.0 if is_scale else 0.0, std, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0.0, std, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
