"""What a cluster will see when it trains on a streamed set: waiting, requests, caches; from the chunk table alone.

A simulation of events, without threads and without a clock. Each machine fetches the chunks of its lanes in the order
of their first use, so many requests at a time, as long as they find room in its cache; a chunk leaves when its last
example was used. A request takes a latency, drawn from an exponential distribution; then its bytes come over the
machine's network, one chunk after the other. A step begins when all machines have the chunks of its batch and the step
before it has ended, as in data-parallel training.
"""

import heapq
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from vitrail.data.order import random_words
from vitrail.data.streaming.order import StreamOrder
from vitrail.errors import ConfigError

_LATENCY = 7
"""Purpose of random words, as those in `vitrail.data.streaming.order`."""
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines, and what they run.

    Args:
        num_ranks: processes.
        num_nodes: machines, each with a cache and a network of its own, that share the processes equally.
        batch_size: images of a step, of all processes together.
        images_per_s: that one process can train on when nothing keeps it waiting.
        bytes_per_s: that reach one machine at most.
        latency_s: from a request to its first byte, on average.
        num_requests: of a machine at a time.
        cache_bytes: of a machine; None: without limit.
    """

    num_ranks: int
    num_nodes: int
    batch_size: int
    images_per_s: float
    bytes_per_s: float
    latency_s: float
    num_requests: int = 16
    cache_bytes: int | None = None

    @property
    def step_s(self) -> float:
        """Seconds of a step that need not wait: those of the process with the largest share."""
        return -(-self.batch_size // self.num_ranks) / self.images_per_s


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What happened.

    Args:
        num_batches: that were trained on.
        first_batch_s: from the start until all machines have their parts of the first batch.
        total_s: from the start to the end of the last step.
        waiting: share of the time after the first batch in which a step waits for data, in [0, 1].
        waiting_later: the same of the second half of the batches, when all windows are filled.
        num_gets: requests of all machines.
        fetched_bytes: of all machines.
        distinct_bytes: the same, counting each chunk once.
        in_use_bytes: of chunks whose examples were used and will be, at most, on the fullest machine; no cache can be
            smaller.
        cached_bytes: what was in the fullest cache, chunks fetched ahead among them.
    """

    num_batches: int
    first_batch_s: float
    total_s: float
    waiting: float
    waiting_later: float
    num_gets: int
    fetched_bytes: int
    distinct_bytes: int
    in_use_bytes: int
    cached_bytes: int

    @property
    def amplification(self) -> float:
        """How often each byte is fetched."""
        return self.fetched_bytes / max(1, self.distinct_bytes)


def simulate(
    order: StreamOrder,
    sizes: Integer[np.ndarray, "C"],
    cluster: Cluster,
    *,
    first_batch: int = 0,
    num_batches: int | None = None,
) -> Simulated:
    """Train on a part of an epoch, with empty caches at first.

    Args:
        order: of the examples.
        sizes: bytes of each chunk.
        cluster: who trains.
        first_batch: number of the batch to begin with, as after a restart.
        num_batches: at most so many; None: to the end of the epoch.
    Raises:
        ConfigError: the chunks in use do not fit into a cache.
    """
    end = -(-len(order) // cluster.batch_size)
    last = end if num_batches is None else min(end, first_batch + num_batches)
    nodes = [_Node(order, sizes, cluster, number, (first_batch, last)) for number in range(cluster.num_nodes)]
    in_use = max(node.in_use_bytes() for node in nodes)
    if cluster.cache_bytes is not None and in_use > cluster.cache_bytes:
        raise ConfigError(
            "The cache is too small for the chunks that are in use at one time.",
            got=f"{cluster.cache_bytes / _GIB:.3g} GiB on each machine",
            expected=f"at least {in_use / _GIB:.3g} GiB, with {order.lanes} lanes and windows of {order.window} chunks",
            do="Use a larger cache, more machines, fewer lanes or a smaller window.",
        )
    ends: dict[int, float] = {}
    waits: list[float] = []
    now = first_batch_s = 0.0
    for step in range(first_batch, last):
        ready = max(node.ready(step, ends) for node in nodes)
        if step == first_batch:
            now = first_batch_s = ready
        waits.append(max(0.0, ready - now))
        now = ends[step] = max(now, ready) + cluster.step_s
    later = waits[len(waits) // 2 :]
    fetched = {chunk: int(sizes[chunk]) for node in nodes for chunk in node.chunks}
    return Simulated(
        num_batches=len(ends),
        first_batch_s=first_batch_s,
        total_s=now,
        waiting=_share_waited(waits, cluster),
        waiting_later=_share_waited(later, cluster),
        num_gets=sum(len(node.chunks) for node in nodes),
        fetched_bytes=sum(sum(node.sizes) for node in nodes),
        distinct_bytes=sum(fetched.values()),
        in_use_bytes=in_use,
        cached_bytes=max(node.cached_bytes for node in nodes),
    )


def _share_waited(waits: list[float], cluster: Cluster) -> float:
    return sum(waits) / (sum(waits) + len(waits) * cluster.step_s) if waits else 0.0


class _Node:
    """A machine, with what it has to load for the batches from `span[0]` to before `span[1]`."""

    def __init__(
        self,
        order: StreamOrder,
        sizes: Integer[np.ndarray, "C"],
        cluster: Cluster,
        number: int,
        span: tuple[int, int],
    ) -> None:
        self._cluster, self._span = cluster, span
        every = order.loads(span[0] * cluster.batch_size, rank=number, num_ranks=cluster.num_nodes)
        loads = list(itertools.takewhile(lambda load: load[1] < span[1] * cluster.batch_size, every))
        self.chunks = [chunk for chunk, _, _ in loads]
        self.sizes = [int(sizes[chunk]) for chunk in self.chunks]
        self._first = [first // cluster.batch_size for _, first, _ in loads]
        self._last = [last // cluster.batch_size for _, _, last in loads]
        words = random_words(len(loads), number, span[0], _LATENCY)
        self._latencies = (-np.log((words.astype(np.float64) + 1) / 2.0**64) * cluster.latency_s).tolist()
        self.cached_bytes = 0
        self._held, self._now, self._link_free_s, self._ready_s = 0, 0.0, 0.0, 0.0
        self._num_asked = self._num_ready = 0
        self._slots = [0.0] * cluster.num_requests
        """When requests may be made, each of them once."""
        self._leaving: list[tuple[int, int]] = []
        """The last step and the size of each chunk in the cache, as a heap."""
        self._answers: list[tuple[float, int]] = []
        """First bytes on their way: when, and of which load; as a heap."""
        self._done: dict[int, float] = {}

    def in_use_bytes(self) -> int:
        """The most bytes of chunks that one batch, or batches before and after it, take examples from."""
        first, last = self._span
        changes = np.zeros(last - first + 1, dtype=np.int64)
        np.add.at(changes, np.array(self._first, dtype=np.int64) - first, self.sizes)
        np.subtract.at(changes, np.minimum(np.array(self._last, dtype=np.int64) + 1, last) - first, self.sizes)
        return int(np.cumsum(changes).max(initial=0))

    def ready(self, step: int, ends: dict[int, float]) -> float:
        """When the chunks of a batch are here, given when the steps before it ended.

        They were asked for as soon as there was room, which may have been long before that step. Only the ends of
        earlier steps make room for them, because what is in use fits into the cache.
        """
        while self._num_ready < len(self.chunks) and self._first[self._num_ready] <= step:
            while self._num_ready not in self._done:
                asks_at = self._next_request(ends)
                if asks_at < math.inf and (not self._answers or asks_at <= self._answers[0][0]):
                    self._ask(asks_at)
                else:
                    self._receive()
            self._ready_s = max(self._ready_s, self._done.pop(self._num_ready))
            self._num_ready += 1
        return self._ready_s

    def _next_request(self, ends: dict[int, float]) -> float:
        """When the next chunk can be asked for; infinity: that is not known yet."""
        at = self._num_asked
        if at == len(self.chunks) or not self._slots:
            return math.inf
        self._now = max(self._now, self._slots[0])
        limit = math.inf if self._cluster.cache_bytes is None else self._cluster.cache_bytes
        while self._leaving and self._leaving[0][0] in ends:
            left = ends[self._leaving[0][0]]
            if left > self._now and self._held + self.sizes[at] <= limit:
                break
            self._now = max(self._now, left)
            self._held -= heapq.heappop(self._leaving)[1]
        return self._now if self._held + self.sizes[at] <= limit else math.inf

    def _ask(self, now: float) -> None:
        at = self._num_asked
        heapq.heappop(self._slots)
        self._held += self.sizes[at]
        self.cached_bytes = max(self.cached_bytes, self._held)
        heapq.heappush(self._leaving, (self._last[at], self.sizes[at]))
        heapq.heappush(self._answers, (now + self._latencies[at], at))
        self._num_asked += 1

    def _receive(self) -> None:
        first_byte, at = heapq.heappop(self._answers)
        self._link_free_s = max(self._link_free_s, first_byte) + self.sizes[at] / self._cluster.bytes_per_s
        self._done[at] = self._link_free_s
        heapq.heappush(self._slots, self._link_free_s)


def refill_bytes(order: StreamOrder, sizes: Integer[np.ndarray, "C"], position: int) -> int:
    """Bytes of the chunks in use at a position: what all machines together fetch again when they restart there."""
    before = itertools.takewhile(lambda load: load[1] < position, order.loads())
    return sum(int(sizes[chunk]) for chunk, _, last in before if last >= position)


def same_chunk_pairs_in(order: StreamOrder, batches: Iterable[int], batch_size: int) -> float:
    """Which share of the pairs of examples in some batches are from the same chunk, in [0, 1]; counted."""
    pairs = same = 0
    for number in batches:
        chunks = order.chunk_of(order.batch(number, batch_size))
        counts = np.unique(chunks, return_counts=True)[1]
        same += int((counts * (counts - 1)).sum())
        pairs += len(chunks) * (len(chunks) - 1)
    return same / max(1, pairs)
