"""Evaluation counts every example once, whatever the batch."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from vitrail.augment import prepare
from vitrail.config import Preprocessing, ViTConfig
from vitrail.data import ImageSet
from vitrail.errors import DataError, ImageError
from vitrail.model import ViT
from vitrail.training import Evaluation, evaluate

PREPROCESSING = Preprocessing(image_size=(8, 8), decode_size=(8, 8))
CONFIG = ViTConfig(image_size=8, patch_size=4, num_labels=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)


def _set(n: int = 53, **changes: Any) -> ImageSet:
    random = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "split": "test",
        "classes": tuple("abcdefg"),
        "images": random.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8),
        "labels": random.integers(0, 6, n),  # class g never appears
        "ids": np.arange(n),
        "names": [str(i) for i in range(n)],
        "errors": (),
        "fingerprint": "",
    }
    return ImageSet(**(fields | changes))


def _model() -> ViT:
    torch.manual_seed(0)
    model = ViT(CONFIG)
    torch.nn.init.normal_(model.head.weight)
    return model


def test_against_the_definitions() -> None:
    model, images = _model(), _set()
    result = evaluate(model, images, PREPROCESSING, batch_size=10)
    with torch.no_grad():
        logits = model.eval()(prepare(torch.from_numpy(images.images), PREPROCESSING))["logits"]
    labels = torch.from_numpy(images.labels)
    assert result.num_examples == 53
    assert result.num_correct == int((logits.argmax(1) == labels).sum())
    assert 0 < result.num_correct < 53
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert result.num_top5_correct == int((ranks < 5).sum())
    assert result.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-6)
    for label, prediction in zip(labels.tolist(), logits.argmax(1).tolist(), strict=True):
        assert result.confusion[label][prediction] > 0
    assert sum(map(sum, result.confusion)) == 53


def test_mirror_images_are_measured_beside_the_images() -> None:
    model, images = _model(), _set(errors=(ImageError("truncated", "x.jpg"),))
    plain = evaluate(model, images, PREPROCESSING, batch_size=10)
    both = evaluate(model, images, PREPROCESSING, batch_size=10, with_mirror=True)
    mirrored = both.with_mirror
    assert mirrored
    assert dataclasses.replace(both, with_mirror=None) == plain
    told = both.to_json()
    assert told.pop("with_mirror").keys() == {"num_correct", "accuracy", "top5_accuracy", "loss"}
    assert told == plain.to_json()
    pixels = torch.from_numpy(images.images)
    with torch.no_grad():
        views = [model(prepare(one, PREPROCESSING))["logits"] for one in (pixels, pixels.flip(3))]
    logits, labels = sum(views) / 2, torch.from_numpy(images.labels)
    assert mirrored.num_correct == int((logits.argmax(1) == labels).sum())
    assert mirrored.accuracy == mirrored.num_correct / 54
    assert mirrored.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert mirrored.num_top5_correct == int((ranks < 5).sum()) != plain.num_top5_correct
    assert both.predictions
    assert plain.predictions
    assert mirrored.predictions
    assert np.array_equal(both.predictions.logits, plain.predictions.logits)  # type: ignore[arg-type]
    np.testing.assert_allclose(mirrored.predictions.logits, logits.numpy(), atol=1e-6)  # type: ignore[arg-type]
    turned = _set(images=images.images[..., ::-1].copy())
    assert evaluate(model, turned, PREPROCESSING, batch_size=9, with_mirror=True).with_mirror == dataclasses.replace(
        mirrored, errors=()
    )


@pytest.mark.parametrize("batch_size", [1, 2, 7, 52, 53, 1000])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    whole = evaluate(_model(), _set(), PREPROCESSING, batch_size=53)
    parts = evaluate(_model(), _set(), PREPROCESSING, batch_size=batch_size)
    assert parts.confusion == whole.confusion
    assert parts.num_top5_correct == whole.num_top5_correct
    assert parts.loss == pytest.approx(whole.loss, abs=1e-6)


def test_per_class_figures_by_hand() -> None:
    result = Evaluation(
        split="test", classes=("a", "b", "c"), confusion=((2, 1, 0), (0, 3, 0), (0, 0, 0)),
        num_top5_correct=6, loss=0.5, errors=(),
    )  # fmt: skip
    assert result.per_class["a"] == {"num_examples": 3, "precision": 1.0, "recall": 2 / 3, "f1": 0.8}
    assert result.per_class["b"] == {"num_examples": 3, "precision": 0.75, "recall": 1.0, "f1": 6 / 7}
    assert result.per_class["c"] == {"num_examples": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert result.accuracy == 5 / 6


def test_an_unreadable_image_counts_as_wrong() -> None:
    clean = evaluate(_model(), _set(), PREPROCESSING, batch_size=10)
    broken = evaluate(_model(), _set(errors=(ImageError("truncated", "x.jpg"),)), PREPROCESSING, batch_size=10)
    assert broken.num_examples == clean.num_examples + 1
    assert broken.num_correct == clean.num_correct
    assert broken.accuracy < clean.accuracy
    assert broken.to_json()["errors"] == [{"path": "x.jpg", "error": "truncated"}]


def test_nothing_to_evaluate_is_an_error() -> None:
    none = {"images": np.zeros((0, 3, 8, 8), np.uint8), "labels": np.zeros(0, int), "ids": np.zeros(0, int)}
    empty = _set(**none, names=[])
    with pytest.raises(DataError, match="no readable image"):
        evaluate(_model(), empty, PREPROCESSING, batch_size=10)


def test_the_mode_of_the_model_is_put_back() -> None:
    model = _model().train()
    evaluate(model, _set(), PREPROCESSING, batch_size=10)
    assert model.training


def test_another_input_size_interpolates_positions() -> None:
    larger = dataclasses.replace(PREPROCESSING, image_size=(16, 12))
    result = evaluate(_model(), _set(), larger, batch_size=10)
    assert result.num_examples == 53
    assert result.loss != evaluate(_model(), _set(), PREPROCESSING, batch_size=10).loss
