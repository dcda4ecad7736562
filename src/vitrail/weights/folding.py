"""The same function with other tensors, for formats that have no place for a part of the model. Exact up to rounding.

In: canonical tensors, changed in place. Out: what was done, for the audit.
"""

import torch
from torch import Tensor

from vitrail.config import ViTConfig


def fold_layer_scale(tensors: dict[str, Tensor], geometry: ViTConfig) -> list[str]:
    """Multiply LayerScale into the matrices before it."""
    names = [name for name in tensors if name.endswith((".ls1.gamma", ".ls2.gamma"))]
    for name in names:
        gamma = tensors.pop(name)
        block, which = name.rsplit(".", 2)[0], name.rsplit(".", 2)[1]
        layer = f"{block}.attn.proj" if which == "ls1" else f"{block}.mlp.fc2"
        tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] * gamma[:, None]
        tensors[f"{layer}.bias"] = tensors[f"{layer}.bias"] * gamma
    return ["LayerScale multiplied into attn.proj and mlp.fc2"] if names else []


def add_layer_scale(tensors: dict[str, Tensor], geometry: ViTConfig) -> list[str]:
    """LayerScale of ones where there is none."""
    if "blocks.0.ls1.gamma" in tensors:
        return []
    for i in range(geometry.num_hidden_layers):
        for which in ("ls1", "ls2"):
            tensors[f"blocks.{i}.{which}.gamma"] = torch.ones(geometry.hidden_size)
    return ["LayerScale of ones added"]


def add_prefix_positions(tensors: dict[str, Tensor], geometry: ViTConfig) -> list[str]:
    """Zero positions for the class and distillation token, where positions cover the patches alone."""
    count = geometry.use_class_token + geometry.use_distillation_token
    if geometry.prefix_positions or not count:
        return []
    zeros = torch.zeros(1, count, geometry.hidden_size)
    tensors["pos_embed"] = torch.cat((zeros, tensors["pos_embed"]), dim=1)
    return ["zero positions added for the class token"]


def fold_prefix_positions(tensors: dict[str, Tensor], geometry: ViTConfig) -> list[str]:
    """Add the positions of the class and distillation token to these tokens, and drop them."""
    if not geometry.num_prefix_positions:
        return []
    for row, name in enumerate(n for n in ("cls_token", "dist_token") if n in tensors):
        tensors[name] = tensors[name] + tensors["pos_embed"][:, row : row + 1]
    tensors["pos_embed"] = tensors["pos_embed"][:, geometry.num_prefix_positions :]
    return ["the class token's position added to the token"]


def one_norm(tensors: dict[str, Tensor], geometry: ViTConfig) -> list[str]:
    """Move a norm after the pooling before it, which is the same when a single token is taken."""
    if geometry.final_norm == "tokens" or geometry.pooling != "cls":
        return []
    for end in ("weight", "bias"):
        tensors[f"norm.{end}"] = tensors.pop(f"fc_norm.{end}")
    return ["fc_norm written as norm, the same for a class token"]


def second_head(tensors: dict[str, Tensor], geometry: ViTConfig) -> list[str]:
    """A classifier of zeros for the distillation token, the other one doubled: their mean is the same."""
    if not geometry.use_distillation_token or "head_dist.weight" in tensors or not geometry.num_labels:
        return []
    for end in ("weight", "bias"):
        tensors[f"head_dist.{end}"] = torch.zeros_like(tensors[f"head.{end}"])
        tensors[f"head.{end}"] = 2 * tensors[f"head.{end}"]
    return ["a second classifier of zeros added, the first one doubled"]


def head_for_mean(tensors: dict[str, Tensor], geometry: ViTConfig) -> list[str]:
    """Zeros for the mean of the patches in a classifier that sees the class token and this mean."""
    if geometry.pooling == "cls_mean" or not geometry.num_labels:
        return []
    tensors["head.weight"] = torch.cat((tensors["head.weight"], torch.zeros_like(tensors["head.weight"])), dim=1)
    return ["the classifier widened by zeros for the mean of the patches"]
