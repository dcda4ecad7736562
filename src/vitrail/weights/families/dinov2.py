"""DINOv2 with and without registers: Meta's original files and those of Hugging Face.

Source: facebookresearch/dinov2:dinov2/models/vision_transformer.py;
huggingface/transformers:src/transformers/models/dinov2/modeling_dinov2.py. Paper: arXiv:2304.07193, arXiv:2309.16588.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.config.checks import pair
from vitrail.errors import WeightsError
from vitrail.weights.families.huggingface import class_names, common_behaviour, config_claims, problem_type
from vitrail.weights.geometry import infer_geometry
from vitrail.weights.key_table import Key, KeyTable, Reading, WeightSource, size_pair
from vitrail.weights.preprocess import IMAGENET_MEAN, IMAGENET_STD, from_huggingface, shorter_side

NAME = "DINOv2"
_CHUNKED = re.compile(r"blocks\.\d+\.(\d+)\.(.+)")


def _row(tensor: Tensor) -> Tensor:
    """[1, D] to [1, 1, D]."""
    return tensor[:, None] if tensor.ndim == 2 else tensor


def _flat(tensor: Tensor) -> Tensor:
    return tensor[:, 0]


META = KeyTable(
    [
        Key("cls_token", "cls_token"),
        Key("mask_token", "mask_token", to_ours=_row, to_theirs=_flat),
        Key("register_tokens", "reg_token"),
        Key("pos_embed", "pos_embed"),
        Key("patch_embed.proj.*", "patch_embed.proj.*"),
        *(Key(f"blocks.{{i}}.{n}.*", f"blocks.{{i}}.{n}.*") for n in ("norm1", "attn.qkv", "attn.proj", "norm2")),
        *(Key(f"blocks.{{i}}.{n}.gamma", f"blocks.{{i}}.{n}.gamma") for n in ("ls1", "ls2")),
        *(Key(f"blocks.{{i}}.mlp.{n}.*", f"blocks.{{i}}.mlp.{n}.*") for n in ("fc1", "fc2")),
        Key("norm.*", "norm.*"),
    ]
)


def _layers(stem: str) -> list[Key]:
    """The rows of one layer below `stem`: names as on disk first, then as in memory."""
    on_disk, in_memory = f"{stem}attention.attention.", f"{stem}attention."
    return [
        Key(f"{stem}norm1.*", "blocks.{i}.norm1.*"),
        *(Key(f"{on_disk}{n}.*", "blocks.{i}.attn.qkv.*", (k, 3)) for k, n in enumerate(("query", "key", "value"))),
        *(Key(f"{in_memory}{n}_proj.*", "blocks.{i}.attn.qkv.*", (k, 3)) for k, n in enumerate("qkv")),
        Key(f"{stem}attention.output.dense.*", "blocks.{i}.attn.proj.*"),
        Key(f"{stem}attention.o_proj.*", "blocks.{i}.attn.proj.*"),
        Key(f"{stem}layer_scale1.lambda1", "blocks.{i}.ls1.gamma"),
        Key(f"{stem}norm2.*", "blocks.{i}.norm2.*"),
        Key(f"{stem}mlp.fc1.*", "blocks.{i}.mlp.fc1.*"),
        Key(f"{stem}mlp.fc2.*", "blocks.{i}.mlp.fc2.*"),
        Key(f"{stem}mlp.weights_out.*", "blocks.{i}.mlp.fc2.*"),
        Key(f"{stem}mlp.gate_proj.*", "blocks.{i}.mlp.gate.*"),
        Key(f"{stem}mlp.up_proj.*", "blocks.{i}.mlp.up.*"),
        Key(f"{stem}mlp.down_proj.*", "blocks.{i}.mlp.fc2.*"),
        Key(f"{stem}layer_scale2.lambda1", "blocks.{i}.ls2.gamma"),
    ]


def _table(prefix: str) -> KeyTable:
    return KeyTable(
        [
            Key(f"{prefix}embeddings.cls_token", "cls_token"),
            Key(f"{prefix}embeddings.mask_token", "mask_token", to_ours=_row, to_theirs=_flat),
            Key(f"{prefix}embeddings.register_tokens", "reg_token"),
            Key(f"{prefix}embeddings.position_embeddings", "pos_embed"),
            Key(f"{prefix}embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
            *_layers(f"{prefix}encoder.layer.{{i}}."),
            *_layers(f"{prefix}layers.{{i}}."),
            Key(f"{prefix}layernorm.*", "norm.*"),
            Key("classifier.*", "head.*"),
        ]
    )


PREFIXES = ("dinov2_with_registers.", "dinov2.", "")
HF_TABLES = {prefix: _table(prefix) for prefix in PREFIXES}
TABLE = HF_TABLES["dinov2."]


def recognise(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str | None:
    """The evidence that this is DINOv2; None: it is not."""
    if any(n.startswith("blocks.") for n in tensors) and "decoder_pos_embed" not in tensors:
        mask = tensors.get("mask_token")
        if "register_tokens" in tensors or (mask is not None and mask.ndim == 2):
            return "blocks.* with register_tokens or a mask_token of two dimensions (Meta's names)"
    if any(n.endswith(("layer_scale1.lambda1", "layer_scale2.lambda1")) for n in tensors):
        prefix = _prefix(tensors)
        if any(n.startswith((f"{prefix}encoder.layer.", f"{prefix}layers.")) for n in tensors):
            return f"{prefix}*.layer_scale1.lambda1 (names of transformers)"
    return None


def read(source: WeightSource, evidence: str) -> Reading:
    """Read DINOv2."""
    if any(n.startswith("blocks.") for n in source.tensors):
        return _read_meta(source, evidence)
    config, prefix = source.config, _prefix(source.tensors)
    tensors, mapped = HF_TABLES[prefix].read(source.tensors)
    if prefix == PREFIXES[0] and "reg_token" not in tensors:
        raise WeightsError(f"The file lacks {prefix}embeddings.register_tokens.", got="a model with registers by name")
    split_gates(source.tensors, tensors, mapped, re.compile(r".*layers?\.(\d+)\.mlp\.weights_in\.(weight|bias)"))
    behaviour, defaulted = common_behaviour(config, tensors, default_eps=1e-6)
    behaviour.pop("activation") if "blocks.0.mlp.gate.weight" in tensors else None
    geometry = infer_geometry(
        tensors,
        asked_size=source.asked_size,
        image_size=size_pair(config.get("image_size")),
        pooling="cls_mean" if "head.weight" in tensors else "cls",
        position_resampling="bicubic_antialias" if "reg_token" in tensors else "bicubic",
        **behaviour,
    )
    preprocessing, silent = from_huggingface(
        source.preprocessor, {"model_type": "dinov2", **config}, pair(geometry.image_size), geometry.num_channels
    )
    classes, said = class_names(config, geometry.num_labels)
    return Reading(
        family=f"{NAME}, Hugging Face",
        evidence=evidence,
        geometry=geometry,
        tensors=tensors,
        mapped=mapped,
        classes=classes,
        problem_type=problem_type(config),
        claims=config_claims(config, geometry),
        table=HF_TABLES[prefix],
        preprocessing=preprocessing,
        defaulted=(*defaulted, *silent, *said),
    )


def _read_meta(source: WeightSource, evidence: str) -> Reading:
    names = {name: _CHUNKED.sub(r"blocks.\1.\2", name) for name in source.tensors}  # the chunk is no block number
    renamed = {names[name]: tensor for name, tensor in source.tensors.items()}
    tensors, mapped = META.read(renamed)
    split_gates(renamed, tensors, mapped, re.compile(r"blocks\.(\d+)\.mlp\.w12\.(weight|bias)"))
    for name, tensor in renamed.items():
        if found := re.fullmatch(r"blocks\.(\d+)\.mlp\.w3\.(weight|bias)", name):
            tensors[f"blocks.{found[1]}.mlp.fc2.{found[2]}"] = tensor
            mapped[name] = f"blocks.{found[1]}.mlp.fc2.{found[2]}"
    back = {new: old for old, new in names.items()}
    behaviour, defaulted = common_behaviour({"layer_norm_eps": 1e-6}, tensors, default_eps=1e-6)
    behaviour.pop("activation") if "blocks.0.mlp.gate.weight" in tensors else None
    geometry = infer_geometry(
        tensors,
        asked_size=source.asked_size,
        pooling="cls",
        position_resampling="bicubic_antialias" if "reg_token" in tensors else "bicubic_scale",
        **behaviour,
    )
    size = pair(geometry.image_size)
    crop, resize = ((224, 224), 256) if size == (518, 518) else (size, size[0])
    return Reading(
        family=f"{NAME}, Meta",
        evidence=evidence,
        geometry=geometry,
        tensors=tensors,
        mapped={back[name]: ours for name, ours in mapped.items()},
        table=META,
        preprocessing=shorter_side(max(resize, *crop), crop, IMAGENET_MEAN, IMAGENET_STD, "bicubic"),
        defaulted=(*defaulted, f"shorter side to {resize}, centre {crop[0]}x{crop[1]}, ImageNet mean and std"),
    )


def split_gates(
    theirs: Mapping[str, Tensor], tensors: dict[str, Tensor], mapped: dict[str, str], packed: re.Pattern[str]
) -> None:
    """Part packed SwiGLU matrices: the first half is the gate, the second what is gated."""
    for name, tensor in theirs.items():
        if found := packed.fullmatch(name):
            gate, up = tensor.chunk(2)
            tensors[f"blocks.{found[1]}.mlp.gate.{found[2]}"] = gate
            tensors[f"blocks.{found[1]}.mlp.up.{found[2]}"] = up
            mapped[name] = f"blocks.{found[1]}.mlp.gate.{found[2]}"


def _prefix(tensors: Mapping[str, Tensor]) -> str:
    return next(p for p in PREFIXES if any(n.startswith(p) for n in tensors))
