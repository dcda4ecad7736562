"""Classifiers on the features of weights that do not move: k nearest neighbours and logistic regression.

The features are computed once, on the device; scikit-learn does the rest. What a probe reaches in seconds is what
fine-tuning has to beat.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float32, Int64

from vitrail.augment import prepare
from vitrail.config import Preprocessing
from vitrail.config.checks import pair
from vitrail.data import ImageSet, batches, epoch_order
from vitrail.errors import ImageError, WeightsError
from vitrail.model import ViT
from vitrail.run import Baseline
from vitrail.training.evaluate import TOP, Evaluation

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

# Inverse strength of the L2 penalty on standardised features; chosen on fifths of the training images: on each of
# them in turn where there are few, since a choice by some thirty images is mostly chance; on one where there are many.
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)
_FOLDS = 5
_FEW = 2000
_MOST_ITERATIONS = 200
# A class that no training image shows: its logit stays below every other.
_NEVER = -30.0

Rows = Float32[np.ndarray, "N D"]
Labels = Int64[np.ndarray, "N"]


@dataclass(frozen=True)
class Features:
    """What the trunk makes of images, and their classes.

    Args:
        examples: the images that could be read; None where nobody asks.
    """

    rows: Rows
    labels: Labels
    examples: ImageSet | None = None


@dataclass(frozen=True)
class LinearProbe:
    """Logits = rows @ weight.T + bias, the standardisation folded in.

    Args:
        penalty: of PENALTIES, the one that was chosen.
    """

    weight: Float32[np.ndarray, "L D"]
    bias: Float32[np.ndarray, "L"]
    penalty: float


def sample(image_set: ImageSet, count: int, seed: int) -> ImageSet:
    """At most `count` examples, the first ones of an order that `seed` decides; all of them in place if they fit."""
    if len(image_set) <= count:
        return image_set
    chosen = np.sort(epoch_order(seed, 0, len(image_set))[:count])
    return image_set.take(chosen)


@torch.inference_mode()
def features(
    model: ViT,
    image_set: ImageSet,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> Features:
    """What the classifier would see of each image, in evaluation mode and fp32, without augmentation.

    Args:
        model: on its device; its mode is put back afterwards.
        batch_size: examples at a time.
        on_batch: called with the number of images after each batch; may raise to stop.
    Raises:
        WeightsError: they are not finite.
    """
    device, was_training = next(model.parameters()).device, model.training
    other_size = preprocessing.image_size != pair(model.config.image_size)
    model.eval()
    rows: list[np.ndarray] = []
    lost: dict[int, ImageError] = {}
    for number, batch in enumerate(batches(image_set, None, batch_size, device=device)):
        lost |= {number * batch_size + place: error for place, error in batch.errors.items()}
        tokens = model.forward_features(prepare(batch.images, preprocessing), interpolate_pos_encoding=other_size)
        rows.append(model.pool(tokens).float().cpu().numpy())
        if on_batch:
            on_batch(len(batch.labels))
    model.train(was_training)
    examples = image_set.without(lost)
    found = np.delete(np.concatenate(rows), list(lost), axis=0)
    if not np.isfinite(found).all():
        raise WeightsError(
            "What the model makes of the images is not finite: its weights, or its preprocessing, are wrong."
        )
    return Features(found, np.asarray(examples.labels, dtype=np.int64), examples)


def fit_linear(train: Features, num_labels: int, seed: int) -> LinearProbe:
    """Multinomial logistic regression; the penalty is chosen on parts held out of the training images."""
    mean, scale = train.rows.mean(0), train.rows.std(0) + 1e-6
    rows = (train.rows - mean) / scale
    penalty = _choose_penalty(rows, train.labels, seed)
    fitted = _regression(rows, train.labels, penalty)
    weight = np.zeros((num_labels, rows.shape[1]), np.float32)
    bias = np.full(num_labels, _NEVER, np.float32)
    present = np.asarray(fitted.classes_)
    coefficients, intercepts = np.asarray(fitted.coef_), np.asarray(fitted.intercept_)
    if len(present) == 2:  # scikit-learn gives one row for two classes: the difference
        coefficients, intercepts = (np.concatenate((0 * x, x)) for x in (coefficients, intercepts))
    weight[present] = coefficients / scale
    bias[present] = intercepts - (coefficients * mean / scale).sum(1)
    return LinearProbe(weight, bias, penalty)


def put_in(model: ViT, probe: LinearProbe) -> None:
    """Make a probe the classifier. Where two classifiers are averaged, the first alone speaks."""
    averaged = model.head_dist is not None
    weight, bias = torch.from_numpy(probe.weight), torch.from_numpy(probe.bias)
    values = {"weight": weight * 2 if averaged else weight, "bias": bias * 2 if averaged else bias}
    model.head.load_state_dict(values)
    if model.head_dist is not None:
        model.head_dist.load_state_dict({name: torch.zeros_like(value) for name, value in values.items()})


def knn_probabilities(train: Features, rows: Rows, num_labels: int, num_neighbors: int) -> Float32[np.ndarray, "M L"]:
    """Votes of the nearest training images by cosine, weighted by their similarity."""

    def weighted(distances: np.ndarray) -> np.ndarray:
        return np.exp(-distances / 0.07)  # the temperature of DINO's k-NN (arXiv:2104.14294, section 4.1)

    count = min(num_neighbors, len(train.labels))
    from sklearn.neighbors import KNeighborsClassifier  # takes seconds to import

    neighbours: Any = cast(Any, KNeighborsClassifier)(count, metric="cosine", weights=weighted, algorithm="brute")
    neighbours.fit(train.rows, train.labels)
    found = np.asarray(neighbours.predict_proba(rows))
    result = np.zeros((len(rows), num_labels), np.float32)
    result[:, np.asarray(neighbours.classes_)] = found
    return result


def baseline(
    model: ViT,
    train_set: ImageSet,
    held_out: ImageSet,
    preprocessing: Preprocessing,
    *,
    count: int,
    seed: int,
    batch_size: int,
    num_neighbors: int = 20,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[Baseline, LinearProbe]:
    """What both probes reach with at most `count` images of each split.

    Returns:
        The accuracies, and the linear probe.
    """
    started, num_labels = time.perf_counter(), len(train_set.classes)
    few, measured = sample(train_set, count, seed), sample(held_out, count, seed)
    train, test = (
        features(model, part, preprocessing, batch_size=batch_size, on_batch=on_batch) for part in (few, measured)
    )
    linear = fit_linear(train, num_labels, seed)
    right_linear = (test.rows @ linear.weight.T + linear.bias).argmax(1) == test.labels
    right_knn = knn_probabilities(train, test.rows, num_labels, num_neighbors).argmax(1) == test.labels
    found = Baseline(
        knn=float(right_knn.mean()),
        linear=float(right_linear.mean()),
        num_train=len(train.labels),
        num_examples=len(test.labels),
        split=held_out.split,
        seconds=round(time.perf_counter() - started, 3),
    )
    return found, linear


def evaluation_of(scores: Float32[np.ndarray, "N L"], held_out: ImageSet) -> Evaluation:
    """Measure class probabilities of a split as `evaluate` measures a model."""
    num_labels, labels = len(held_out.classes), torch.from_numpy(np.asarray(held_out.labels, dtype=np.int64))
    probabilities = torch.from_numpy(scores)
    confusion = torch.bincount(labels * num_labels + probabilities.argmax(1), minlength=num_labels**2)
    top = probabilities.topk(min(TOP, num_labels)).indices
    chosen = probabilities.gather(1, labels[:, None]).double().clamp_min(1e-6)
    return Evaluation(
        split=held_out.split,
        classes=held_out.classes,
        confusion=tuple(tuple(row) for row in confusion.view(num_labels, num_labels).tolist()),
        num_top5_correct=int((top == labels[:, None]).sum()),
        loss=float(-chosen.log().mean()),
        errors=held_out.errors,
    )


def _choose_penalty(rows: Rows, labels: Labels, seed: int) -> float:
    """Of PENALTIES, the one that predicts most images which it was not fitted to, the strongest of equals."""
    parts = np.array_split(epoch_order(seed, 1, len(labels)), _FOLDS)
    correct = np.zeros(len(PENALTIES))
    for fold, held in enumerate(parts if len(labels) <= _FEW else parts[:1]):
        rest = np.concatenate(parts[:fold] + parts[fold + 1 :])
        if len(held) and len(np.unique(labels[rest])) > 1:
            fitted = [_regression(rows[rest], labels[rest], p) for p in PENALTIES]
            correct += [np.count_nonzero(np.asarray(f.predict(rows[held])) == labels[held]) for f in fitted]
    return PENALTIES[int(np.argmax(correct))]


def _regression(rows: Rows, labels: Labels, penalty: float) -> "LogisticRegression":
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():  # a probe that is nearly converged serves
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=penalty, max_iter=_MOST_ITERATIONS).fit(rows, labels)
