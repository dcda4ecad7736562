"""Models to the files of other libraries: Hugging Face folders and timm folders that load there with equal logits.

What a format cannot hold is refused with the reason, or rewritten exactly where that is possible (folding.py); what is
lost beside the model's function, as a step of the preprocessing, is said.
"""

import contextlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from vitrail import fsio
from vitrail.config import ViTConfig
from vitrail.config.checks import pair
from vitrail.errors import SaveError, WeightsError, shown
from vitrail.model import ViT
from vitrail.weights import folding, modelfile
from vitrail.weights.card import Card
from vitrail.weights.families import dinov2, huggingface, timm
from vitrail.weights.key_table import MASK_TOKEN, KeyTable
from vitrail.weights.preprocess import to_huggingface, to_timm

_ALTERNATIVE = (
    "Keep it as a vitrail file, or write it as ONNX with vitrail export. Models that other libraries have a place for "
    "are plain ViTs: builtin:cifar100, or their own weights."
)

Format = Literal["vitrail", "huggingface", "timm"]
_HF_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}
_TIMM_POOLINGS = {ours: theirs for theirs, ours in timm.POOLINGS.items() if theirs} | {"cls_dist": "token"}
_TIMM_EPS = 1e-6
_Rewrite = Callable[[dict[str, Tensor], ViTConfig], list[str]]


@dataclass(kw_only=True)
class Written:
    """What became of a model on its way into a file.

    Args:
        files: what was written.
        adapted: exact rewritings.
        dropped: tensor -> why it was left out.
        lost: what the format cannot say, beside the function of the model.
    """

    files: list[Path]
    adapted: list[str] = field(default_factory=list[str])
    dropped: dict[str, str] = field(default_factory=dict[str, str])
    lost: list[str] = field(default_factory=list[str])


def write(
    target: str | Path,
    model: ViT,
    card: Card,
    to: Format,
    *,
    check: Callable[[Path, list[str]], None] | None = None,
) -> Written:
    """Write a model. It appears at its place when it is whole and checked; after an error nothing is left of it.

    Args:
        target: vitrail: a .safetensors file; else a folder, new or empty.
        to: the format.
        check: is given what was written, under a temporary name in the same place, and what the format cannot hold; it
            raises what is wrong.
    Raises:
        WeightsError: the format cannot hold the model, or the target is taken.
        SaveError: writing failed.
    """
    target = Path(target)
    if to == "vitrail":
        if target.suffix != ".safetensors" or target.exists():
            raise WeightsError(
                f"{shown(target)}: cannot be written there.",
                got="it exists" if target.exists() else f"a name that ends in {shown(target.suffix) or 'nothing'}",
                expected="a new file, NAME.safetensors",
            )
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise WeightsError(
            f"{shown(target)}: is not free.", expected="a new or empty folder", do="Choose another name."
        )
    temporary = target.with_name(f"{target.stem}.tmp-{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        if to == "vitrail":
            modelfile.save(temporary, model, card)
            written = Written(files=[temporary])
        else:
            written = (_write_huggingface if to == "huggingface" else _write_timm)(temporary, model, card)
        if check is not None:
            check(temporary, written.lost)
        fsio.rename(temporary, target)
    except BaseException:
        with contextlib.suppress(SaveError):
            if temporary.exists():
                fsio.remove(temporary)
        raise
    written.files = [target / file.relative_to(temporary) for file in written.files]
    return written


# ---- Hugging Face ------------------------------------------------------------------------------------------------


def _write_huggingface(target: Path, model: ViT, card: Card) -> Written:
    g = model.config
    kind = _huggingface_kind(g)
    tensors, written = _canonical(model), Written(files=[])
    steps: dict[str, tuple[_Rewrite, ...]] = {
        "vit": (folding.one_norm, folding.add_prefix_positions, folding.fold_layer_scale),
        "deit": (folding.one_norm, folding.add_prefix_positions, folding.fold_layer_scale, folding.second_head),
        "dinov2": (
            folding.one_norm, folding.add_prefix_positions, folding.add_layer_scale, folding.head_for_mean
        ),
    }  # fmt: skip
    for step in steps[kind]:
        written.adapted += step(tensors, g)
    config: dict[str, Any] = {
        "hidden_size": g.hidden_size,
        "num_hidden_layers": g.num_hidden_layers,
        "num_attention_heads": g.num_attention_heads,
        "layer_norm_eps": g.layer_norm_eps,
        "image_size": g.image_size if isinstance(g.image_size, int) else list(g.image_size),
        "patch_size": g.patch_size if isinstance(g.patch_size, int) else list(g.patch_size),
        "num_channels": g.num_channels,
        "qkv_bias": g.qkv_bias,
        "hidden_act": _HF_ACTIVATIONS.get(g.activation, "gelu"),
        "torch_dtype": "float32",
        **({"problem_type": card.problem_type} if card.problem_type != "single_label_classification" else {}),
        **({"id2label": _labels(card), "label2id": {n: int(i) for i, n in _labels(card).items()}}),
    }
    processor, table = "ViTImageProcessor", huggingface.TABLE
    if kind == "dinov2":
        processor, table = "BitImageProcessor", _as_dinov2(config, tensors, g)
    else:
        if "mask_token" in tensors:
            written.dropped["mask_token"] = MASK_TOKEN
            del tensors["mask_token"]
        if kind == "deit":
            processor, table = "DeiTImageProcessor", huggingface.DEIT_TABLE
        config["intermediate_size"] = g.intermediate_size
        classifier = "DeiTForImageClassificationWithTeacher" if kind == "deit" else "ViTForImageClassification"
        bare = "DeiTModel" if kind == "deit" else "ViTModel"
        config |= {"model_type": kind, "architectures": [classifier if g.num_labels else bare]}
    preprocessor, lost = to_huggingface(card.preprocessing, processor)
    written.lost += lost
    return _write_folder(target, written, config, table.write(tensors), preprocessor)


def _huggingface_kind(g: ViTConfig) -> str:
    """Vit, deit or dinov2. Raises WeightsError for what none of them computes."""
    _refuse(
        {
            "convolutions before the patches (a ViT + conv)": bool(g.stem_channels),
            "no class token": not g.use_class_token,
            f"pooling {g.pooling}": g.pooling not in ("cls", "cls_dist", "cls_mean"),
            "query and key norms": g.qk_norm,
            "relative positions": g.relative_positions,
            "a scale of its own for the attention scores": g.attention_scale is not None,
            "a distillation token together with registers or SwiGLU": g.use_distillation_token
            and (bool(g.num_registers) or g.activation == "swiglu" or g.pooling == "cls_mean"),
            "a norm after the pooling": g.final_norm == "pooled" and g.pooling != "cls",
        },
        "transformers",
    )
    if g.use_distillation_token:
        return "deit"
    return "dinov2" if g.num_registers or g.activation == "swiglu" or g.pooling == "cls_mean" else "vit"


def _as_dinov2(config: dict[str, Any], tensors: dict[str, Tensor], g: ViTConfig) -> KeyTable:
    """Complete the configuration and the tensors for a DINOv2 of transformers; its key table."""
    gated = g.activation == "swiglu"

    def units(ratio: int) -> int:
        hidden = g.hidden_size * ratio
        return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden

    ratio = next((r for r in range(1, 33) if units(r) == g.intermediate_size), 0)
    _refuse({f"an MLP of {g.intermediate_size} units at width {g.hidden_size}": not ratio}, "transformers' DINOv2")
    model_type = "dinov2_with_registers" if g.num_registers else "dinov2"
    name = "Dinov2WithRegisters" if g.num_registers else "Dinov2"
    config |= {
        "model_type": model_type,
        "architectures": [f"{name}{'ForImageClassification' if g.num_labels else 'Model'}"],
        "mlp_ratio": ratio,
        "use_swiglu_ffn": gated,
        "layerscale_value": 1.0,
        "use_mask_token": True,
        **({"num_register_tokens": g.num_registers} if g.num_registers else {}),
    }
    tensors.setdefault("mask_token", torch.zeros(1, 1, g.hidden_size))
    prefix = f"{model_type}." if g.num_labels else ""
    return _packed(tensors, prefix, dinov2.HF_TABLES[prefix])


def _packed(tensors: dict[str, Tensor], prefix: str, table: KeyTable) -> KeyTable:
    """The table, with gate and value of a SwiGLU stacked in one matrix as DINOv2 does."""

    class Packing(KeyTable):
        def write(self, canonical: Any) -> dict[str, Tensor]:
            plain = {n: t for n, t in canonical.items() if ".mlp.gate." not in n and ".mlp.up." not in n}
            result = super().write(plain)
            for name in [n for n in canonical if ".mlp.gate." in n]:
                _, block, *_, end = name.split(".")
                stem = f"{prefix}encoder.layer.{block}.mlp."
                up = canonical[name.replace(".gate.", ".up.")]
                result[f"{stem}weights_in.{end}"] = torch.cat((canonical[name], up))
                if f"{stem}fc2.{end}" in result:
                    result[f"{stem}weights_out.{end}"] = result.pop(f"{stem}fc2.{end}")
            return result

    return Packing(table.keys)


# ---- timm --------------------------------------------------------------------------------------------------------


def _write_timm(target: Path, model: ViT, card: Card) -> Written:
    g = model.config
    _refuse(
        {
            "convolutions before the patches (a ViT + conv)": bool(g.stem_channels),
            "pooling cls_mean": g.pooling == "cls_mean",
            "relative positions": g.relative_positions,
            "a distillation token together with registers": g.use_distillation_token and bool(g.num_registers),
            "a scale of its own for the attention scores": g.attention_scale is not None,
        },
        "timm's vision_transformer",
    )
    tensors, written = _canonical(model), Written(files=[])
    if "mask_token" in tensors:
        written.dropped["mask_token"] = MASK_TOKEN
        del tensors["mask_token"]
    if g.num_registers:
        written.adapted += folding.fold_prefix_positions(tensors, g)
    written.adapted += folding.second_head(tensors, g)
    prefix_positions = g.prefix_positions and not g.num_registers
    if g.activation == "swiglu":
        for i in range(g.num_hidden_layers):
            for end in ("weight", "bias"):
                gate, up = (tensors.pop(f"blocks.{i}.mlp.{part}.{end}") for part in ("gate", "up"))
                tensors[f"blocks.{i}.mlp.fc1.{end}"] = torch.cat((gate, up))
    arguments: dict[str, Any] = {
        "img_size": list(pair(g.image_size)),
        "patch_size": g.patch_size if isinstance(g.patch_size, int) else list(g.patch_size),
        "embed_dim": g.hidden_size,
        "depth": g.num_hidden_layers,
        "num_heads": g.num_attention_heads,
        "mlp_ratio": g.intermediate_size * (2 if g.activation == "swiglu" else 1) / g.hidden_size,
        "qkv_bias": g.qkv_bias,
        "qk_norm": g.qk_norm,
        "init_values": 1e-5 if g.layer_scale else None,
        "class_token": g.use_class_token,
        "no_embed_class": not prefix_positions,
        "reg_tokens": g.num_registers,
        "global_pool": _TIMM_POOLINGS[g.pooling],
        "fc_norm": g.final_norm == "pooled",
        "in_chans": g.num_channels,
        **({} if g.activation in ("gelu", "swiglu") else {"act_layer": g.activation}),
    }
    architecture = "vit_base_patch16_224"
    if g.use_distillation_token:
        architecture = "deit_base_distilled_patch16_224"
        del arguments["class_token"]
    elif g.activation == "swiglu":
        architecture = "vit_giant_patch14_dinov2"
    config = _timm_config(architecture, arguments, model, card, written)
    return _write_folder(target, written, config, timm.TABLE.write(tensors), None)


def _timm_config(
    architecture: str, arguments: dict[str, Any], model: ViT, card: Card, written: Written
) -> dict[str, Any]:
    """The config.json that `timm.create_model("local-dir:...")` reads; notes what it cannot say."""
    g = model.config
    preprocessing, lost = to_timm(card.preprocessing)
    written.lost += lost
    if card.problem_type != "single_label_classification":
        written.lost.append(f"timm has no problem_type in its files: {card.problem_type}")
    if g.layer_norm_eps != _TIMM_EPS:
        written.lost.append(_other_eps(model))
    return {
        "architecture": architecture,
        "num_classes": g.num_labels,
        "num_features": g.hidden_size,
        "global_pool": _TIMM_POOLINGS[g.pooling],
        "model_args": arguments,
        "pretrained_cfg": {
            **preprocessing,
            "num_classes": g.num_labels,
            "first_conv": "patch_embed.proj",
            "classifier": ["head", "head_dist"] if g.use_distillation_token else "head",
            "fixed_input_size": True,
        },
        **({"label_names": list(card.classes)} if card.classes else {}),
    }


def _other_eps(model: ViT) -> str:
    """What timm's constant costs, measured on this model."""
    geometry = replace(model.config, layer_norm_eps=_TIMM_EPS)
    other = modelfile.build_model(geometry, dict(model.state_dict()), "cpu")
    images = random_images(geometry)
    with torch.inference_mode():
        worst = (other(images)["logits"] - model.cpu()(images)["logits"]).abs().max()
    return (
        f"timm has no layer_norm_eps in its files and uses {_TIMM_EPS:g}, not {model.config.layer_norm_eps:g}: logits "
        f"differ by up to {float(worst):.1e} on random images"
    )


# ---- shared ------------------------------------------------------------------------------------------------------


def random_images(geometry: ViTConfig, count: int = 2) -> Tensor:
    """Random images that a comparison of two implementations is made on: the same for the same geometry."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, geometry.num_channels, *pair(geometry.image_size), generator=generator)


def _canonical(model: ViT) -> dict[str, Tensor]:
    """Tensors of a model in fp32 on the CPU; sin-cos positions written out."""
    tensors = {name: tensor.detach().cpu().float() for name, tensor in model.state_dict().items()}
    tensors["pos_embed"] = model.pos_embed.detach().cpu().float()
    return tensors


def _labels(card: Card) -> dict[str, str]:
    names = card.classes or tuple(f"LABEL_{i}" for i in range(card.geometry.num_labels))
    return {str(i): name for i, name in enumerate(names)}


def _refuse(reasons: dict[str, bool], where: str) -> None:
    """Raise WeightsError with the first reason that holds."""
    for what, holds in reasons.items():
        if holds:
            raise WeightsError(f"{where} has no place for this model.", got=what, do=_ALTERNATIVE)


def _write_folder(
    target: Path,
    written: Written,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    preprocessor: dict[str, Any] | None,
) -> Written:
    fsio.make_dir(target)
    values = {"config.json": config, **({"preprocessor_config.json": preprocessor} if preprocessor else {})}
    for name, value in values.items():
        fsio.write_bytes(target / name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
        written.files.append(target / name)
    fsio.write_bytes(target / "model.safetensors", safetensors.torch.save(tensors, {"format": "pt"}))
    written.files.append(target / "model.safetensors")
    return written
