"""Labels that a classifier which has not seen the image doubts: confident learning.

Source: Northcutt et al., Confident Learning, 1911.00068; Pervasive Label Errors in Test Sets, 2103.14749.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from vitrail.data import epoch_order
from vitrail.doctor.pictures import standard

FEWEST = 10
"""Images of a class below which its labels are not judged."""
_FOLDS = 5
_MOST_FITTED = 20_000
"""Images that one classifier is fitted to."""
_PENALTIES = (0.001, 0.01, 0.1)
"""Inverse strengths of the L2 penalty on standardised features."""
_MOST_ITERATIONS = 100


@dataclass(frozen=True)
class Suspect:
    """An image whose label is in doubt, by index.

    Args:
        suggested: the class that it looks like.
        doubt: in [-1, 2], what it is ranked by.
        p_label: out-of-fold probability of its own class.
        p_suggested: and of the other one.
    """

    index: int
    suggested: int
    doubt: float
    p_label: float
    p_suggested: float


def suspects(
    rows: Float32[np.ndarray, "N D"],
    labels: Int64[np.ndarray, "N"],
    groups: Int64[np.ndarray, "N"],
    neighbours: Int64[np.ndarray, "N k"],
    *,
    on_fold: Callable[[int], None] = lambda _: None,
) -> tuple[list[Suspect], float]:
    """Suspect labels, the most doubtful first, and the accuracy, in [0, 1], of the classifier that doubts them.

    Two witnesses have to agree: logistic regression, by the rule of confident learning, and the nearest images, of
    which more have the suggested class than the label.

    Args:
        rows: frozen features of the images.
        labels: their classes; classes of fewer than FEWEST images are neither judged nor offered.
        groups: images of one group, as duplicates, stand in one fold, and do not vote for each other.
        neighbours: the nearest images of each.
        on_fold: told 1 after each of the five folds.
    """
    judged = np.flatnonzero(np.bincount(labels)[labels] >= FEWEST)
    classes, own = np.unique(labels[judged], return_inverse=True)
    if len(classes) < 2:
        return [], 0.0
    p = out_of_fold(rows[judged], own, groups[judged], on_fold=on_fold)
    likely, share = confident_classes(p, own), votes(labels, groups, neighbours, len(np.bincount(labels)))[judged]
    share, at = share[:, classes], np.arange(len(own))
    doubts = doubt(p, share, own)
    doubtful = np.flatnonzero((likely != own) & (share[at, likely] > share[at, own]))
    found = [
        Suspect(int(judged[i]), int(classes[likely[i]]), *map(float, (doubts[i], p[i, own[i]], p[i, likely[i]])))
        for i in doubtful[np.argsort(-doubts[doubtful], kind="stable")]
    ]
    return found, float((p.argmax(1) == own).mean())


def doubt(
    p: Float32[np.ndarray, "N L"], share: Float32[np.ndarray, "N L"], labels: Int64[np.ndarray, "N"]
) -> Float32[np.ndarray, "N"]:
    """What labels are ranked by, high is doubtful, in [-1, 2]: how far the most probable other class is above the
    label, and the most common class among the nearest images.
    """
    return share.max(1) - share[np.arange(len(p)), labels] - margin(p, labels)


def votes(
    labels: Int64[np.ndarray, "N"],
    groups: Int64[np.ndarray, "N"],
    neighbours: Int64[np.ndarray, "N k"],
    num_labels: int,
) -> Float32[np.ndarray, "N L"]:
    """Of the nearest images of each, the share of each class; those of its own group count for nothing."""
    counts = np.zeros((len(labels), num_labels), np.float32)
    for column in neighbours.T:
        counts[np.arange(len(labels)), labels[column]] += groups[column] != groups
    return counts / max(neighbours.shape[1], 1)


def margin(p: Float32[np.ndarray, "N L"], labels: Int64[np.ndarray, "N"]) -> Float32[np.ndarray, "N"]:
    """Probability of the label less that of the most probable other class, in [-1, 1]: low is doubtful."""
    others = p.copy()
    others[np.arange(len(p)), labels] = -1
    return p[np.arange(len(p)), labels] - others.max(1)


def confident_classes(p: Float32[np.ndarray, "N L"], labels: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """The most probable of the classes that reach their threshold; the label itself where none does.

    The threshold of a class is the mean of its probability over the images labelled so.
    """
    counts = np.maximum(np.bincount(labels, minlength=p.shape[1]), 1)
    thresholds = np.bincount(labels, p[np.arange(len(p)), labels], minlength=p.shape[1]) / counts
    reached: Bool[np.ndarray, "N L"] = p >= thresholds
    return np.where(reached.any(1), np.where(reached, p, -1).argmax(1), labels)


def out_of_fold(
    rows: Float32[np.ndarray, "N D"],
    labels: Int64[np.ndarray, "N"],
    groups: Int64[np.ndarray, "N"],
    *,
    on_fold: Callable[[int], None] = lambda _: None,
) -> Float32[np.ndarray, "N L"]:
    """Class probabilities of each image, by logistic regression on images of other folds."""
    folds = _folds(labels, groups)
    rows = standard(rows)
    p = np.zeros((len(rows), int(labels.max()) + 1), np.float32)
    penalty = 0.0
    for fold in range(_FOLDS):
        held, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if len(rest) > _MOST_FITTED:
            rest = rest[np.sort(epoch_order(0, fold, len(rest))[:_MOST_FITTED])]
        penalty = penalty or _best_penalty(rows, labels, held[:_MOST_FITTED], rest[: _MOST_FITTED // 2])
        if len(held):
            p[held] = _probabilities(rows, labels, rest, held, penalty, p.shape[1])
        on_fold(1)
    return p


def _folds(labels: Int64[np.ndarray, "N"], groups: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """A fold for each image: classes spread evenly by the first image of each group, which the others follow."""
    order = epoch_order(0, 0, len(labels))
    folds = np.zeros(len(labels), np.int64)
    folds[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % _FOLDS
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    return folds[first[member]]


def _best_penalty(
    rows: Float32[np.ndarray, "N D"],
    labels: Int64[np.ndarray, "N"],
    held: Int64[np.ndarray, "M"],
    rest: Int64[np.ndarray, "K"],
) -> float:
    """The penalty of the least loss on images that were not fitted."""

    def loss(penalty: float) -> float:
        p = _probabilities(rows, labels, rest, held, penalty, int(labels.max()) + 1)
        return float(-np.log(np.maximum(p[np.arange(len(held)), labels[held]], 1e-6)).mean())

    return min(_PENALTIES, key=loss)


def _probabilities(
    rows: Float32[np.ndarray, "N D"],
    labels: Int64[np.ndarray, "N"],
    fitted: Int64[np.ndarray, "K"],
    asked: Int64[np.ndarray, "M"],
    penalty: float,
    num_labels: int,
) -> Float32[np.ndarray, "M L"]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # takes seconds to import

    p = np.zeros((len(asked), num_labels), np.float32)
    present = np.unique(labels[fitted])
    if len(present) < 2:
        p[:, present] = 1
        return p
    with warnings.catch_warnings():  # nearly converged serves
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=penalty, max_iter=_MOST_ITERATIONS).fit(rows[fitted], labels[fitted])
    p[:, present] = found.predict_proba(rows[asked])
    return p
