"""The Vision Transformer: normalised images [B, C, H, W] in, class scores and loss, or tokens, out.

Paper: "An Image is Worth 16x16 Words", arXiv:2010.11929.
"""

from vitrail.model.attention import attention_written_out
from vitrail.model.attention_maps import Attended, record_attention, tap_attention
from vitrail.model.masked import MaskedViT, patch_pixels
from vitrail.model.position import fixed_positions
from vitrail.model.vit import ViT

__all__ = [
    "Attended",
    "MaskedViT",
    "ViT",
    "attention_written_out",
    "fixed_positions",
    "patch_pixels",
    "record_attention",
    "tap_attention",
]
