"""One tensor of a file removed, renamed or reshaped, each in its turn and in every family: never loaded silently."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.support.random_vit import random_vit
from vitrail import weights
from vitrail.errors import WeightsError
from vitrail.weights.families import dinov2, google, huggingface, reference, timm, torchvision

# What the table names, the tensors of the geometry, and the container of the family.
FAMILIES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "transformers": (huggingface.TABLE, {}, "safetensors"),
    "transformers, distilled": (
        huggingface.DEIT_TABLE, {"use_distillation_token": True, "pooling": "cls_dist"}, "safetensors"
    ),
    "transformers, DINOv2": (
        dinov2.HF_TABLES["dinov2_with_registers."],
        {"layer_scale": 0.3, "num_registers": 2, "pooling": "cls_mean", "use_mask_token": True},
        "safetensors",
    ),
    "timm": (timm.TABLE, {}, "safetensors"),
    "timm, registers and layer scale": (
        timm.TABLE, {"layer_scale": 0.3, "num_registers": 2, "prefix_positions": False}, "safetensors"
    ),
    "timm, mean": (timm.TABLE, {"pooling": "mean", "final_norm": "pooled", "use_class_token": False}, "safetensors"),
    "timm, distilled": (timm.TABLE, {"use_distillation_token": True, "pooling": "cls_dist"}, "safetensors"),
    "reference": (reference.TABLE, {"use_mask_token": True}, "torch"),
    "torchvision": (torchvision.TABLE, {}, "torch"),
    "Google": (google.table(1, linen=False, big_vision=False), {}, "npz"),
    "Google, mean": (
        google.table(1, linen=True, big_vision=True), {"pooling": "mean", "use_class_token": False}, "npz"
    ),
    "Google, attention pooling": (
        google.table(1, linen=True, big_vision=True), {"pooling": "map", "use_class_token": False}, "npz"
    ),
    "timm, attention pooling and key norms": (
        timm.TABLE, {"pooling": "map", "use_class_token": False, "qk_norm": True}, "safetensors"
    ),
    "Meta DINOv2": (dinov2.META, {"layer_scale": 0.3, "use_mask_token": True, "num_labels": 0}, "torch"),
}  # fmt: skip
# What timm writes beside weights without positions for the class token: without it, the rest is a whole model too.
ARGUMENTS = {
    "architecture": "vit_base_patch16_224",
    "model_args": {"class_token": True, "reg_tokens": 2, "img_size": 16},
}
# Left out of a file, these make another model that is whole as well: without a mask token, or of raw features.
OPTIONAL = {"mask_token", "embeddings.mask_token"}


def store(tensors: dict[str, Tensor], path: Path, container: str) -> None:
    if container == "npz":
        import numpy as np

        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    elif container == "torch":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, path)


def is_named(name: str, ours: str, message: str) -> bool:
    """The name in the file, its canonical name, or the stem that names of both share."""
    parts = (name, ours, name.rsplit(".", 1)[0], ours.rsplit(".", 1)[0], ours.removesuffix("_token") + "_token")
    return any(part in message for part in parts)


QUICK = ("timm", "reference", "Google, mean")  # one of each container


@pytest.mark.parametrize(
    ("table", "changes", "container"),
    [pytest.param(*row, id=name, marks=() if name in QUICK else pytest.mark.long) for name, row in FAMILIES.items()],
)
def test_no_change_of_a_tensor_goes_unseen(tmp_path: Path, table: Any, changes: dict[str, Any], container: str) -> None:
    model = random_vit(hidden_size=64, num_attention_heads=1, layer_norm_eps=1e-6, **changes)
    whole = table.write(model.state_dict())
    path = tmp_path / f"m.{'npz' if container == 'npz' else 'pth' if container == 'torch' else 'safetensors'}"
    source = path
    if changes.get("prefix_positions") is False:
        (tmp_path / "config.json").write_text(json.dumps(ARGUMENTS))
        source = tmp_path
    store(whole, path, container)
    weights.load(source)
    silent: list[str] = []
    unnamed: list[str] = []
    for name, tensor in whole.items():
        rest = {n: t for n, t in whole.items() if n != name}
        others: dict[str, Tensor] = {"reshaped": tensor.flatten()[:-1] if tensor.numel() > 1 else tensor[None]}
        for a, b in itertools.combinations(range(tensor.ndim), 2):
            if tensor.shape[a] != tensor.shape[b]:  # a square matrix looks the same
                others[f"axes {a} and {b} exchanged"] = tensor.transpose(a, b)
        tried: dict[str, dict[str, Tensor]] = {
            "removed": rest,
            "renamed": {**rest, f"{name}_x": tensor},
            **{what: {**rest, name: other} for what, other in others.items()},
        }
        matched = table.match(name)
        ours = matched[2] if matched else name
        for what, tensors in tried.items():
            if what == "removed" and name.removeprefix("dinov2_with_registers.") in OPTIONAL:
                continue
            store(tensors, path, container)
            try:
                weights.load(source)
            except WeightsError as error:
                if not is_named(name, ours, str(error)):
                    unnamed.append(f"{name} {what}: {error}")
            else:
                silent.append(f"{name} {what}")
    assert not silent, silent
    assert not unnamed, unnamed
