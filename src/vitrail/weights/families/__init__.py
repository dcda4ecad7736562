"""One file for each foreign family: a key table, its inverse, and the habits that tensors do not tell.

A module has NAME, TABLE, `recognise(tensors, config)` -> the evidence or None, and `read(source, evidence)`.
"""

import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from vitrail.errors import WeightsError, shown
from vitrail.weights.families import dinov2, google, huggingface, reference, timm, torchvision
from vitrail.weights.key_table import WeightSource

# In the order in which they are tried: the more particular evidence first.
FAMILIES: tuple[ModuleType, ...] = (google, dinov2, reference, huggingface, torchvision, timm)

_ADAPTER = (
    "Merge it into its base with peft (model.merge_and_unload(), then save_pretrained) and give the folder that this "
    "writes."
)
# What is found in a name -> whose file it is. Known, and not read.
REFUSED = {
    r"lora_[AB]\b|lora_embedding": "a LoRA adapter (no model in itself)",
    r"rope_embed\.periods|storage_tokens|bias_mask": "DINOv3",
    r"(?<!encoder\.)\blayer\.\d+\.(attention\.q_proj|layer_scale1|mlp\.up_proj)": "DINOv3 of transformers",
    r"visual\.conv1\.weight": "CLIP",
    r"norm_pre\.": "a CLIP tower of timm (norm_pre)",
    r"vision_model\.encoder\.layers\.": "CLIP or SigLIP of transformers",
    r"relative_position_bias_table": "BEiT or Swin",
    r"relative_position_index": "Swin",
    r"conv_root": "a Google hybrid with a ResNet stem",
    r"MixerBlock_": "MLP-Mixer",
    r"layers\.0\.ln1\.": "mmpretrain",
    r"to_patch_embedding\.": "lucidrains/vit-pytorch, which is another function",
    r"embeds\.proj\.": "NaFlexViT",
    r"attn\.q_bias": "EVA",
    r"mlp\.fc1_g\.": "DINOv3 or EVA",
    r"norm11\.": "a parallel DeiT",
    r"(qweight|qzeros|weight_scale|weight_scale_inv|\.SCB)$": "a quantised model",
    r"(^|\.)(layer[1-4]\.\d+\.conv\d|features\.\d+\.|downsample\.0\.weight)": "a convolutional network",
}
_MOST_KEYS = 20


def refusal(source: WeightSource, tensors: Mapping[str, Tensor]) -> WeightsError | None:
    """The error for weights that are known and not read; None: they are none of these."""
    for pattern, whose in REFUSED.items():
        if name := next((n for n in tensors if re.search(pattern, n)), None):
            do = _ADAPTER if "LoRA" in whose else f"Read are: {_all_names()}."
            return WeightsError(
                f"{source.path}: these are weights of {whose}, which are not read.", got=shown(name), do=do
            )
    if "blocks.0.gamma_1" in tensors and "pos_embed" not in tensors and "reg_token" in tensors:
        return WeightsError(
            f"{source.path}: these are weights of DINOv3, which are not read.",
            got="blocks.0.gamma_1 and reg_token without pos_embed",
            do=f"Read are: {_all_names()}.",
        )
    return None


def recognised(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[ModuleType, str] | None:
    """Whose weights these are, and how that was seen; None: they are of no known family."""
    for family in FAMILIES:
        if evidence := family.recognise(tensors, config):
            return family, evidence
    return None


def unrecognised(source: WeightSource) -> WeightsError:
    """The error for weights of no known family; it shows the first names and shapes."""
    keys = ", ".join(f"{shown(n)} {list(t.shape)}" for n, t in list(source.tensors.items())[:_MOST_KEYS])
    more = f", and {len(source.tensors) - _MOST_KEYS} more" if len(source.tensors) > _MOST_KEYS else ""
    said = source.config.get("model_type", source.config.get("architecture"))
    whose = f" (config.json says {shown(said)})" if said else ""
    return WeightsError(
        f"{source.path}: these are no weights of a ViT that is known here{whose}.",
        got=keys + more,
        expected=_all_names(),
    )


def _all_names() -> str:
    return ", ".join(family.NAME for family in FAMILIES)


__all__ = ["FAMILIES", "REFUSED", "recognised", "refusal", "unrecognised"]
