"""Wrong labels come first, right ones are left alone."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

import vitrail
from vitrail.doctor.labels import _folds, confident_classes, doubt, margin, out_of_fold, suspects, votes
from vitrail.doctor.pictures import nearest


def test_confident_learning_by_hand() -> None:
    # Thresholds: the mean of p of class 0 over rows 0 to 2, .6; of class 1 over rows 3 and 4, .7.
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [0.2, 0.8]], np.float32)
    labels = np.array([0, 0, 0, 1, 1])
    assert confident_classes(p, labels).tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_allclose(margin(p, labels), [0.8, 0.6, -0.8, 0.2, 0.6], atol=1e-6)


def test_nobody_votes_for_a_copy_of_himself() -> None:
    labels, groups = np.array([0, 1, 1]), np.array([0, 0, 2])
    assert votes(labels, groups, np.array([[1, 2], [0, 2], [0, 1]]), 2).tolist() == [[0, 0.5], [0, 0.5], [0.5, 0.5]]


def test_a_group_stands_in_one_fold_and_classes_are_spread() -> None:
    labels = np.repeat(np.arange(3), 50)
    groups = np.arange(150)
    groups[100:107] = 3
    folds = _folds(labels, groups)
    assert set(folds[100:107]) == {folds[3]}
    assert np.bincount(_folds(labels, np.arange(150))[:50]).tolist() == [10] * 5


def test_flipped_digits_come_first() -> None:
    rows, labels = load_digits(return_X_y=True)
    rows, labels = rows[:700].astype(np.float32), labels[:700].copy()
    generator, flips = np.random.default_rng(0), np.zeros(700, bool)
    flips[generator.permutation(700)[:35]] = True
    labels[flips] = (labels[flips] + generator.integers(1, 10, 35)) % 10
    groups, neighbours = np.arange(700), nearest(rows, 10)[0]
    p = out_of_fold(rows, labels, groups)
    doubts = doubt(p, votes(labels, groups, neighbours, 10), labels)
    assert average_precision_score(flips, doubts) > 0.9
    found, accuracy = suspects(rows, labels, groups, neighbours)
    assert np.mean([flips[one.index] for one in found]) > 0.9 and len(found) >= 25
    assert 0.85 < accuracy < 0.96
    ranked = [one.doubt for one in found]
    assert ranked == sorted(ranked, reverse=True)


def test_small_classes_are_neither_judged_nor_offered() -> None:
    generator = np.random.default_rng(0)
    labels = np.array([0] * 30 + [1] * 30 + [2] * 5)
    rows = generator.normal(size=(65, 4)).astype(np.float32) + 8 * np.eye(4, dtype=np.float32)[labels]
    rows[60:] = rows[:5]
    labels[8] = 1
    found, _ = suspects(rows, labels, np.arange(65), nearest(rows, 10)[0])
    assert [(one.index, one.suggested) for one in found] == [(8, 0)]
    assert suspects(rows[:40], np.zeros(40, np.int64), np.arange(40), nearest(rows[:40], 3)[0]) == ([], 0.0)


@pytest.mark.slow
def test_untouched_digits_are_hardly_suspected() -> None:
    near = vitrail.check_data("digits", near=True)["near"]
    assert near["kinds"]["suspect labels"] < 18, "less than 1 % of 1,797"
    assert near["label_accuracy"] > 0.95
    assert near["kinds"]["near leaks"] < 18, "digits are alike without being copies"
