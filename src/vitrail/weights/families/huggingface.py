"""ViT and DeiT of Hugging Face transformers. Names as on disk, which transformers 5 still writes, and as in memory.

Source: huggingface/transformers:src/transformers/models/vit/modeling_vit.py, models/deit/modeling_deit.py.
"""

import re
from collections.abc import Mapping
from typing import Any, cast, get_args

from torch import Tensor

from vitrail.config import ViTConfig
from vitrail.config.checks import distinct_names, pair
from vitrail.errors import WeightsError, shown
from vitrail.weights.card import ProblemType
from vitrail.weights.geometry import check_patch_kernel, infer_geometry
from vitrail.weights.key_table import (
    DECODER,
    POOLER,
    Claim,
    Key,
    KeyTable,
    Reading,
    WeightSource,
    size_pair,
)
from vitrail.weights.preprocess import from_huggingface

NAME = "Hugging Face ViT"
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
_LABEL = re.compile(r"LABEL_\d+")
_ENDS = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.distillation_token", "dist_token"),
    ("embeddings.mask_token", "mask_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
    ("layernorm.*", "norm.*"),
)
_HEADS = (
    Key("classifier.*", "head.*"),
    Key("cls_classifier.*", "head.*"),
    Key("distillation_classifier.*", "head_dist.*"),
)


def _layers(stem: str, on_disk: bool) -> list[Key]:
    """The rows of one encoder layer below `stem`."""
    q, k, v, out = (
        ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense")
        if on_disk
        else ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")
    )
    fc1, fc2 = ("intermediate.dense", "output.dense") if on_disk else ("mlp.fc1", "mlp.fc2")
    return [
        Key(f"{stem}layernorm_before.*", "blocks.{i}.norm1.*"),
        Key(f"{stem}{q}.*", "blocks.{i}.attn.qkv.*", (0, 3)),
        Key(f"{stem}{k}.*", "blocks.{i}.attn.qkv.*", (1, 3)),
        Key(f"{stem}{v}.*", "blocks.{i}.attn.qkv.*", (2, 3)),
        Key(f"{stem}{out}.*", "blocks.{i}.attn.proj.*"),
        Key(f"{stem}layernorm_after.*", "blocks.{i}.norm2.*"),
        Key(f"{stem}{fc1}.*", "blocks.{i}.mlp.fc1.*"),
        Key(f"{stem}{fc2}.*", "blocks.{i}.mlp.fc2.*"),
    ]


def _table(prefix: str, on_disk: bool, heads: tuple[Key, ...]) -> KeyTable:
    layers = _layers(prefix + ("encoder.layer.{i}." if on_disk else "layers.{i}."), on_disk)
    return KeyTable([*(Key(prefix + theirs, ours) for theirs, ours in _ENDS), *layers, *heads])


TABLE = _table("vit.", True, _HEADS[:1])
DEIT_TABLE = _table("deit.", True, _HEADS[1:])
_TABLES = {(p, d): _table(p, d, _HEADS) for p in ("vit.", "deit.", "") for d in (True, False)}


def recognise(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str | None:
    """The evidence that this is a ViT or DeiT of transformers; None: it is not."""
    prefix = _prefix(tensors)
    if f"{prefix}embeddings.patch_embeddings.projection.weight" not in tensors and not any(
        name.startswith(f"{prefix}embeddings.") for name in tensors
    ):
        return None
    for on_disk, layer in ((True, "encoder.layer."), (False, "layers.")):
        start = prefix + layer
        if any(n.startswith(start) and ".layernorm_before." in n for n in tensors):
            said = f", model_type {config['model_type']}" if "model_type" in config else ""
            return f"{start}*.layernorm_before ({'on-disk' if on_disk else 'in-memory'} names){said}"
    return None


def read(source: WeightSource, evidence: str) -> Reading:
    """Read a ViT or DeiT of transformers."""
    config, prefix = source.config, _prefix(source.tensors)
    on_disk = any(n.startswith(f"{prefix}encoder.layer.") for n in source.tensors)
    tensors, mapped = _TABLES[prefix, on_disk].read(source.tensors)
    dropped = {
        name: reason
        for name in source.tensors
        for start, reason in ((f"{prefix}pooler.", POOLER), ("decoder.", DECODER))
        if name.startswith(start)
    }
    two_heads = "head_dist.weight" in tensors
    if two_heads and "dist_token" not in tensors:
        raise WeightsError(f"The file lacks {prefix}embeddings.distillation_token, but has its classifier.")
    behaviour, defaulted = common_behaviour(config, tensors, default_eps=1e-12)
    geometry = infer_geometry(
        tensors,
        asked_size=source.asked_size,
        image_size=size_pair(config.get("image_size")),
        pooling="cls_dist" if two_heads else "cls",
        position_resampling="bicubic",
        **behaviour,
    )
    preprocessing, silent = from_huggingface(
        source.preprocessor, config, pair(geometry.image_size), geometry.num_channels
    )
    classes, said = class_names(config, geometry.num_labels)
    return Reading(
        family=NAME if "dist_token" not in tensors else "Hugging Face DeiT, distilled",
        evidence=evidence,
        geometry=geometry,
        tensors=tensors,
        mapped=mapped,
        dropped=dropped,
        classes=classes,
        problem_type=problem_type(config),
        preprocessing=preprocessing,
        defaulted=(*defaulted, *silent, *said),
        claims=config_claims(config, geometry),
        table=_table(prefix, on_disk, _HEADS[1:] if two_heads else _HEADS),
    )


def common_behaviour(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, default_eps: float
) -> tuple[dict[str, Any], list[str]]:
    """What tensors do not tell, from config.json: heads, eps and activation; and what was missing there."""
    defaulted: list[str] = []
    heads, eps = config.get("num_attention_heads"), config.get("layer_norm_eps")
    if heads is None:
        heads = heads_of_width(tensors)
        defaulted.append(f"{heads} attention heads, 64 wide each")
    if eps is None:
        eps = default_eps
        defaulted.append(f"layer_norm_eps {eps} (of the family)")
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise WeightsError("config.json: unknown hidden_act.", got=activation, expected=", ".join(ACTIVATIONS))
    return {"heads": heads, "layer_norm_eps": float(eps), "activation": ACTIVATIONS[activation]}, defaulted


def heads_of_width(tensors: Mapping[str, Tensor]) -> int:
    """D / 64, which every published ViT but the giants has. Raises WeightsError when 64 does not divide D."""
    check_patch_kernel(tensors)
    kernel = tensors.get("patch_embed.proj.weight")
    width = kernel.shape[0] if kernel is not None else 64
    if width % 64:
        raise WeightsError(
            "Nothing says how many attention heads there are.",
            got=f"width {width}, which is no multiple of 64, and no num_attention_heads in a config.json",
            do='Write {"num_attention_heads": N} to config.json beside the weights, and give the folder.',
        )
    return width // 64


def config_claims(config: Mapping[str, Any], geometry: ViTConfig) -> tuple[Claim, ...]:
    """What config.json says about the tensors."""
    labels = config.get("id2label")
    return (
        ("hidden_size", geometry.hidden_size, config.get("hidden_size")),
        ("num_hidden_layers", geometry.num_hidden_layers, config.get("num_hidden_layers")),
        ("intermediate_size", geometry.intermediate_size, config.get("intermediate_size")),
        ("num_channels", geometry.num_channels, config.get("num_channels")),
        ("qkv_bias", geometry.qkv_bias, config.get("qkv_bias")),
        ("patch_size", pair(geometry.patch_size), size_pair(config.get("patch_size"))),
        ("num_register_tokens (register_tokens)", geometry.num_registers, config.get("num_register_tokens")),
        ("the number of classes", geometry.num_labels or None, _count(labels) if geometry.num_labels else None),
    )


def _count(labels: object) -> int | None:
    return len(cast(dict[str, Any], labels)) if isinstance(labels, dict) else None


def class_names(config: Mapping[str, Any], num_labels: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names from id2label in the order of their numbers, and what is to be said about them.

    Empty when they are LABEL_0, LABEL_1, ...: no names; and when the numbers are others than those of the logits.
    """
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not num_labels:
        return (), ()
    pairs: dict[int, str] = {}
    for number, name in cast(dict[Any, Any], labels).items():
        try:
            pairs[int(number)] = str(name)
        except ValueError as error:
            raise WeightsError(
                "config.json: id2label has a key that is no number.",
                got=shown(repr(number)),
                expected=f"0 to {num_labels - 1}, each with the name of a class",
            ) from error
    if sorted(pairs) != list(range(num_labels)):
        odd = sorted(set(range(num_labels)) ^ pairs.keys())
        return (), (f"classes unnamed: id2label does not have the numbers 0 to {num_labels - 1} (see {odd[0]})",)
    names = [pairs[number] for number in range(num_labels)]
    if all(_LABEL.fullmatch(name) for name in names):
        return (), ()
    return distinct_names(names), ()


def problem_type(config: Mapping[str, Any]) -> ProblemType:
    """What config.json says about the logits; silent: one class an image. Raises WeightsError for an unknown word."""
    said = config.get("problem_type") or "single_label_classification"
    if said not in get_args(ProblemType):
        raise WeightsError(
            "config.json: unknown problem_type.", got=shown(said), expected=", ".join(get_args(ProblemType))
        )
    return said


def _prefix(tensors: Mapping[str, Tensor]) -> str:
    return next((p for p in ("vit.", "deit.") if any(n.startswith(p) for n in tensors)), "")
