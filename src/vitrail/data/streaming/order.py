"""Which example of a streamed set comes when: a pure function of seed, epoch and position.

A streamed set is read chunk by chunk, a chunk being some megabytes of one file, so that examples which lie together
are needed at about the same time. In each epoch

1. the chunks are permuted and dealt to a fixed number of *lanes*: the chunk at place r goes to lane r mod L;
2. each lane is cut into *windows* of W chunks, whose examples are permuted (the first one has between half and one and
   a half times as many, in each lane another number, so that not all windows begin at the same moment; what is left
   over at the end is a window of its own if it is half a window at least);
3. the lanes take turns, one example each; a lane that is exhausted drops out.

Neither the number of processes nor the size of a batch has a part in it. About L x W chunks are in use at any moment,
and two examples of a batch are from the same chunk about once in L x W pairs. Nothing is stored for an example: an
order takes about 12 bytes a chunk, beside 8 that the orders of all epochs share.

Chunks are permuted by sorting random words, as in `vitrail.data.order`. Examples are permuted one by one, by an
alternating Feistel network on the smallest power of two that is large enough, applied again while the result is too
large ("cycle walking": Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), with random words as keys.
All arithmetic is on integers, and the same on every machine.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, Integer, UInt64

from vitrail.data.order import random_words

_CHUNKS, _WINDOWS, _EXACT = 4, 5, 6
"""Purposes of random words; 1 to 3 are in `vitrail.data.order`."""
_ROUNDS = 8
_FACTORS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)

_GOLDEN = 2654435769
"""The golden section of 2^32: multiples of it, modulo 2^32, are spread evenly, those of any neighbours as well."""
_AT_A_TIME = 1 << 15
"""Examples of windows that are gone through together."""

Examples = Int64[np.ndarray, "M"]


class ExactOrder:
    """A permutation of all examples without chunks, for sets in which each can be read alone. It takes no memory.

    Args:
        num_examples: length of the training set.
        seed: of the run, 0 <= seed < 2^64.
        epoch: counted from 0.
    """

    def __init__(self, num_examples: int, seed: int, epoch: int) -> None:
        self._length = num_examples
        self._keys = random_words(_ROUNDS, seed, epoch, _EXACT)

    def __len__(self) -> int:
        return self._length

    def ids(self, positions: Examples) -> Examples:
        """The examples at some positions of the epoch.

        Raises:
            IndexError: there is no such position.
        """
        _check_bounds(positions, self._length)
        return _permuted(positions, np.full(len(positions), self._length), np.zeros(1, dtype=np.uint64), self._keys)

    def batch(self, number: int, batch_size: int) -> Examples:
        """The examples of a batch, counted from 0: those at batch_size successive positions; of the last one, fewer."""
        return self.ids(_positions(number, batch_size, self._length))


class StreamOrder:
    """The order of one epoch of a streamed set.

    Args:
        counts: examples in each chunk, 0 or more. Examples are numbered chunk by chunk.
        seed: of the run, 0 <= seed < 2^64.
        epoch: counted from 0.
        lanes: chunks from which a batch takes its examples by turns; best a multiple of the number of processes.
        window: successive chunks of a lane whose examples are mixed.
    """

    def __init__(self, counts: Integer[np.ndarray, "C"], seed: int, epoch: int, *, lanes: int, window: int) -> None:
        self.lanes, self.window = lanes, window
        self._seed = seed
        self.starts = _starts(counts)
        """Number of the first example of each chunk, then the number of examples."""
        self._arrange(epoch)

    def of_epoch(self, epoch: int) -> "StreamOrder":
        """The order of another epoch of the same run."""
        other = object.__new__(StreamOrder)
        other.lanes, other.window, other._seed, other.starts = self.lanes, self.window, self._seed, self.starts
        other._arrange(epoch)
        return other

    def _arrange(self, epoch: int) -> None:
        """Deal the chunks to the lanes. A *slot* is a chunk's place in the list of all lanes, one after the other; a
        *turn* is an example's place in that list before windows are permuted.
        """
        self.epoch = epoch
        dealt = _dealt(len(self.starts) - 1, self._seed, epoch)
        lane_slots = _starts(np.array([len(dealt[lane :: self.lanes]) for lane in range(self.lanes)]))
        self._chunks = np.empty_like(dealt)
        self._slot_starts = np.zeros_like(self.starts)
        half, slots = (self.window + 1) // 2, list[np.ndarray]()
        for lane, (start, stop) in enumerate(itertools.pairwise(lane_slots)):
            chunks = self._chunks[start:stop] = dealt[lane :: self.lanes]
            self._slot_starts[start + 1 : stop + 1] = self.starts[chunks + 1] - self.starts[chunks]
            shift = self.window * (lane * _GOLDEN % 2**32) >> 32
            slots.append(np.arange(start, min(start + 1, stop)))
            slots.append(np.arange(start + half + shift, stop - half + 1, self.window))
        np.cumsum(self._slot_starts, out=self._slot_starts)
        self._window_slots = np.concatenate([*slots, lane_slots[-1:]])
        self._window_starts = self._slot_starts[self._window_slots]
        words = random_words(_ROUNDS + len(self._window_slots), self._seed, epoch, _WINDOWS)
        self._keys, self._window_keys = words[:_ROUNDS], words[_ROUNDS:]

        self._lane_starts = self._slot_starts[lane_slots]
        lengths = np.diff(self._lane_starts)
        self._by_length = np.argsort(lengths, kind="stable")
        # After how many rounds the k shortest lanes have dropped out, and at which position.
        self._rounds = np.concatenate([[0], lengths[self._by_length]])
        self._dropped = _starts(np.diff(self._rounds) * np.arange(self.lanes, 0, -1))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def ids(self, positions: Examples) -> Examples:
        """The examples at some positions of the epoch.

        Raises:
            IndexError: there is no such position.
        """
        return self._ids(self._turns(positions))

    def batch(self, number: int, batch_size: int) -> Examples:
        """The examples of a batch, counted from 0: those at batch_size successive positions; of the last one, fewer.

        They are sorted by lane, so that processes which share the batch in equal parts read different chunks, but for
        the lanes at their borders.
        """
        turns = self._turns(_positions(number, batch_size, len(self)))
        lanes = np.searchsorted(self._lane_starts, turns, side="right")
        return self._ids(turns[np.argsort(lanes, kind="stable")])

    def chunk_of(self, ids: Examples) -> Examples:
        """The chunks in which some examples are."""
        return np.searchsorted(self.starts, ids, side="right") - 1

    def loads(self, start: int = 0, *, rank: int = 0, num_ranks: int = 1) -> Iterator[tuple[int, int, int]]:
        """What has to be read from some position on, in the order in which it is needed.

        Args:
            start: the position.
            rank: whose share of each batch it is for, of
            num_ranks: processes. The shares are those of whole lanes, and of a lane at a border between two.
        Yields:
            A chunk, the first position from `start` on at which one of its examples comes, and the last one.
        """
        first, last = rank * self.lanes // num_ranks, -(-(rank + 1) * self.lanes // num_ranks)
        first_turns, end_turns = self._window_starts[:-1], self._window_starts[1:]
        mine = (first_turns < end_turns) & (first_turns >= self._lane_starts[first])
        mine &= end_turns <= self._lane_starts[last]
        mine[mine] = self._positions_of(end_turns[mine] - 1) >= start
        windows = np.flatnonzero(mine)
        begins = np.maximum(self._positions_of(first_turns[windows]), start)
        in_order = np.argsort(begins, kind="stable")
        windows, begins = windows[in_order], begins[in_order]
        groups = np.cumsum(end_turns[windows] - first_turns[windows]) // _AT_A_TIME
        cuts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(windows)]
        uses = np.zeros((3, 0), dtype=np.int64)
        for at, stop in itertools.pairwise(cuts):
            uses = np.concatenate([uses, self._uses(windows[at:stop], start)], axis=1)
            uses = uses[:, np.argsort(uses[1])]
            is_next = uses[1] < begins[stop] if stop < len(windows) else np.ones(uses.shape[1], dtype=bool)
            yield from map(tuple, uses[:, is_next].T.tolist())
            uses = uses[:, ~is_next]

    def _uses(self, windows: Int64[np.ndarray, "W"], start: int) -> Int64[np.ndarray, "3 M"]:
        """Chunk, first and last position of each chunk in some windows that is used from `start` on."""
        turns = _ranges(self._window_starts[windows], self._window_starts[windows + 1])
        slots = _ranges(self._window_slots[windows], self._window_slots[windows + 1])
        positions = self._positions_of(turns)
        turns, positions = turns[positions >= start], positions[positions >= start]
        used = np.searchsorted(self._slot_starts, self._shuffled(turns), side="right") - 1
        order = np.argsort(slots)
        places = order[np.searchsorted(slots[order], used)]
        last = np.full(len(slots), -1)
        first = last.copy()
        last[places] = positions  # of several assignments to a place, the last one stays
        first[places[::-1]] = positions[::-1]
        return np.stack([self._chunks[slots], first, last])[:, last >= 0]

    def _turns(self, positions: Examples) -> Examples:
        """By positions in the epoch."""
        _check_bounds(positions, len(self))
        dropped = np.searchsorted(self._dropped, positions, side="right") - 1
        rounds, lane = np.divmod(positions - self._dropped[dropped], self.lanes - dropped)
        return self._lane_starts[self._by_length[dropped + lane]] + self._rounds[dropped] + rounds

    def _positions_of(self, turns: Examples) -> Examples:
        """The inverse of `_turns`."""
        lanes = np.searchsorted(self._lane_starts, turns, side="right") - 1
        rounds = turns - self._lane_starts[lanes]
        place = np.argsort(self._by_length)
        dropped = np.searchsorted(self._rounds[1:], rounds, side="right")
        into = (rounds - self._rounds[dropped]) * (self.lanes - dropped)
        return self._dropped[dropped] + into + place[lanes] - dropped

    def _ids(self, turns: Examples) -> Examples:
        mixed = self._shuffled(turns)
        slots = np.searchsorted(self._slot_starts, mixed, side="right") - 1
        return self.starts[self._chunks[slots]] + mixed - self._slot_starts[slots]

    def _shuffled(self, turns: Examples) -> Examples:
        """Turns permuted inside their windows."""
        windows = np.searchsorted(self._window_starts, turns, side="right") - 1
        first = self._window_starts[windows]
        sizes = self._window_starts[windows + 1] - first
        return first + _permuted(turns - first, sizes, self._window_keys[windows], self._keys)


def same_chunk_pairs(counts: Integer[np.ndarray, "C"], lanes: int, window: int) -> float:
    """About which share of the pairs of examples of a large batch are from the same chunk, in [0, 1].

    It is 1 / (lanes x window), and more the more the chunks differ in size; 1 / C if there are fewer chunks than that,
    as in a perfect shuffle.
    """
    sizes = counts[counts > 0].astype(np.float64)
    return float((sizes**2).mean() / sizes.mean() ** 2 / min(lanes * window, len(sizes))) if len(sizes) else 0.0


def _dealt(num_chunks: int, seed: int, epoch: int) -> Integer[np.ndarray, "C"]:
    """The chunks sorted by random words, which stand in the upper bits, in integers that are just large enough."""
    mask = np.uint64((1 << (num_chunks - 1).bit_length()) - 1 if num_chunks else 0)
    words = random_words(num_chunks, seed, epoch, _CHUNKS)
    words &= ~mask
    words |= np.arange(num_chunks, dtype=np.min_scalar_type(num_chunks))
    words.sort()
    words &= mask
    return words.astype(np.min_scalar_type(-num_chunks - 1))


def _starts(counts: Integer[np.ndarray, "N"]) -> Int64[np.ndarray, "N1"]:
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _ranges(starts: Int64[np.ndarray, "N"], stops: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "M"]:
    """All numbers from each start to before its stop, one range after the other."""
    lengths = stops - starts
    return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)


def _positions(number: int, batch_size: int, length: int) -> Examples:
    return np.arange(min(number * batch_size, length), min((number + 1) * batch_size, length))


def _check_bounds(positions: Examples, length: int) -> None:
    if len(positions) and not 0 <= positions.min() <= positions.max() < length:
        raise IndexError(f"positions from {positions.min()} to {positions.max()} in an epoch of {length} examples")


def _permuted(
    numbers: Examples, sizes: Examples, tweaks: UInt64[np.ndarray, "T"], keys: UInt64[np.ndarray, "R"]
) -> Examples:
    """Where keyed permutations take some numbers.

    Args:
        numbers: each below its size.
        sizes: of the range that each is permuted in.
        tweaks: one for each number, or one for all; equal tweaks and sizes make the same permutation.
        keys: one a round.
    """
    bits = np.frexp(sizes - 1)[1].astype(np.uint64)
    permuted, left = numbers.astype(np.uint64), np.arange(len(numbers))
    tweaks = np.broadcast_to(tweaks, len(numbers))
    while len(left):
        permuted[left] = _feistel(permuted[left], bits[left], tweaks[left], keys)
        left = left[permuted[left] >= sizes[left]]
    return permuted.astype(np.int64)


def _feistel(
    numbers: UInt64[np.ndarray, "M"],
    bits: UInt64[np.ndarray, "M"],
    tweaks: UInt64[np.ndarray, "M"],
    keys: UInt64[np.ndarray, "R"],
) -> UInt64[np.ndarray, "M"]:
    """Permutations of the numbers of so many bits, at most 64 of them."""
    one = np.uint64(1)
    low_bits = bits >> one
    low_mask, high_mask = (one << low_bits) - one, (one << (bits - low_bits)) - one
    high, low = numbers >> low_bits, numbers & low_mask
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        high ^= _hashed(low ^ tweaks ^ even) & high_mask
        low ^= _hashed(high ^ tweaks ^ odd) & low_mask
    return high << low_bits | low


def _hashed(words: UInt64[np.ndarray, "M"]) -> UInt64[np.ndarray, "M"]:
    """32 bits that depend on all of a word."""
    words = words * _FACTORS[0]
    words ^= words >> np.uint64(32)
    words *= _FACTORS[1]
    return words >> np.uint64(32)
