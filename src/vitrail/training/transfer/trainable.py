"""Which weights move: all, the classifier alone or with the last blocks, one layer more at a time, or low-rank updates
beside the matrices.
"""

from typing import Any

from torch import Tensor

from vitrail import weights
from vitrail.config import OptimConfig
from vitrail.errors import ConfigError, import_hint
from vitrail.model import ViT
from vitrail.training.optim import layer_of

_HEADS = ("head.", "head_dist.")
# Of the encoder: every matrix that a token passes through.
_LORA_TARGETS = ("qkv", "proj", "fc1", "fc2", "gate", "up")
_LORA_MARK = ".lora_"


def prepare(model: ViT, config: OptimConfig) -> None:
    """Freeze what never moves in a run, and add the low-rank updates, before the optimisers are built.

    Raises:
        ConfigError: low-rank updates are asked for and peft is not installed.
    """
    if config.freeze == "trunk":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(_HEADS))
    if config.train_last:
        first = first_block(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(layer_of(name, model) > first)
    if config.lora_rank:
        _add_lora(model, config)


def to_training(model: ViT, config: OptimConfig, done: float) -> None:
    """Put a model into training mode and freeze what does not move yet.

    A frozen stem stays in evaluation mode, so that the statistics of its norms do not move either; so do blocks that
    never move, whose dropout would only be noise.

    Args:
        done: part of the run that is over, in [0, 1).
    """
    model.train()
    if config.freeze == "gradual":
        first = first_layer(model.config.num_hidden_layers, config.freeze_until, done)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(layer_of(name, model) >= first)
    if config.train_last:
        for module in (model.embedding_dropout, *model.blocks[: first_block(model, config)]):
            module.eval()
    if not any(parameter.requires_grad for parameter in model.stem.parameters()):
        model.stem.eval()


def first_block(model: ViT, config: OptimConfig) -> int:
    """The first block that moves under optim.train_last, counted from 0."""
    return model.config.num_hidden_layers - config.train_last


def first_layer(depth: int, until: float, done: float) -> int:
    """Lowest layer that moves under gradual unfreezing, in the numbers of `layer_of`: depth + 1 is the classifier.

    Source: "Universal Language Model Fine-tuning", arXiv:1801.06146, section 3.3, with equal stretches of the run.
    """
    if done >= until:
        return 0
    return depth + 1 - int(done / until * (depth + 1))


def merge_lora(model: ViT) -> ViT:
    """The same function as a plain ViT: low-rank updates added to their matrices. Itself where it has none."""
    tensors = model.state_dict()
    if not any(_LORA_MARK in name for name in tensors):
        return model
    result: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    for name, tensor in tensors.items():
        if _LORA_MARK in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name and plain.endswith(".weight"):
            layer: Any = modules[plain.removesuffix(".weight")]
            tensor = tensor + layer.get_delta_weight("default")
        result[plain] = tensor.detach()
    return weights.build_model(model.config, result, next(model.parameters()).device)


def _add_lora(model: ViT, config: OptimConfig) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "Low-rank updates need the peft library.", got=str(error).splitlines()[0], do=import_hint("peft")
        ) from error
    pattern = rf"blocks\.\d+\..*\b({'|'.join(_LORA_TARGETS)})"
    inject_adapter_in_model(LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=pattern), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_LORA_MARK in name or name.startswith(_HEADS))
