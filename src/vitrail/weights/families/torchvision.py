"""torchvision's VisionTransformer. Source: pytorch/vision:torchvision/models/vision_transformer.py."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.config.checks import pair
from vitrail.errors import WeightsError
from vitrail.weights.families.huggingface import heads_of_width
from vitrail.weights.geometry import infer_geometry
from vitrail.weights.key_table import PRE_LOGITS, Key, KeyTable, Reading, WeightSource
from vitrail.weights.preprocess import IMAGENET_MEAN, IMAGENET_STD, shorter_side

NAME = "torchvision"
_LAYER = "encoder.layers.encoder_layer_{i}."
TABLE = KeyTable(
    [
        Key("class_token", "cls_token"),
        Key("conv_proj.*", "patch_embed.proj.*"),
        Key("encoder.pos_embedding", "pos_embed"),
        Key(_LAYER + "ln_1.*", "blocks.{i}.norm1.*"),
        Key(_LAYER + "self_attention.in_proj_weight", "blocks.{i}.attn.qkv.weight"),
        Key(_LAYER + "self_attention.in_proj_bias", "blocks.{i}.attn.qkv.bias"),
        Key(_LAYER + "self_attention.out_proj.*", "blocks.{i}.attn.proj.*"),
        Key(_LAYER + "ln_2.*", "blocks.{i}.norm2.*"),
        Key(_LAYER + "mlp.0.*", "blocks.{i}.mlp.fc1.*"),
        Key(_LAYER + "mlp.3.*", "blocks.{i}.mlp.fc2.*"),
        Key(_LAYER + "mlp.linear_1.*", "blocks.{i}.mlp.fc1.*"),
        Key(_LAYER + "mlp.linear_2.*", "blocks.{i}.mlp.fc2.*"),
        Key("encoder.ln.*", "norm.*"),
        Key("heads.head.*", "head.*"),
    ]
)


def recognise(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str | None:
    """The evidence that these are torchvision's names; None: they are not."""
    found = any(n.startswith("encoder.layers.encoder_layer_") for n in tensors)
    return "encoder.layers.encoder_layer_* and conv_proj" if found else None


def read(source: WeightSource, evidence: str) -> Reading:
    """Read torchvision's VisionTransformer. eps 1e-6, exact GELU, ImageNet mean and std."""
    if stem := next((n for n in source.tensors if n.startswith("conv_proj.conv_bn_relu")), None):
        raise WeightsError("torchvision's ViT with a convolutional stem is not read.", got=stem)
    tensors, mapped = TABLE.read(source.tensors)
    width = tensors["patch_embed.proj.weight"].shape[0] if "patch_embed.proj.weight" in tensors else 0
    heads = 16 if width == 1280 else heads_of_width(tensors)
    geometry = infer_geometry(
        tensors,
        asked_size=source.asked_size,
        heads=heads,
        layer_norm_eps=1e-6,
        pooling="cls",
        position_resampling="bicubic_aligned",
    )
    size = pair(geometry.image_size)
    resize, how = (256, "bilinear") if size == (224, 224) else (max(size), "bicubic")
    return Reading(
        family=NAME,
        evidence=evidence,
        geometry=geometry,
        tensors=tensors,
        mapped=mapped,
        dropped={n: PRE_LOGITS for n in source.tensors if n.startswith("heads.pre_logits.")},
        preprocessing=shorter_side(
            resize, size, IMAGENET_MEAN, IMAGENET_STD, "bilinear" if how == "bilinear" else "bicubic"
        ),
        defaulted=(f"{heads} attention heads", f"shorter side to {resize} ({how}), ImageNet mean and std"),
    )
