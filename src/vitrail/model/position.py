"""Where a patch is: fixed sine-cosine embeddings, and learned embeddings resampled to another patch grid.

In: a grid as (rows, columns), in patches. Out: one row per patch, row-major (y, then x).
Paper: arXiv:2010.11929, section 3.2 (resampling); arXiv:2205.01580 (two-dimensional sine-cosine).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vitrail.config import ViTConfig
from vitrail.config.vit import PositionResampling

TEMPERATURE = 10_000.0  # arXiv:1706.03762, section 3.5


def sincos_positions(
    grid: tuple[int, int], width: int, device: torch.device | None = None
) -> Float[Tensor, "1 patches width"]:
    """Compute the fixed embedding of every patch: [sin(x w), cos(x w), sin(y w), cos(y w)], fp32.

    Args:
        grid: rows and columns, in patches.
        width: D, a multiple of 4; the frequencies w fall geometrically from 1 to 1 / 10000.
        device: where the result is computed; None: torch's default device.
    Source: arXiv:2205.01580, as in google-research/big_vision:big_vision/models/vit.py.
    """
    num_frequencies = width // 4
    exponent = torch.arange(num_frequencies, dtype=torch.float32, device=device) / max(num_frequencies - 1, 1)
    frequency = TEMPERATURE**-exponent
    y = torch.arange(grid[0], dtype=torch.float32, device=device)[:, None, None] * frequency
    x = torch.arange(grid[1], dtype=torch.float32, device=device)[None, :, None] * frequency
    y, x = torch.broadcast_tensors(y, x)
    return torch.cat((x.sin(), x.cos(), y.sin(), y.cos()), dim=-1).flatten(0, 1)[None]


def fixed_positions(config: ViTConfig) -> Float[Tensor, "1 rows D"]:
    """The sine-cosine embedding of a whole model: zero rows for tokens before the patches, which are nowhere."""
    patches = sincos_positions(config.grid, config.hidden_size)
    return F.pad(patches, (0, 0, config.num_prefix_positions, 0))


# Rule: mode, antialias, align_corners, offset of the scale factor.
_RULES: dict[str, tuple[str, bool, bool | None, float]] = {
    "bicubic": ("bicubic", False, False, 0.0),  # transformers' ViT and DINOv2; DeiT and MAE
    "bicubic_antialias": ("bicubic", True, False, 0.0),  # timm; DINOv2 with registers
    "bicubic_scale": ("bicubic", False, False, 0.1),  # facebookresearch/dinov2 without registers
    "bicubic_aligned": ("bicubic", False, True, 0.0),  # torchvision
    "bilinear": ("bilinear", False, False, 0.0),  # FlexiViT; timm when it reads .npz
    "bilinear_aligned": ("bilinear", False, True, 0.0),  # google-research: scipy.ndimage.zoom of order 1
}


def resample_positions(
    positions: Float[Tensor, "1 old width"],
    old: tuple[int, int],
    new: tuple[int, int],
    rule: PositionResampling = "bicubic",
) -> Float[Tensor, "1 new width"]:
    """Resample learned position embeddings to another patch grid, in fp32; the old grid gives the old values.

    Args:
        positions: one row per patch, prefix tokens already removed.
        old: grid of `positions`; need not be square.
        new: the wanted grid.
        rule: whose resampling; bicubic is that of huggingface/transformers:src/transformers/models/vit/modeling_vit.py.
    Source: arXiv:2010.11929, section 3.2; the rule of each library as in the table above.
    """
    mode, antialias, align_corners, offset = _RULES[rule]
    # An exported program has no branch for the old grid; without offset, resampling to it gives the same values.
    if (offset or not torch.compiler.is_exporting()) and old == new:
        return positions
    image = positions.float().unflatten(1, old).permute(0, 3, 1, 2)
    if offset:
        factors = [(n + offset) / o for o, n in zip(old, new, strict=True)]
        image = F.interpolate(image, scale_factor=factors, mode=mode, align_corners=align_corners)
    else:
        image = F.interpolate(image, size=new, mode=mode, align_corners=align_corners, antialias=antialias)
    return image.flatten(2).transpose(1, 2).to(positions.dtype)
