"""Changes of read weights that were asked for: another image size, patch, number of channels, other classes.

In: canonical tensors and the geometry they fill. Out: the same for the geometry that is wanted; every change is
written into the audit. All arithmetic is in fp32.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrail.config import ViTConfig
from vitrail.config.checks import pair
from vitrail.config.vit import check_divisible
from vitrail.errors import ConfigError, WeightsError
from vitrail.model.init import truncated_normal
from vitrail.model.position import resample_positions
from vitrail.model.relative import resample_table
from vitrail.weights.audit import Audit

Head = Literal["match", "keep", "reset"]


def resize_image(
    tensors: dict[str, Tensor], geometry: ViTConfig, image_size: int | tuple[int, int], audit: Audit
) -> ViTConfig:
    """Resample the learned positions to another image size, by the rule of the weights' own library.

    Raises:
        ConfigError: the patch does not divide the size.
    """
    if pair(image_size) == pair(geometry.image_size):
        return geometry
    check_divisible(image_size, geometry, "image-size")
    resized = replace(geometry, image_size=image_size)
    if geometry.position == "learned" and geometry.grid != resized.grid:
        first, positions = geometry.num_prefix_positions, tensors["pos_embed"]
        patches = resample_positions(positions[:, first:], geometry.grid, resized.grid, geometry.position_resampling)
        tensors["pos_embed"] = torch.cat((positions[:, :first], patches), dim=1)
        (old_y, old_x), (new_y, new_x) = geometry.grid, resized.grid
        audit.adapt("pos_embed", f"resampled from {old_y}x{old_x} to {new_y}x{new_x}, {geometry.position_resampling}")
    if geometry.relative_positions and geometry.grid != resized.grid:
        for name in [name for name in tensors if name.endswith("attn.relative.table")]:
            tensors[name] = resample_table(tensors[name], resized.grid)
            audit.adapt(name, "resampled for another grid, bicubic")
    return resized


def change_channels(tensors: dict[str, Tensor], geometry: ViTConfig, channels: int, audit: Audit) -> ViTConfig:
    """Make the first kernel take another number of channels: summed to one, or repeated and scaled to keep the sum.

    Source: timm's adapt_input_conv.
    """
    old = geometry.num_channels
    if channels == old:
        return geometry
    name = "patch_embed.proj.weight"
    if geometry.stem_channels:
        raise ConfigError("The channels of a convolutional stem cannot be changed.", got=channels, expected=old)
    kernel = tensors[name].float()
    if channels == 1:
        kernel = kernel.sum(dim=1, keepdim=True)
    else:
        kernel = kernel.repeat(1, -(-channels // old), 1, 1)[:, :channels] * (old / channels)
    tensors[name] = kernel
    audit.adapt(name, f"{old} input channels to {channels}")
    return replace(geometry, num_channels=channels)


def change_patch(tensors: dict[str, Tensor], geometry: ViTConfig, patch_size: int, audit: Audit) -> ViTConfig:
    """Resample the patch kernel so that resized patches give the same tokens as well as can be, same grid.

    The image size changes with the patch. Source: FlexiViT, arXiv:2212.08013, section 3.4 (PI-resize).
    """
    old, new = pair(geometry.patch_size), pair(patch_size)
    if old == new:
        return geometry
    matrix = _resize_matrix(old, new)
    inverse = torch.linalg.pinv(matrix.mT)
    kernel = tensors["patch_embed.proj.weight"].float()
    flat = kernel.flatten(2) @ inverse.mT
    tensors["patch_embed.proj.weight"] = flat.unflatten(2, new).contiguous()
    audit.adapt("patch_embed.proj.weight", f"patch {old[0]}x{old[1]} to {new[0]}x{new[1]}")
    size = geometry.grid[0] * new[0], geometry.grid[1] * new[1]
    return replace(geometry, patch_size=patch_size, image_size=size)


def change_classes(
    tensors: dict[str, Tensor],
    geometry: ViTConfig,
    old: Sequence[str],
    new: Sequence[str] | int,
    head: Head,
    audit: Audit,
) -> ViTConfig:
    """Fit the classifier to other classes.

    Args:
        old: class names of the weights; empty: unnamed.
        new: class names, or their number alone.
        head: match: rows of classes with the same name are kept, the others start anew (truncated normal 0.02, bias
            0); without names on both sides an equal number keeps the head. keep: every row stays, in its order;
            reset: every row starts anew.
    Raises:
        ConfigError: head=keep and the number of classes differs.
    """
    count = new if isinstance(new, int) else len(new)
    rows = _kept_rows(geometry.num_labels, old, new, head)
    if rows == list(range(geometry.num_labels)):
        return geometry
    width = geometry.hidden_size * (2 if geometry.pooling == "cls_mean" else 1)
    for name in ("head", "head_dist") if geometry.pooling == "cls_dist" else ("head",):
        weight, bias = torch.empty(count, width), torch.zeros(count)
        truncated_normal(weight, geometry.initializer_range)
        for k, row in enumerate(rows):
            if row is not None:
                weight[k], bias[k] = tensors[f"{name}.weight"][row].float(), tensors[f"{name}.bias"][row].float()
        kept = sum(row is not None for row in rows)
        for end, value in (("weight", weight), ("bias", bias)):
            _note_head(audit, f"{name}.{end}", kept, count, geometry.num_labels)
            tensors.pop(f"{name}.{end}", None)
            if count:
                tensors[f"{name}.{end}"] = value
    return replace(geometry, num_labels=count)


def _kept_rows(have: int, old: Sequence[str], new: Sequence[str] | int, head: Head) -> list[int | None]:
    """For each new class the row that it takes over, or None."""
    count = new if isinstance(new, int) else len(new)
    if head == "keep":
        if count != have:
            raise ConfigError(
                "--head keep needs as many classes as the weights have.",
                got=f"{count} classes",
                expected=have,
                do="Use --head match, which keeps the classes that have the same name.",
            )
        return list(range(have))
    if head == "reset":
        return [None] * count
    if isinstance(new, int) or not old:
        return list(range(have)) if count == have and isinstance(new, int) else [None] * count
    return [_row_of(name, old) for name in new]


def _row_of(name: str, old: Sequence[str]) -> int | None:
    """The one class of this name, exactly or but for upper and lower case; None when there is none or more.

    Of several classes with one name the later ones bear their number as well ("crane (517)"): none of them is meant.
    """
    for found in (
        [i for i, other in enumerate(old) if other in (name, f"{name} ({i})")],
        [i for i, other in enumerate(old) if other.casefold() in (name.casefold(), f"{name.casefold()} ({i})")],
    ):
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _note_head(audit: Audit, name: str, kept: int, count: int, had: int) -> None:
    """Write what became of one tensor of the classifier."""
    if kept:
        audit.adapt(name, f"{kept} of {count} classes kept by name, {count - kept} new")
        return
    for theirs in [theirs for theirs, ours in audit.mapped.items() if ours == name]:
        del audit.mapped[theirs]
        audit.dropped[theirs] = "head for other classes"
    if count:
        audit.reinitialised[name] = f"new head: {count} classes, the weights had {had}"


def _resize_matrix(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """The linear map of bilinear resizing, [new pixels, old pixels]."""
    basis = torch.eye(old[0] * old[1]).view(-1, 1, *old)
    resized = F.interpolate(basis, size=new, mode="bilinear", antialias=False, align_corners=False)
    matrix = resized.flatten(1).mT
    if not bool(matrix.isfinite().all()):
        raise WeightsError("The patch kernel cannot be resized.", got=new)
    return matrix
