"""The system that vitrail implements anew: ViT-B/16 with fused query, key and value, trained on CIFAR.

Its names are those of transformers but for the attention (`attention.qkv`, `attention.proj`). LayerNorm eps 1e-12,
exact GELU, bicubic positions. Its training saves a dictionary of epoch, model_state_dict, optimizer_state_dict and
accuracy; its fine-tuning a state_dict alone.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.config.checks import pair
from vitrail.weights.families.huggingface import common_behaviour
from vitrail.weights.geometry import infer_geometry
from vitrail.weights.heads import is_head
from vitrail.weights.key_table import Key, KeyTable, Reading, WeightSource
from vitrail.weights.preprocess import HALF, squash

NAME = "reference"
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
_TRAINING = "model_state_dict."


def _table(prefix: str) -> KeyTable:
    layer = prefix + "encoder.layer.{i}."
    return KeyTable(
        [
            Key(f"{prefix}embeddings.cls_token", "cls_token"),
            Key(f"{prefix}embeddings.mask_token", "mask_token"),
            Key(f"{prefix}embeddings.position_embeddings", "pos_embed"),
            Key(f"{prefix}embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
            Key(f"{layer}layernorm_before.*", "blocks.{i}.norm1.*"),
            Key(f"{layer}attention.qkv.*", "blocks.{i}.attn.qkv.*"),
            Key(f"{layer}attention.proj.*", "blocks.{i}.attn.proj.*"),
            Key(f"{layer}layernorm_after.*", "blocks.{i}.norm2.*"),
            Key(f"{layer}intermediate.dense.*", "blocks.{i}.mlp.fc1.*"),
            Key(f"{layer}output.dense.*", "blocks.{i}.mlp.fc2.*"),
            Key(f"{prefix}layernorm.*", "norm.*"),
            Key("classifier.*", "head.*"),
        ]
    )


TABLE = _table("")
_TABLES = {"": TABLE, "vit.": _table("vit.")}


def recognise(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str | None:
    """The evidence that these are the reference system's names; None: they are not."""
    prefix = _prefix(tensors)
    layer = f"{prefix}encoder.layer."
    if not any(n.startswith(f"{prefix}embeddings.") for n in tensors):
        return None
    if not any(n.startswith(layer) and ".attention.qkv." in n for n in tensors):
        return None
    return f"{layer}*.attention.qkv"


def read(source: WeightSource, evidence: str) -> Reading:
    """Read the reference system's ViT."""
    table = _TABLES[_prefix(source.tensors)]
    tensors, mapped = table.read(source.tensors)
    stated = {name: source.config[name] for name in ("num_attention_heads",) if name in source.config}
    behaviour, defaulted = common_behaviour({**stated, "layer_norm_eps": 1e-12}, tensors, default_eps=1e-12)
    geometry = infer_geometry(
        tensors, pooling="cls", position_resampling="bicubic", asked_size=source.asked_size, **behaviour
    )
    size, channels = pair(geometry.image_size), geometry.num_channels
    mean, std, whose = HALF[:channels], HALF[:channels], "0.5, as in its fine-tuning"
    heads = [tensor.shape[0] for name, tensor in source.tensors.items() if is_head(name) and tensor.ndim == 2]
    if source.prefix.startswith(_TRAINING) and heads == [10] and channels == 3:
        mean, std, whose = CIFAR10_MEAN, CIFAR10_STD, "of CIFAR-10, as in its training from scratch"
    return Reading(
        family=NAME,
        evidence=evidence,
        geometry=geometry,
        tensors=tensors,
        mapped=mapped,
        table=table,
        preprocessing=squash(size, mean, std, "bilinear"),
        defaulted=(*defaulted, f"both sides squashed to {size[0]}x{size[1]}, bilinear", f"mean and std {whose}"),
    )


def _prefix(tensors: Mapping[str, Tensor]) -> str:
    return "vit." if any(n.startswith("vit.") for n in tensors) else ""
