"""Relative positions: a learned number for each head and each offset from one patch to another, added to the scores.

In: where tokens lie. Out: [A, N, N] for the patches of a grid, or [B, A, N, N] where each image keeps its own patches.
Paper: arXiv:2103.14030, section 3.2 (the bias; interpolated for another grid there, for a larger one here).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Places:
    """Where the patches of a sequence lie; class token and registers lie nowhere.

    Args:
        grid: rows and columns.
        patches: numbers of those that are there, row-major, for each image; None: all, in their order.
    """

    grid: tuple[int, int]
    patches: Int64[Tensor, "B M"] | None = None


class RelativePositions(nn.Module):
    """The bias of one attention layer.

    Args:
        num_heads: A.
        grid: rows and columns of patches that the table is made for.
        num_prefix: tokens before the patches, whose scores get no bias.
    """

    def __init__(self, num_heads: int, grid: tuple[int, int], num_prefix: int) -> None:
        super().__init__()
        self.grid, self.num_prefix = grid, num_prefix
        self.table = nn.Parameter(torch.empty(num_heads, 2 * grid[0] - 1, 2 * grid[1] - 1))

    def forward(self, places: Places | None = None) -> Float[Tensor, "*B A N N"]:
        """The bias of every query (rows) and key (columns).

        Args:
            places: of the tokens; None: all patches of the model's own grid.
        """
        grid = places.grid if places else self.grid
        table = resample_table(self.table, grid)
        offsets = offset_numbers(grid, table.device)
        if places and places.patches is not None:
            rows = offsets[places.patches]  # [B, M, patches]
            offsets = rows.gather(2, places.patches[:, None].expand(-1, rows.shape[1], -1))
        # Not table[:, offsets]: the gradient of an embedding is several times faster on a CPU.
        bias = F.embedding(offsets, table.flatten(1).T).movedim(-1, -3)
        return F.pad(bias, (self.num_prefix, 0, self.num_prefix, 0)) if self.num_prefix else bias


def offset_numbers(grid: tuple[int, int], device: torch.device | None = None) -> Int64[Tensor, "patches patches"]:
    """For each query and key patch, where their offset is in a flattened table of (2 rows - 1) x (2 columns - 1)."""
    y, x = (torch.arange(side, device=device) for side in grid)
    y, x = y.repeat_interleave(grid[1]), x.repeat(grid[0])
    down, right = y[:, None] - y + grid[0] - 1, x[:, None] - x + grid[1] - 1
    return down * (2 * grid[1] - 1) + right


def resample_table(table: Float[Tensor, "A old_y old_x"], grid: tuple[int, int]) -> Float[Tensor, "A new_y new_x"]:
    """The table for another grid. In a smaller one an offset of so many patches keeps its number (docs/LOG.md: better
    than fractions of the image where training begins with small images); for a larger one the table is stretched:
    bicubic, in fp32.
    """
    size = 2 * grid[0] - 1, 2 * grid[1] - 1
    top, left = (max(0, old - new) // 2 for old, new in zip(table.shape[1:], size, strict=True))
    table = table[:, top : table.shape[1] - top, left : table.shape[2] - left]
    if tuple(table.shape[1:]) == size:
        return table.contiguous()
    return F.interpolate(table.float()[None], size=size, mode="bicubic", align_corners=True)[0].to(table.dtype)
