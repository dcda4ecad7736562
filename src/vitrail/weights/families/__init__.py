"""One file for each foreign family: a key table, its inverse, and the habits that tensors do not tell.

A module has NAME, TABLE, `recognise(tensors, config)` -> the evidence or None, and `read(source, evidence)`.
"""

from types import ModuleType

from vitrail.errors import WeightsError
from vitrail.weights.families import dinov2, google, huggingface, timm, torchvision
from vitrail.weights.foreign import Source

# In the order in which they are tried: the more particular evidence first.
FAMILIES: tuple[ModuleType, ...] = (google, dinov2, huggingface, torchvision, timm)

# Part of a name -> whose file it is. Known, and not read.
REFUSED = {
    "rope_embed.periods": "DINOv3",
    "storage_tokens": "DINOv3",
    "bias_mask": "DINOv3",
    "visual.conv1.weight": "CLIP",
    "norm_pre.": "a CLIP tower of timm (norm_pre)",
    "vision_model.encoder.layers.": "CLIP or SigLIP of transformers",
    "relative_position_bias_table": "BEiT or Swin",
    "relative_position_index": "Swin",
    "conv_root": "a Google hybrid with a ResNet stem",
    "MixerBlock_": "MLP-Mixer",
    "backbone.layers.0.ln1.": "mmpretrain",
    "layers.0.ln1.": "mmpretrain",
    "to_patch_embedding.": "lucidrains/vit-pytorch, which is another function",
    "embeds.proj.": "NaFlexViT",
    "attn.q_bias": "EVA",
    "mlp.fc1_g.": "DINOv3 or EVA",
    "norm11.": "a parallel DeiT",
}
_MOST_KEYS = 20


def recognise(source: Source) -> tuple[ModuleType, str]:
    """Whose weights these are, and how that was seen.

    Raises:
        WeightsError: known and not read, or not known; the message shows the first names and shapes.
    """
    for part, whose in REFUSED.items():
        if name := next((n for n in source.tensors if part in n), None):
            raise WeightsError(f"{source.path}: these are weights of {whose}, which are not read.", got=name)
    for family in FAMILIES:
        if evidence := family.recognise(source.tensors, source.config):
            return family, evidence
    keys = ", ".join(f"{n} {list(t.shape)}" for n, t in list(source.tensors.items())[:_MOST_KEYS])
    raise WeightsError(
        f"{source.path}: these are no weights of a ViT that is known here.",
        got=keys + (f", and {len(source.tensors) - _MOST_KEYS} more" if len(source.tensors) > _MOST_KEYS else ""),
        expected=", ".join(family.NAME for family in FAMILIES),
    )


__all__ = ["FAMILIES", "REFUSED", "recognise"]
