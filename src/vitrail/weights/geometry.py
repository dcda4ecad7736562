"""The geometry of a model, read off its tensors: what every foreign family's file is measured with.

In: tensors by canonical names, and the little that tensors do not tell. Out: a `ViTConfig`.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vitrail.config import ViTConfig
from vitrail.config.checks import pair
from vitrail.errors import ConfigError, WeightsError

# Sides in pixels that models are made for: where the rows of a position embedding allow two readings, the usual one.
_USUAL_SIDES = {32, 64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 336, 384, 448, 512, 518}
_ASK = (
    "Say it: vitrail convert FILE NAME.safetensors --to vitrail --image-size HEIGHTxWIDTH, or image_size=(H, W); "
    "or put config.json beside the file and give the folder."
)


def infer_geometry(
    canonical: Mapping[str, Tensor],
    *,
    heads: int,
    image_size: tuple[int, int] | None = None,
    asked_size: tuple[int, int] | None = None,
    bare_positions: bool = False,
    **behaviour: Any,
) -> ViTConfig:
    """Read the geometry off canonical tensors.

    Args:
        canonical: tensors by canonical name.
        heads: A, which most files do not tell.
        image_size: (height, width) that the file's configuration says; None: a square grid of patches.
        asked_size: (height, width) that the user gave: decides where the rows of the positions allow several grids.
        bare_positions: whether the names show a kind of model whose positions are those of the patches alone.
        behaviour: fields of ViTConfig that tensors do not tell: layer_norm_eps, activation, pooling, ...
    Raises:
        WeightsError: a tensor is missing that every ViT has, or two contradict each other.
    """
    check_patch_kernel(canonical)
    width, channels, *patch = _needed(canonical, "patch_embed.proj.weight").shape
    depth = _depth(canonical)
    ends = {name.split(".", 2)[2] for name in canonical if name.startswith("blocks.") and name.count(".") > 2}
    gated = "mlp.gate.weight" in ends
    _needed(canonical, "blocks.0.mlp.gate.weight" if gated else "blocks.0.mlp.fc1.weight")
    tokens = [name for name in ("cls_token", "dist_token") if name in canonical]
    registers = canonical["reg_token"].shape[1] if "reg_token" in canonical and canonical["reg_token"].ndim == 3 else 0
    size, prefix = _image_size(canonical, (patch[0], patch[1]), tokens, image_size, asked_size, bare_positions)
    head = canonical.get("head.weight", canonical.get("head.bias"))
    fields: dict[str, Any] = {
        "patch_size": patch[0] if patch[0] == patch[1] else (patch[0], patch[1]),
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "mlp_ratio": _mlp_width(canonical) / width,
        "qkv_bias": "attn.qkv.bias" in ends,
        "use_class_token": "cls_token" in tokens,
        "use_distillation_token": "dist_token" in tokens,
        "use_mask_token": "mask_token" in canonical,
        "num_registers": registers,
        "relative_positions": "attn.relative.table" in ends,
        "prefix_positions": prefix,
        "position": "learned",
        "layer_scale": 1.0 if ends & {"ls1.gamma", "ls2.gamma"} else 0.0,
        "qk_norm": bool(ends & {"attn.q_norm.weight", "attn.k_norm.weight"}),
        "final_norm": "pooled" if {"fc_norm.weight", "fc_norm.bias"} & canonical.keys() else "tokens",
        "image_size": size[0] if size[0] == size[1] else size,
        "num_channels": channels,
        "num_labels": head.shape[0] if head is not None else 0,
        **({"activation": "swiglu"} if gated else {}),
    }
    try:
        return ViTConfig(**{**fields, **behaviour})
    except ConfigError as error:
        raise WeightsError(f"The tensors and the configuration do not fit together: {error}") from error


def check_patch_kernel(canonical: Mapping[str, Tensor]) -> None:
    """Raise WeightsError when the kernel of the patch embedding, where there is one, is not [D, C, P, P].

    D is the width of the norms, where they agree about it, and C is 1 or 3: before width, channels and patch are read
    off the kernel, which would carry a mistake in it into a message about something else.
    """
    kernel = canonical.get("patch_embed.proj.weight")
    if kernel is None:
        return
    norms = {t.shape[-1] for n, t in canonical.items() if n.endswith(("norm1.bias", "norm2.bias")) and t.ndim == 1}
    width = norms.pop() if len(norms) == 1 else None
    if kernel.ndim != 4 or kernel.shape[1] not in (1, 3) or width not in (None, kernel.shape[0]):
        raise WeightsError(
            "The kernel of the patch embedding, patch_embed.proj.weight, has the wrong shape.",
            got=list(kernel.shape),
            expected=f"[{width or 'D'}, C, P, P], C 1 or 3 for grey or colour images",
        )


def _needed(canonical: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in canonical:
        raise WeightsError(f"The file lacks {name}, which every ViT has.", got=f"{len(canonical)} known tensors")
    return canonical[name]


def _depth(canonical: Mapping[str, Tensor]) -> int:
    """Number of blocks; WeightsError when one is missing in between."""
    numbers = {int(name.split(".")[1]) for name in canonical if name.startswith("blocks.")}
    first_missing = next(i for i in itertools.count() if i not in numbers)
    if first_missing != len(numbers) or not numbers:
        raise WeightsError(
            "The file lacks whole blocks.",
            got=f"{len(numbers)} blocks, without number {first_missing}",
            expected="blocks 0 to the last, each of them",
        )
    return len(numbers)


def _mlp_width(canonical: Mapping[str, Tensor]) -> int:
    """Width inside the MLPs that most of their tensors tell: the few others are then named as not fitting."""
    said = Counter(
        tensor.shape[-1] if name.endswith("fc2.weight") else tensor.shape[0]
        for name, tensor in canonical.items()
        if re.fullmatch(r"blocks\.\d+\.mlp\.((fc1|gate)\.(weight|bias)|fc2\.weight)", name) and tensor.ndim
    )
    return max(said, key=lambda width: said[width], default=0)


def _image_size(
    canonical: Mapping[str, Tensor],
    patch: tuple[int, int],
    tokens: Sequence[str],
    said: tuple[int, int] | None,
    asked: tuple[int, int] | None,
    bare: bool,
) -> tuple[tuple[int, int], bool]:
    """Image size, and whether prefix tokens have positions, from the rows of the position embedding."""
    num_tokens = len(tokens)
    if "pos_embed" not in canonical:
        return said or (14 * patch[0], 14 * patch[1]), True
    positions = canonical["pos_embed"]
    if positions.ndim != 3:
        raise WeightsError("pos_embed has the wrong shape.", got=list(positions.shape), expected="[1, rows, D]")
    rows = positions.shape[1]
    if said is not None:
        grid = said[0] // patch[0], said[1] // patch[1]
        for prefix in (num_tokens, 0):
            if rows == prefix + math.prod(grid):
                return said, prefix == num_tokens
        raise WeightsError(
            "The position embedding does not fit the image size of the configuration.",
            got=f"pos_embed with {rows} rows",
            expected=f"{num_tokens} + {grid[0]} x {grid[1]} for {said[0]}x{said[1]} pixels and patches of {patch}",
        )
    has = [n if n in canonical else f"no {n}" for n in ("cls_token", "dist_token")]
    prefix, grid = read_rows(rows, (0, num_tokens) if bare else (num_tokens, 0), patch, asked, f"and {', '.join(has)}")
    return (grid[0] * patch[0], grid[1] * patch[1]), prefix == num_tokens


def read_rows(
    rows: int, prefixes: Sequence[int], patch: tuple[int, int], asked: tuple[int, int] | None, what: str
) -> tuple[int, tuple[int, int]]:
    """How many rows of a position embedding stand before those of the patches, and the grid of these.

    A square grid behind as many rows as there are tokens is taken at once. With fewer rows before it, a square grid
    could as well be an oblong one behind them: then the size that was asked for decides, else the side that is usual.

    Args:
        prefixes: how many rows may stand before the patches, the usual number first.
        asked: (height, width) in pixels that the user gave.
        what: which tokens there are, for the message.
    Raises:
        WeightsError: several readings and none of them asked for, or no square grid at all.
    """
    square = {p: side for p in dict.fromkeys(prefixes) if (side := math.isqrt(max(rows - p, 0))) ** 2 == rows - p > 0}
    if len(square) == 1 and prefixes[0] in square:
        return prefixes[0], pair(square[prefixes[0]])
    if asked is not None:
        wanted = asked[0] // patch[0], asked[1] // patch[1]
        for prefix in prefixes:
            if rows == prefix + math.prod(wanted):
                return prefix, wanted
    usual = [p for p, side in square.items() if side * patch[0] in _USUAL_SIDES and patch[0] == patch[1]]
    if len(usual) == 1:
        return usual[0], pair(square[usual[0]])
    oblong = [p for p in prefixes if p not in square]
    readings = [f"{p} + {side} x {side}" for p, side in square.items()]
    readings += [f"{p} + an oblong grid of {rows - p}" for p in oblong[:1]] if square else []
    raise WeightsError(
        "The position embedding allows several grids of patches, and no configuration tells which."
        if square
        else "The position embedding is no square grid, and no configuration tells its sides.",
        got=f"pos_embed with {rows} rows, {what}" + (f": {', or '.join(readings)}" if readings else ""),
        expected="an image size that decides" if square else "a square number of patches, or the image size",
        do=_ASK,
    )
