"""A model that begins with whitened pixels: the mean and the covariance of patches of its training images."""

import math

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.augment import prepare
from vitrail.config import Preprocessing
from vitrail.data import ImageSet, batches
from vitrail.model import ViT
from vitrail.model.init import whiten_filters, whiten_patches

MOST_IMAGES, MOST_PATCHES = 5_000, 400_000
_BATCH = 250


def whiten(model: ViT, train_set: ImageSet, preprocessing: Preprocessing) -> None:
    """Change the random weights of the layer that sees the pixels, by what the training images are like."""
    projection = model.patch_embed.proj
    first = next((layer for layer in model.stem.modules() if isinstance(layer, nn.Conv2d)), projection)
    height, width = first.kernel_size
    mean, covariance = patch_statistics(train_set, preprocessing, (height, width))
    if first is projection:
        whiten_patches(projection, mean, covariance)
    else:
        whiten_filters(first, covariance)


@torch.no_grad()
def patch_statistics(
    train_set: ImageSet, preprocessing: Preprocessing, patch: tuple[int, int]
) -> tuple[Float64[Tensor, "in"], Float64[Tensor, "in in"]]:
    """Mean and covariance of the values of a patch, channels first, over images from all of the set.

    The same on every process and whatever the random seed.
    """
    patches_each = math.prod(side // step for side, step in zip(preprocessing.image_size, patch, strict=True))
    count = min(len(train_set), MOST_IMAGES, math.ceil(MOST_PATCHES / patches_each))
    positions = np.linspace(0, len(train_set) - 1, count).round().astype(np.int64)
    size = preprocessing.num_channels * math.prod(patch)
    number, total, products = 0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for batch in batches(train_set, positions, _BATCH, device=torch.device("cpu")):
        images = prepare(batch.images[batch.labels >= 0] if batch.errors else batch.images, preprocessing)
        values = F.unfold(images, patch, stride=patch).transpose(1, 2).flatten(0, 1).double()
        number, total, products = number + len(values), total + values.sum(0), products + values.T @ values
    mean = total / max(number, 1)
    return mean, products / max(number, 1) - mean.outer(mean)
