"""The order of a streamed set: pinned for ever; each example once; the same for any number of processes."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.order import random_words
from vitrail.data.streaming.order import ExactOrder, StreamOrder, same_chunk_pairs

SEEDS = st.integers(0, 2**64 - 1)
COUNTS = st.lists(st.sampled_from([0, 1, 1, 2, 3, 7, 20]), max_size=60)


def uneven(num_chunks: int, mean: int, seed: int = 0) -> np.ndarray:
    """Examples a chunk, 0 and 1 among them."""
    counts = np.random.default_rng(seed).integers(0, 2 * mean + 1, num_chunks)
    counts[:: max(1, num_chunks // 20)] = 1
    return counts


def whole(order: StreamOrder | ExactOrder) -> np.ndarray:
    return order.ids(np.arange(len(order)))


def share(ids: np.ndarray, rank: int, num_ranks: int) -> np.ndarray:
    """As `World.share_of` has it."""
    return ids[len(ids) * rank // num_ranks : len(ids) * (rank + 1) // num_ranks]


def digest(ids: np.ndarray) -> str:
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("counts", "seed", "epoch", "lanes", "window", "expected"),
    [
        ([3, 0, 1, 5, 2], 0, 0, 2, 2, "ec6efe929931778a"),
        (range(100), 1, 0, 4, 3, "51a3ac501521427e"),
        (range(100), 1, 1, 4, 3, "7e7c68f989598ddb"),
        ([1600] * 32, 42, 7, 64, 64, "5369f14ca2b6a10e"),
        ([40, 41, 39, 17] * 500, 2**64 - 1, 1000, 16, 8, "4b5e1ec65e654e85"),
    ],
)
def test_the_order_never_changes(
    counts: Sequence[int], seed: int, epoch: int, lanes: int, window: int, expected: str
) -> None:
    """A change here changes every run on a streamed set, and breaks every resume; never edit the numbers."""
    assert digest(whole(StreamOrder(np.array(counts), seed, epoch, lanes=lanes, window=window))) == expected


def test_the_exact_order_never_changes() -> None:
    assert ExactOrder(10, 0, 0).ids(np.arange(10)).tolist() == [9, 6, 8, 5, 7, 4, 2, 1, 0, 3]
    assert digest(whole(ExactOrder(50_000, 42, 7))) == "006fd7cd8a816b72"
    assert ExactOrder(10**12, 3, 2).ids(np.array([0, 1, 10**12 - 1])).tolist() == [
        309960616478,
        304237313413,
        454811654223,
    ]


@pytest.mark.long
def test_the_order_of_100_million_examples_never_changes() -> None:
    counts = np.arange(2_500_000) * 7919 % 41 + 20
    order = StreamOrder(counts, 2**63, 3, lanes=64, window=64)
    assert len(order) == 99_999_947
    positions = np.array([0, 1, 50_000_000, len(order) - 1])
    assert order.ids(positions).tolist() == [60741381, 20031552, 25167667, 32395669]
    assert digest(order.batch(20_000, 4096)) == "dc6848858ca6251e"


def permuted(number: int, size: int, keys: list[int], tweak: int) -> int:
    """The permutation of one number, in Python's integers."""

    def hashed(word: int) -> int:
        word = word * 0x9E3779B97F4A7C15 % 2**64
        return ((word ^ word >> 32) * 0xD6E8FEB86659FD93 % 2**64) >> 32

    bits = (size - 1).bit_length()
    low_bits = bits // 2
    high, low = number >> low_bits, number % 2**low_bits
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        high ^= hashed(low ^ tweak ^ even) % 2 ** (bits - low_bits)
        low ^= hashed(high ^ tweak ^ odd) % 2**low_bits
    found = high << low_bits | low
    return found if found < size else permuted(found, size, keys, tweak)


def step_by_step(counts: list[int], seed: int, epoch: int, lanes: int, window: int) -> list[int]:
    """The whole order, example by example, as the description of the module has it."""
    starts, chunks = np.cumsum([0, *counts]).tolist(), list(range(len(counts)))
    places = 2 ** max(0, len(counts) - 1).bit_length()
    rank = (random_words(len(counts), seed, epoch, 4) // np.uint64(places)).tolist()
    chunks.sort(key=lambda chunk: rank[chunk])
    windows: list[tuple[int, list[int]]] = []
    for lane in range(lanes):
        dealt, take = chunks[lane::lanes], (window + 1) // 2 + window * (lane * 2654435769 % 2**32) // 2**32
        while dealt:
            take = take if len(dealt) - take >= (window + 1) // 2 else len(dealt)
            windows.append((lane, dealt[:take]))
            dealt, take = dealt[take:], window
    words = random_words(8 + len(windows), seed, epoch, 5).tolist()
    queues: list[list[int]] = [[] for _ in range(lanes)]
    for (lane, members), tweak in zip(windows, words[8:], strict=True):
        ids = [example for chunk in members for example in range(starts[chunk], starts[chunk + 1])]
        queues[lane] += [ids[permuted(at, len(ids), words[:8], tweak)] for at in range(len(ids))]
    queues.sort(key=len)
    return [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]


@settings(deadline=None)
@given(COUNTS, SEEDS, st.integers(0, 100), st.integers(1, 9), st.integers(1, 9))
def test_the_order_is_the_one_described(counts: list[int], seed: int, epoch: int, lanes: int, window: int) -> None:
    order = StreamOrder(np.array(counts, dtype=np.int64), seed, epoch, lanes=lanes, window=window)
    assert whole(order).tolist() == step_by_step(counts, seed, epoch, lanes, window)


@settings(deadline=None)
@given(COUNTS, SEEDS, st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 20))
def test_each_example_once(counts: list[int], seed: int, epoch: int, lanes: int, window: int) -> None:
    order = StreamOrder(np.array(counts, dtype=np.int64), seed, epoch, lanes=lanes, window=window)
    assert len(order) == sum(counts)
    assert np.array_equal(np.sort(whole(order)), np.arange(sum(counts)))


@settings(deadline=None)
@given(st.integers(0, 2000), SEEDS, st.integers(0, 10_000))
def test_each_example_once_without_chunks(length: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(whole(ExactOrder(length, seed, epoch))), np.arange(length))


@pytest.mark.parametrize(
    ("lanes", "window"),
    [(64, 64), pytest.param(1, 1, marks=pytest.mark.long), pytest.param(1000, 3, marks=pytest.mark.long)],
)
def test_each_of_a_million_examples_once(lanes: int, window: int) -> None:
    order = StreamOrder(uneven(25_000, 40), 3, 5, lanes=lanes, window=window)
    seen = np.zeros(len(order), dtype=np.int8)
    np.add.at(seen, whole(order), 1)
    assert (seen == 1).all()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("streamed", [True, False])
def test_each_of_100_million_examples_once(streamed: bool) -> None:
    """By count, sum, sum of squares and exclusive or of hashed ids."""
    counts = np.full(2_500_000, 40)
    counts[:1_000_000] = np.random.default_rng(0).integers(0, 81, 1_000_000)
    order = StreamOrder(counts, 11, 3, lanes=64, window=64) if streamed else ExactOrder(int(counts.sum()), 11, 3)
    total, block = len(order), 1_000_000

    def sums(ids: np.ndarray) -> np.ndarray:
        hashed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        hashed ^= hashed >> np.uint64(29)
        return np.array([hashed.sum(), (hashed * hashed).sum(), np.bitwise_xor.reduce(hashed)])

    found, expected = np.zeros(3, dtype=np.uint64), np.zeros(3, dtype=np.uint64)
    for start in range(0, total, block):
        positions = np.arange(start, min(start + block, total))
        for answer, ids in ((found, order.ids(positions)), (expected, positions)):
            one = sums(ids)
            answer[:2] += one[:2]
            answer[2] ^= one[2]
    assert np.array_equal(found, expected)


def test_ranks_share_one_order() -> None:
    """Whatever the number of processes, a batch has the same examples, and each process has its part of them."""
    order, batch_size = StreamOrder(uneven(300, 20), 1, 2, lanes=16, window=4), 128
    ids = whole(order)
    num_batches = -(-len(order) // batch_size)
    assert len(order) % batch_size, "the last batch is short"
    for num_ranks in (1, 2, 3, 7, 64, 1000):
        for number in range(num_batches):
            batch = order.batch(number, batch_size)
            shares = [share(batch, rank, num_ranks) for rank in range(num_ranks)]
            together = np.sort(np.concatenate(shares))
            assert np.array_equal(together, np.sort(ids[number * batch_size : (number + 1) * batch_size]))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(deadline=None, max_examples=30)
@given(COUNTS, SEEDS, st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(1, 50), min_size=1, max_size=2))
def test_the_size_of_a_batch_changes_nothing(
    counts: list[int], seed: int, lanes: int, window: int, batch_sizes: list[int]
) -> None:
    for order in (
        StreamOrder(np.array(counts, dtype=np.int64), seed, 1, lanes=lanes, window=window),
        ExactOrder(sum(counts), seed, 1),
    ):
        ids = whole(order)
        for size in batch_sizes:
            for number in range(0, len(ids) // size + 2, 3):
                expected = ids[number * size : (number + 1) * size]
                assert np.array_equal(np.sort(order.batch(number, size)), np.sort(expected))


def test_a_batch_is_sorted_by_lane() -> None:
    """Two ranks that halve the batches never read the same chunk, where lanes are halved as well."""
    order = StreamOrder(np.full(640, 10), 5, 0, lanes=16, window=4)
    chunks = [order.chunk_of(order.batch(number, 32)) for number in range(200)]
    first, second = {int(c) for b in chunks for c in b[:16]}, {int(c) for b in chunks for c in b[16:]}
    assert not first & second
    assert len(first | second) == 640


@pytest.mark.parametrize("start", [0, 1, 999, 4096, 5000])
def test_a_restart_goes_on_with_the_tail(start: int) -> None:
    """An order that is made anew, asked for any positions in any order."""
    counts = uneven(300, 20)
    ids = whole(StreamOrder(counts, 1, 2, lanes=16, window=4))
    positions = np.random.default_rng(0).permutation(np.arange(start, len(ids)))
    again = StreamOrder(counts, 1, 0, lanes=16, window=4).of_epoch(2)
    assert np.array_equal(again.ids(positions), ids[positions])


def test_epochs_and_seeds_differ() -> None:
    for make in (
        lambda seed, epoch: StreamOrder(np.full(12, 5), seed, epoch, lanes=3, window=2),
        lambda seed, epoch: ExactOrder(60, seed, epoch),
    ):
        assert len({tuple(whole(make(seed, epoch))) for seed in range(5) for epoch in range(5)}) == 25


def test_windows_differ() -> None:
    """Windows of equal size are not permuted alike."""
    order = StreamOrder(np.full(40, 10), 1, 0, lanes=1, window=4)
    inside = {tuple(whole(order)[at : at + 40] % 10) for at in range(0, 400, 40)}
    assert len(inside) == 10


@pytest.mark.parametrize("streamed", [True, False])
def test_every_example_is_equally_likely(streamed: bool) -> None:
    """Chi-square of which example comes at a position over 600 epochs; 119 degrees of freedom."""
    orders: list[StreamOrder | ExactOrder] = [ExactOrder(120, 0, epoch) for epoch in range(600)]
    if streamed:
        first = StreamOrder(np.full(8, 15), 0, 0, lanes=2, window=2)
        orders = [first.of_epoch(epoch) for epoch in range(600)]
    drawn = np.stack([order.ids(np.array([0, 1, 39, 119])) for order in orders])
    for ids in drawn.T:
        counts = np.bincount(ids, minlength=120)
        assert ((counts - 5) ** 2 / 5).sum() < 173.6  # the 99.9 % quantile


@pytest.mark.parametrize("num_ranks", [2, 3, 7, 16, 30])
def test_few_chunks_are_read_by_two_ranks(num_ranks: int) -> None:
    lanes, num_chunks = 16, 640
    order, batch_size = StreamOrder(np.full(num_chunks, 10), 5, 1, lanes=lanes, window=4), 10 * lanes
    reads = [set[int]() for _ in range(num_ranks)]
    for number in range(len(order) // batch_size):
        batch = order.batch(number, batch_size)
        for rank, chunks in enumerate(reads):
            chunks.update(order.chunk_of(share(batch, rank, num_ranks)).tolist())
    assert sum(map(len, reads)) <= num_chunks * (1 + (num_ranks - 1) / lanes)
    for rank, chunks in enumerate(reads):
        assert chunks <= {chunk for chunk, *_ in order.loads(rank=rank, num_ranks=num_ranks)}


@settings(deadline=None)
@given(COUNTS, SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(0, 400))
def test_loads(counts: list[int], seed: int, lanes: int, window: int, start: int) -> None:
    """Every chunk that is needed, once, in the order of its first use; the positions are exact."""
    order = StreamOrder(np.array(counts, dtype=np.int64), seed, 0, lanes=lanes, window=window)
    expected: dict[int, tuple[int, int]] = {}
    for position, chunk in enumerate(order.chunk_of(whole(order))[start:].tolist(), start):
        expected[chunk] = (expected.get(chunk, (position,))[0], position)
    loads = list(order.loads(start))
    assert {chunk: (first, last) for chunk, first, last in loads} == expected
    assert [chunk for chunk, *_ in loads] == list(expected)


def same_chunk_pairs_of(order: StreamOrder, batch_size: int) -> float:
    """Measured over all batches."""
    num_batches, pairs = len(order) // batch_size, 0
    for chunks in order.chunk_of(whole(order))[: num_batches * batch_size].reshape(num_batches, batch_size):
        counts = np.unique(chunks, return_counts=True)[1]
        pairs += int((counts * (counts - 1)).sum())
    return pairs / (num_batches * batch_size * (batch_size - 1))


@pytest.mark.parametrize(("lanes", "window"), [(16, 16), (64, 16), (64, 64)])
def test_how_often_a_batch_has_two_examples_of_a_chunk(lanes: int, window: int) -> None:
    """Chunks of about four megabytes with photographs have between 30 and 50."""
    alike = np.random.default_rng(0).integers(30, 51, 25_000)
    measured = same_chunk_pairs_of(StreamOrder(alike, 0, 0, lanes=lanes, window=window), 1024)
    assert measured == pytest.approx(1 / (lanes * window), rel=0.1)


@pytest.mark.long
def test_chunks_that_differ_in_size_make_more_pairs() -> None:
    counts = uneven(25_000, 40)
    measured = same_chunk_pairs_of(StreamOrder(counts, 0, 0, lanes=64, window=16), 1024)
    assert measured == pytest.approx(same_chunk_pairs(counts, 64, 16), rel=0.1)
    assert measured > 1.2 / (64 * 16)


def test_chunks_in_use_are_lanes_times_window() -> None:
    """At most twice as many, while windows follow one another; and loading is spread over time."""
    order, lanes, window = StreamOrder(np.full(4000, 25), 0, 0, lanes=20, window=10), 20, 10
    uses = np.zeros(len(order) + 1, dtype=np.int64)
    firsts = np.zeros(len(order) + 1, dtype=np.int64)
    for _, first, last in order.loads():
        uses[first] += 1
        uses[last + 1] -= 1
        firsts[first] += 1
    in_use = np.cumsum(uses)[lanes * window * 25 : -lanes * window * 25]
    assert 0.8 * lanes * window < in_use.mean() < 1.05 * lanes * window
    assert in_use.max() < 1.1 * lanes * window
    by_thousand = firsts[10_000:90_000].reshape(-1, 1000).sum(axis=1)
    assert by_thousand.max() < 2 * by_thousand.mean()


def test_a_perfect_shuffle_has_pairs_too() -> None:
    assert same_chunk_pairs(np.full(100, 7), 64, 64) == pytest.approx(1 / 100)
    assert same_chunk_pairs(np.full(10**5, 7), 64, 64) == pytest.approx(1 / 4096)
    assert same_chunk_pairs(np.array([1, 3, 0]), 64, 64) == pytest.approx((1 + 9) / 16)
    assert same_chunk_pairs(np.zeros(0, dtype=np.int64), 64, 64) == 0


def test_there_are_no_further_positions() -> None:
    for order in (StreamOrder(np.array([2, 3]), 0, 0, lanes=2, window=2), ExactOrder(5, 0, 0)):
        for position in (-1, 5):
            with pytest.raises(IndexError, match=str(position)):
                order.ids(np.array([0, position]))
