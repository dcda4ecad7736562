"""timm's vision_transformer, and the original files of DeiT, DeiT-III and MAE, which share its names.

Source: huggingface/pytorch-image-models:timm/models/vision_transformer.py, deit.py; facebookresearch/deit;
facebookresearch/mae. The names are the canonical ones, but for the few below.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from vitrail.config import ViTConfig
from vitrail.config.checks import distinct_names, pair
from vitrail.errors import WeightsError
from vitrail.weights.families.dinov2 import split_gates
from vitrail.weights.families.huggingface import heads_of_width
from vitrail.weights.geometry import infer_geometry, read_rows
from vitrail.weights.key_table import (
    DECODER,
    MASK_TOKEN,
    PRE_LOGITS,
    Claim,
    Key,
    KeyTable,
    Reading,
    WeightSource,
    size_pair,
)
from vitrail.weights.preprocess import IMAGENET_MEAN, IMAGENET_STD, from_timm

NAME = "timm"
_TOP = ("cls_token", "dist_token", "reg_token", "pos_embed", "attn_pool.latent")
_PAIRS = ("patch_embed.proj", "norm", "fc_norm", "head", "head_dist")
_POOL = ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")
_LAYER = ("norm1", "attn.qkv", "attn.q_norm", "attn.k_norm", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
TABLE = KeyTable(
    [
        *(Key(name, name) for name in _TOP),
        *(Key(f"{name}.*", f"{name}.*") for name in _PAIRS),
        *(Key(f"attn_pool.{name}.*", f"attn_pool.{name}.*") for name in _POOL),
        *(Key(f"blocks.{{i}}.{name}.*", f"blocks.{{i}}.{name}.*") for name in _LAYER),
        *(Key(f"blocks.{{i}}.{name}.gamma", f"blocks.{{i}}.{name}.gamma") for name in ("ls1", "ls2")),
        *(Key(f"blocks.{{i}}.gamma_{k}", f"blocks.{{i}}.ls{k}.gamma") for k in (1, 2)),  # DeiT-III original
    ]
)
POOLINGS = {"token": "cls", "": "cls", "avg": "mean", "max": "max", "avgmax": "mean_max", "map": "map"}
_HEADS_BY_NAME = {"tiny": 3, "small": 6, "medium": 8, "base": 12, "large": 16, "huge": 16, "giant": 16, "so400m": 16}


def recognise(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str | None:
    """The evidence that these are timm's names; None: they are not."""
    if not any(re.match(r"blocks\.\d+\.(attn|mlp|norm1|norm2)\.", name) for name in tensors):
        return None
    if not any(name.startswith(("patch_embed.proj.", "pos_embed", "cls_token")) for name in tensors):
        return None
    said = f", architecture {config['architecture']}" if "architecture" in config else ""
    for name, whose in (("decoder_pos_embed", "MAE"), ("dist_token", "DeiT"), ("blocks.0.gamma_1", "DeiT-III")):
        if name in tensors:
            return f"blocks.*.attn.qkv with {name}: {whose}{said}"
    return f"blocks.*.attn.qkv and patch_embed.proj{said}"


def read(source: WeightSource, evidence: str) -> Reading:
    """Read timm's vision_transformer, and DeiT, DeiT-III and MAE originals."""
    theirs, config = dict(source.tensors), source.config
    adapted: dict[str, str] = {}
    dropped = {n: PRE_LOGITS for n in theirs if n.startswith("pre_logits.")}
    if "decoder_pos_embed" in theirs:
        dropped |= {n: DECODER for n in theirs if n.startswith("decoder_")}
        dropped |= {n: MASK_TOKEN for n in theirs if n == "mask_token"}
    kernel = theirs.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 2:  # very old files
        side = round((kernel.shape[1] / 3) ** 0.5)
        if side * side * 3 == kernel.shape[1]:
            theirs["patch_embed.proj.weight"] = kernel.view(-1, 3, side, side)
    tensors, mapped = TABLE.read({n: t for n, t in theirs.items() if n not in dropped})
    args = cast(dict[str, Any], config.get("model_args") or {})
    settings = cast(dict[str, Any], config.get("pretrained_cfg") or {})
    said_size = size_pair(args.get("img_size")) or size_pair(list(settings.get("input_size") or ())[1:])
    _unpack_gates(tensors, mapped)
    _fold_register_positions(tensors, mapped, adapted, said_size, source.asked_size)
    heads, defaulted = _heads(config, args, tensors)
    pooling = _pooling(config, args, tensors)
    if pooling == "cls" and "fc_norm.weight" in tensors:  # the same function, because a LayerNorm is per token
        for end in ("weight", "bias"):
            tensors[f"norm.{end}"] = tensors.pop(f"fc_norm.{end}")
            mapped[f"fc_norm.{end}"] = f"norm.{end}"
    geometry = infer_geometry(
        tensors,
        asked_size=source.asked_size,
        bare_positions="blocks.0.gamma_1" in theirs,
        heads=heads,
        image_size=said_size,
        layer_norm_eps=_eps(args),
        **_activation(args),
        pooling=pooling,
        position_resampling="bicubic_antialias",
    )
    habit = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if "DeiT" in evidence or "MAE" in evidence else {}
    preprocessing, silent = from_timm({**habit, **settings}, pair(geometry.image_size), geometry.num_channels)
    names = config.get("label_names")
    return Reading(
        family=NAME,
        evidence=evidence,
        geometry=geometry,
        tensors=tensors,
        mapped=mapped,
        adapted=adapted,
        dropped=dropped,
        classes=distinct_names([str(n) for n in cast(list[Any], names)])
        if isinstance(names, list) and len(cast(list[Any], names)) == geometry.num_labels
        else (),
        preprocessing=preprocessing,
        defaulted=(*defaulted, *silent),
        claims=_claims(config, args, geometry),
    )


def _unpack_gates(tensors: dict[str, Tensor], mapped: dict[str, str]) -> None:
    """Packed SwiGLU: fc1 has twice the rows that fc2 has columns."""
    fc1, fc2 = tensors.get("blocks.0.mlp.fc1.weight"), tensors.get("blocks.0.mlp.fc2.weight")
    if fc1 is None or fc2 is None or fc1.shape[0] != 2 * fc2.shape[-1]:
        return
    packed = re.compile(r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)")
    split_gates(dict(tensors), tensors, mapped, packed)
    for name in [name for name in tensors if packed.fullmatch(name)]:
        del tensors[name]


def _fold_register_positions(
    tensors: dict[str, Tensor],
    mapped: dict[str, str],
    adapted: dict[str, str],
    said: tuple[int, int] | None,
    asked: tuple[int, int] | None,
) -> None:
    """Positions of registers are constants of the registers: added to them, exactly."""
    positions, registers, kernel = (tensors.get(n) for n in ("pos_embed", "reg_token", "patch_embed.proj.weight"))
    if positions is None or registers is None or kernel is None or kernel.ndim != 4:
        return
    if positions.ndim != 3 or registers.ndim != 3:  # the shapes are compared and named later
        return
    first, count, rows = int("cls_token" in tensors), registers.shape[1], positions.shape[1]
    patch = kernel.shape[2], kernel.shape[3]
    if said is not None:
        before = rows - said[0] // patch[0] * (said[1] // patch[1])
    else:
        what = f"{'a' if first else 'no'} cls_token and {count} registers"
        before, _ = read_rows(rows, (first + count, first, 0), patch, asked, what)
    if before != first + count:
        return
    tensors["reg_token"] = registers + positions[:, first : first + count]
    tensors["pos_embed"] = torch.cat((positions[:, :first], positions[:, first + count :]), dim=1)
    for name in ("reg_token", "pos_embed"):
        del mapped[name]
        adapted[name] = "positions of the registers added to the registers"


def _heads(
    config: Mapping[str, Any], args: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[int, tuple[str, ...]]:
    """Attention heads: from the key norm, the arguments, the architecture's name, or 64 wide each."""
    width = tensors["patch_embed.proj.weight"].shape[0] if "patch_embed.proj.weight" in tensors else 0
    if norm := [t for n, t in tensors.items() if n.endswith("attn.q_norm.weight")]:
        return width // norm[0].shape[0], ()
    if "num_heads" in args:
        return int(args["num_heads"]), ()
    architecture = str(config.get("architecture", ""))
    for name, heads in _HEADS_BY_NAME.items():
        if f"_{name}_" in architecture and width % heads == 0 and "embed_dim" not in args:
            return (24 if "giant" in architecture and "dinov2" in architecture else heads), ()
    heads = heads_of_width(tensors)
    return heads, (f"{heads} attention heads, 64 wide each",)


def _pooling(config: Mapping[str, Any], args: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """What the tensors force, else what the configuration says, else the class token where there is one."""
    if any(name.startswith("attn_pool.") for name in tensors):
        return "map"
    if any(name.startswith("head_dist.") for name in tensors):
        return "cls_dist"
    settings = cast(dict[str, Any], config.get("pretrained_cfg") or {})
    said = args.get("global_pool", config.get("global_pool", settings.get("global_pool")))
    if said is not None:
        if said not in POOLINGS:
            raise WeightsError("config.json: unknown global_pool.", got=said, expected=", ".join(POOLINGS))
        return POOLINGS[said]
    return "mean" if {"fc_norm.weight", "fc_norm.bias"} & tensors.keys() or "cls_token" not in tensors else "cls"


def _activation(args: Mapping[str, Any]) -> dict[str, str]:
    """The activation that the arguments name; nothing where they are silent or the MLP is gated."""
    said = args.get("act_layer")
    if said in (None, "silu"):
        return {}
    if said not in ("gelu", "gelu_tanh", "quick_gelu"):
        raise WeightsError("config.json: unknown act_layer.", got=said, expected="gelu, gelu_tanh or quick_gelu")
    return {"activation": said}


def _eps(args: Mapping[str, Any]) -> float:
    """Timm's 1e-6, unless the arguments carry another."""
    return float(args.get("norm_eps", 1e-6))


def _claims(config: Mapping[str, Any], args: Mapping[str, Any], geometry: ViTConfig) -> tuple[Claim, ...]:
    """What the configuration says about the tensors; registers also by the architecture's name, as reg4."""
    registers = args.get("reg_tokens")
    if registers is None and (said := re.search(r"_reg(\d+)", str(config.get("architecture", "")))):
        registers = int(said[1])
    return (
        ("depth", geometry.num_hidden_layers, args.get("depth")),
        ("embed_dim", geometry.hidden_size, args.get("embed_dim")),
        ("patch_size", pair(geometry.patch_size), size_pair(args.get("patch_size"))),
        ("the class token (cls_token)", geometry.use_class_token, args.get("class_token")),
        ("in_chans", geometry.num_channels, args.get("in_chans")),
        ("num_classes", geometry.num_labels, args.get("num_classes", config.get("num_classes"))),
        ("the number of registers (reg_token)", geometry.num_registers, registers),
    )
