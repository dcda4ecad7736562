"""Which example comes when, and which examples are held out: pure functions of seeds.

All randomness is the raw 64-bit output of the counter-based generator Philox4x64-10, whose stream NumPy guarantees
for ever, sorted; no method that a later NumPy may implement otherwise takes part. The same numbers come out on every
machine, for any number of workers or processes, and nothing has to be saved to go on later.

Paper: "Parallel Random Numbers: As Easy as 1, 2, 3", Salmon et al. 2011, doi:10.1145/2063384.2063405.
"""

import numpy as np
from jaxtyping import Int64, UInt64

from vitrail.errors import DataError

# The last word of the counter keeps streams of different purposes apart; `streaming.order` has 4 to 6.
_EPOCH, _HOLD_OUT, _CLASS = 1, 2, 3


def epoch_order(seed: int, epoch: int, num_examples: int) -> Int64[np.ndarray, "N"]:
    """The order of the examples in one epoch: a permutation of 0 .. num_examples - 1.

    Args:
        seed: of the run, 0 <= seed < 2^64.
        epoch: counted from 0.
        num_examples: length of the training set.
    """
    return _permutation(num_examples, seed, epoch, _EPOCH)


def balanced_order(seed: int, epoch: int, labels: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """The order of the examples in one epoch in which every class has its turn equally often.

    There are N places, as in an epoch without balance, shared evenly among the classes that have examples. Each class
    fills its places with one shuffled pass over its examples after the other, across epochs, so that no example is
    drawn for the second time before all of its class were drawn once.

    Args:
        seed: of the run, 0 <= seed < 2^64.
        epoch: counted from 0.
        labels: class of each example.
    Returns:
        Positions of examples; those of rare classes several times.
    """
    present, num_places = np.unique(labels), len(labels)
    drawn = [np.zeros(0, dtype=np.int64)]
    for number, label in enumerate(present):
        members = np.flatnonzero(labels == label)
        # Of all places since epoch 0; those left over by the division go round among the classes.
        first = (num_places * epoch + number) // len(present)
        count = (num_places * (epoch + 1) + number) // len(present) - first
        passes = range(first // len(members), -(-(first + count) // len(members)))
        stream = [members[_permutation(len(members), seed, p << 32 | int(label), _CLASS)] for p in passes]
        at = first - passes.start * len(members)
        drawn.append(np.concatenate(stream)[at : at + count])
    chosen = np.concatenate(drawn)
    return chosen[epoch_order(seed, epoch, len(chosen))]


def hold_out(
    labels: Int64[np.ndarray, "N"], classes: tuple[str, ...], fraction: float, seed: int
) -> Int64[np.ndarray, "M"]:
    """Positions of a stratified part of the examples, in ascending order.

    Every class gives the same fraction, rounded so that the whole has round(fraction * N) examples (largest
    remainders first, then the lower label), but at least one example and never all of them.

    Args:
        labels: class of each example, as index into classes.
        classes: names, for messages.
        fraction: in (0, 1).
        seed: of the split, 0 <= seed < 2^64.
    Raises:
        DataError: a class has fewer than two examples.
    """
    counts = np.bincount(labels, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count == 1:
            raise DataError(
                f"class {name!r} is too small to be split.",
                got="1 example",
                expected="at least 2, one on each side of the split",
                do="Add examples, remove the class, or give the data a validation split of its own.",
            )
    exact = counts * fraction
    taken = np.floor(exact).astype(np.int64)
    short = round(len(labels) * fraction) - int(taken.sum())
    taken[np.argsort(taken - exact, kind="stable")[: max(short, 0)]] += 1
    taken = np.minimum(np.maximum(taken, 1), counts - 1)
    parts = [np.zeros(0, dtype=np.int64)]
    for label in np.flatnonzero(counts):
        members = np.flatnonzero(labels == label)
        parts.append(members[_permutation(len(members), seed, int(label), _HOLD_OUT)[: taken[label]]])
    return np.sort(np.concatenate(parts))


def random_words(length: int, seed: int, stream: int, purpose: int) -> UInt64[np.ndarray, "N"]:
    """Independent uniform words, the same for ever.

    Args:
        length: how many.
        seed: of the run, 0 <= seed < 2^64.
        stream: the epoch, or whatever else has words of its own, 0 <= stream < 2^64.
        purpose: keeps those apart that use the same seeds and streams for different things.
    """
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=[0, 0, 0, purpose])
    return generator.random_raw(length)


def _permutation(length: int, seed: int, stream: int, purpose: int) -> Int64[np.ndarray, "N"]:
    words = random_words(length, seed, stream, purpose)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)
