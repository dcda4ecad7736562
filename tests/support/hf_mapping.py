"""Names of transformers' ViT to ours: in memory (transformers 5) or on disk (all versions)."""

import re

import torch
from torch import Tensor

# One row per source name with its prefix "vit." removed; {i} is the block. None: no counterpart here.
TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
}
LAYER = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.q_proj": "attn.q",
    "attention.k_proj": "attn.k",
    "attention.v_proj": "attn.v",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)")


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename every tensor and fuse query, key and value. A name without a row is a KeyError."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("vit.")
        block = BLOCK.fullmatch(name)
        result[f"blocks.{block[1]}.{LAYER[block[2]]}.{block[3]}" if block else TOP[name]] = tensor
    for name in [name for name in result if ".attn.q." in name]:
        parts = [result.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        result[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return result
