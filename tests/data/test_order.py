"""The order of examples: pinned for ever, and a permutation for every seed and epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.data.order import balanced_order, epoch_order, hold_out
from vitrail.errors import DataError

SEEDS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("seed", "epoch", "length", "first"),
    [
        (0, 0, 10, [8, 7, 4, 2, 6, 5, 9, 0, 1, 3]),
        (0, 1, 10, [0, 1, 5, 4, 6, 9, 2, 8, 3, 7]),
        (1, 0, 10, [4, 0, 5, 6, 2, 7, 8, 3, 9, 1]),
        (42, 7, 50000, [37736, 17860, 40646, 9737, 26250, 41256, 42516, 13771, 7630, 17666]),
        (18446744073709551615, 3, 1000, [740, 378, 577, 715, 104, 794, 229, 289, 463, 151]),
    ],
)
def test_the_order_never_changes(seed: int, epoch: int, length: int, first: list[int]) -> None:
    """A change here changes every run and breaks every resume; never edit the numbers."""
    assert epoch_order(seed, epoch, length)[: len(first)].tolist() == first


def test_a_balanced_order_never_changes() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 2, 2, 3])
    assert [balanced_order(5, epoch, labels).tolist() for epoch in (0, 1)] == [
        [9, 7, 9, 9, 2, 9, 7, 6, 8, 1],
        [9, 9, 9, 7, 8, 8, 5, 7, 3, 0],
    ]


@given(SEEDS, st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_every_class_has_its_turn(seed: int, labels: list[int]) -> None:
    known, num_epochs = np.array(labels), 4
    orders = [balanced_order(seed, epoch, known) for epoch in range(num_epochs)]
    for order in orders:
        assert len(order) == len(known)
        counts = np.bincount(known[order])[np.unique(known)]
        assert counts.max() - counts.min() <= 1
    seen = np.bincount(np.concatenate(orders), minlength=len(known))
    for label in np.unique(known):  # nothing a second time before all of its class were there
        assert seen[known == label].max() - seen[known == label].min() <= 1


def test_a_held_out_part_never_changes() -> None:
    labels = np.arange(40) % 3
    assert hold_out(labels, ("a", "b", "c"), 0.2, 5).tolist() == [0, 6, 7, 17, 22, 29, 31, 36]


@given(SEEDS, st.integers(0, 10_000), st.integers(0, 300))
def test_each_example_once(seed: int, epoch: int, length: int) -> None:
    order = epoch_order(seed, epoch, length)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(length))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_place_is_equally_likely() -> None:
    """Chi-square of where example 0 lands over 4,000 epochs; 10 places, 9 degrees of freedom."""
    places = [int(np.flatnonzero(epoch_order(0, epoch, 10) == 0)[0]) for epoch in range(4000)]
    counts = np.bincount(places, minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # the 99.9 % quantile


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6),
    st.floats(0.01, 0.99),
    SEEDS,
)
def test_hold_out_is_stratified(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    held = hold_out(labels, tuple(map(str, counts)), fraction, seed)
    assert np.array_equal(held, np.unique(held))
    per_class = np.bincount(labels[held], minlength=len(counts))
    assert (per_class >= 1).all()
    assert (per_class < counts).all()
    exact = np.array(counts) * fraction
    clipped = np.clip(exact, 1, np.array(counts) - 1)
    assert (np.abs(per_class - clipped) < 1 + 1e-9).all()


def test_hold_out_has_exactly_the_fraction() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 1797)
    assert len(hold_out(labels, tuple("abcdefghij"), 0.2, 0)) == 359


def test_classes_are_split_independently() -> None:
    """More examples of one class do not move those of another."""
    few = np.repeat([0, 1], [20, 20])
    more = np.repeat([0, 1], [20, 40])
    first = [set(hold_out(labels, ("a", "b"), 0.25, 3)) & set(range(20)) for labels in (few, more)]
    assert first[0] == first[1]


def test_a_class_of_one_cannot_be_split() -> None:
    with pytest.raises(DataError, match="'rare'"):
        hold_out(np.array([0, 0, 0, 1]), ("common", "rare"), 0.5, 0)


def test_a_class_without_examples_is_passed_over() -> None:
    assert len(hold_out(np.array([0, 0, 2, 2]), ("a", "none", "c"), 0.5, 0)) == 2
