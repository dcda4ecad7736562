"""The same geometry from other libraries, imported only when somebody asks for a comparison."""

import importlib.util
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from vitrail.config import ViTConfig
from vitrail.config.checks import pair

PEERS = ("timm", "transformers")


def installed() -> tuple[str, ...]:
    """The peers that are here; nothing is imported."""
    return tuple(name for name in PEERS if importlib.util.find_spec(name))


def can_build(config: ViTConfig) -> bool:
    """Whether the peers have this architecture: the ViT of the paper, with a class token."""
    unlike = (
        config.stem_channels,
        config.num_registers,
        config.layer_scale,
        config.qk_norm,
        config.use_distillation_token,
        config.activation != "gelu",
        config.pooling != "cls",
        not config.use_class_token,
    )
    (height, width), (patch_y, patch_x) = pair(config.image_size), pair(config.patch_size)
    return not any(unlike) and height == width and patch_y == patch_x


def build(name: str, config: ViTConfig) -> nn.Module:
    """A peer's randomly initialised model of this geometry, as a module from images to logits.

    Raises:
        ImportError, RuntimeError: the library is not installed, or does not import beside this torch.
    """
    size, patch = pair(config.image_size)[0], pair(config.patch_size)[0]
    if name == "timm":
        from timm.models.vision_transformer import VisionTransformer

        model = VisionTransformer(
            img_size=size,
            patch_size=patch,
            in_chans=config.num_channels,
            num_classes=config.num_labels,
            embed_dim=config.hidden_size,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            mlp_ratio=config.mlp_ratio,
        )
        return cast(nn.Module, model)
    from transformers import ViTConfig as TheirConfig
    from transformers import ViTForImageClassification

    theirs = TheirConfig(  # type: ignore[call-arg]
        image_size=size,
        patch_size=patch,
        num_channels=config.num_channels,
        num_labels=config.num_labels,  # type: ignore[call-arg]
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return _Logits(ViTForImageClassification(theirs))


class _Logits(nn.Module):
    """A model of transformers, answering with its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def trainer(model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype | None = None) -> Callable[[], int]:
    """A plain training step of any model, with the fused AdamW that ours has; returns how many images it took."""
    model.to(images.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)

    def step() -> int:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            logits = model(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        if images.is_cuda:
            torch.cuda.synchronize()
        return len(images)

    return step
