"""Which patches of an image are masked: as many in every image, drawn anew in every epoch.

In: the ids of a batch and the grid of patches. Out: a mask for each image, a pure function of (seed, epoch, id).

Paper: SimMIM, arXiv:2111.09886, section 3.2
"""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from vitrail.augment.random import Draw, uniform
from vitrail.config import PretrainConfig


def patch_masks(
    config: PretrainConfig, ids: Int64[Tensor, "B"], epoch: int, grid: tuple[int, int], *, seed: int
) -> Bool[Tensor, "B patches"]:
    """Mask round(mask_ratio * units) of the squares of mask_unit x mask_unit patches, which all are equally likely.

    Squares that reach beyond the grid are cut off at its lower and right edge.

    Args:
        ids: stable example ids.
        grid: rows and columns of patches.
        seed: of the run.
    Returns:
        True where a patch is masked, row-major.
    """
    rows, columns = (-(-side // config.mask_unit) for side in grid)
    numbers = uniform(seed, epoch, ids, range(Draw.MASK, Draw.MASK + rows * columns)).T
    chosen = numbers.argsort(dim=1, stable=True)[:, : round(config.mask_ratio * rows * columns)]
    units = torch.zeros_like(numbers, dtype=torch.bool).scatter_(1, chosen, True).unflatten(1, (rows, columns))
    patches = units.repeat_interleave(config.mask_unit, 1).repeat_interleave(config.mask_unit, 2)
    return patches[:, : grid[0], : grid[1]].flatten(1)
