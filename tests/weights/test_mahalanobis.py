"""Distances to the classes, and a model that gives logits and features at once."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from tests.support.random_vit import random_vit
from vitrail.weights.mahalanobis import fit_mahalanobis, with_features


def _drawn(count: int = 400, width: int = 12, num_labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, num_labels, count)
    mixing = draw.normal(size=(width, width))
    rows = draw.normal(size=(count, width)) @ mixing + 4 * draw.normal(size=(num_labels, width))[labels]
    return rows.astype(np.float32), labels


def test_the_distance_is_that_of_scipy() -> None:
    rows, labels = _drawn()
    means = np.stack([rows[labels == label].mean(0) for label in range(3)])
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(rows - means[labels]).covariance_)
    expected = [min(mahalanobis(row, mean, precision) for mean in means) for row in rows[:20]]
    found = fit_mahalanobis(rows, labels)
    white = torch.from_numpy(rows[:20]) @ found.whiten.T
    np.testing.assert_allclose(found.distances(white).numpy(), expected, rtol=1e-3)


def test_wide_features_keep_their_variances_alone() -> None:
    rows, labels = _drawn()
    found = fit_mahalanobis(rows, labels, most_bytes=100)
    means = np.stack([rows[labels == label].mean(0) for label in range(3)])
    assert found.whiten.shape == (12,)
    np.testing.assert_allclose(found.whiten.numpy(), 1 / (rows - means[labels]).std(0), rtol=1e-4)
    model = random_vit(hidden_size=12, num_attention_heads=2, num_labels=3)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = with_features(model, found)(images)["logits"]
        pooled = model.pool(model.forward_features(images))
    torch.testing.assert_close(outputs[:, 3:], pooled * found.whiten, atol=1e-4, rtol=1e-4)


def test_a_class_without_images_has_no_mean() -> None:
    rows, labels = _drawn()
    found = fit_mahalanobis(rows[labels != 1], labels[labels != 1])
    assert found.means.shape == (2, 12)
    assert fit_mahalanobis(rows[:, :1] * 0, labels).distances(torch.ones(1, 1)).isfinite().all()


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "mean_max", "cls_mean", "map", "cls_dist"])
def test_features_follow_the_logits(pooling: str) -> None:
    tokens = {"use_class_token": pooling.startswith("cls"), "use_distillation_token": pooling == "cls_dist"}
    model = random_vit(pooling=pooling, **tokens)
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, pooled = model(images)["logits"], model.pool(model.forward_features(images))
        found = fit_mahalanobis(pooled.repeat(3, 1).numpy(), np.arange(18) % 3)
        outputs = with_features(model, found)(images)["logits"]
    torch.testing.assert_close(outputs[:, :5], logits, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(outputs[:, 5:], pooled @ found.whiten.T, atol=1e-3, rtol=1e-4)
    assert model.config.num_labels == 5
    assert model(images)["logits"].shape == (6, 5)
