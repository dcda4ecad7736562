"""How far an image is from everything that a model knows: the Mahalanobis distance of its pooled features.

Source: Lee et al. 2018, arXiv:1807.03888, section 2.1; the covariance is shrunk as by Ledoit and Wolf 2004.
"""

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn

from vitrail.model import ViT

_MOST_BYTES = 20 << 20
"""A covariance of 2,289 features: what is wider only gets the variance of each."""


@dataclass(frozen=True)
class Mahalanobis:
    """Class means of pooled features, and what makes the features of one class round.

    Args:
        whiten: features @ whiten.T have the covariance 1 within a class; [D]: each feature is only scaled.
        means: of each class, whitened.
    """

    whiten: Float[Tensor, "D D"] | Float[Tensor, " D"]
    means: Float[Tensor, "L D"]

    def distances(self, whitened: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Distance of each image to the nearest class mean."""
        means = self.means.to(whitened.device)
        return torch.cdist(whitened, means, compute_mode="donot_use_mm_for_euclid_dist").amin(1)


def fit_mahalanobis(
    features: Float32[np.ndarray, "N D"], labels: Int[np.ndarray, "N"], *, most_bytes: int = _MOST_BYTES
) -> Mahalanobis:
    """Fit class means and the covariance that all classes share; classes without images have no mean.

    Args:
        most_bytes: of the covariance; beyond it, the variance of each feature is kept.
    """
    from sklearn.covariance import ledoit_wolf

    present, places = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(present), features.shape[1]))
    np.add.at(sums, places, features)
    means = sums / np.bincount(places)[:, None]
    rest = features - means[places]
    if 4 * features.shape[1] ** 2 <= most_bytes:
        values, vectors = np.linalg.eigh(np.asarray(ledoit_wolf(rest, assume_centered=True)[0]))
        whiten = (vectors * _inverse_root(values)).T
        white = means @ whiten.T
    else:
        whiten = _inverse_root(rest.var(0))
        white = means * whiten
    return Mahalanobis(torch.from_numpy(whiten.astype(np.float32)), torch.from_numpy(white.astype(np.float32)))


def _inverse_root(variances: Float64[np.ndarray, "D"]) -> Float64[np.ndarray, "D"]:
    """1 / sqrt, of none less than a ten-millionth of the largest."""
    return 1 / np.sqrt(np.maximum(variances, variances.max() * 1e-7 + 1e-12))


def with_features(model: ViT, found: Mahalanobis) -> ViT:
    """A copy of a model, of the same weights but the classifier, whose logits are followed by the whitened features.

    Whatever runs a ViT then gives both at once.
    """
    assert isinstance(model.head, nn.Linear)
    wide = copy.copy(model)
    wide._modules = dict(model._modules)
    whiten = found.whiten if found.whiten.ndim == 2 else found.whiten.diag()
    count = len(whiten)
    wide.config = replace(model.config, num_labels=model.config.num_labels + count)
    # The logits of a distilled model are the mean of two classifiers.
    halves = 1.0 if model.head_dist is None else 2.0
    wide.head = _wider(model.head, whiten.to(model.head.weight) * halves)
    if model.head_dist is not None:
        assert isinstance(model.head_dist, nn.Linear)
        wide.head_dist = _wider(model.head_dist, torch.zeros_like(whiten).to(model.head_dist.weight))
    return wide


def _wider(head: nn.Linear, rows: Tensor) -> nn.Linear:
    wide = nn.Linear(head.in_features, head.out_features + len(rows), device=rows.device, dtype=rows.dtype)
    with torch.no_grad():
        wide.weight.copy_(torch.cat((head.weight, rows)))
        wide.bias.copy_(torch.cat((head.bias, rows.new_zeros(len(rows)))))
    return wide.eval()
