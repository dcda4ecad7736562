"""The simulated cluster, against arithmetic."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from vitrail.data.streaming.order import StreamOrder
from vitrail.data.streaming.simulate import Cluster, Simulated, refill_bytes, same_chunk_pairs_in, simulate
from vitrail.errors import ConfigError

LANES, WINDOW, CHUNK, PER_CHUNK = 16, 8, 4_000_000, 40
ORDER = StreamOrder(np.full(3200, PER_CHUNK), 1, 0, lanes=LANES, window=WINDOW)
SIZES = np.full(3200, CHUNK)
# 160 images a step, 1,000 images/s in all: 100 MB/s in all, 25 MB/s for each of four machines.
CLUSTER = Cluster(
    num_ranks=8, num_nodes=4, batch_size=160, images_per_s=125.0, bytes_per_s=1e9, latency_s=0.03, num_requests=16
)
NEEDED_BYTES_PER_S = 1000 / PER_CHUNK * CHUNK / 4


def simulated(order: StreamOrder = ORDER, first: int = 0, num: int | None = None, **changes: Any) -> Simulated:
    return simulate(order, SIZES, dataclasses.replace(CLUSTER, **changes), first_batch=first, num_batches=num)


def test_every_byte_is_fetched_once() -> None:
    found = simulated()
    assert found.num_batches == 3200 * PER_CHUNK // 160
    assert found.num_gets == 3200
    assert found.fetched_bytes == found.distinct_bytes == SIZES.sum()
    assert found.amplification == 1


def test_lanes_that_two_machines_share_are_fetched_twice() -> None:
    """Five machines and 16 lanes: four borders, each inside a lane of 200 chunks."""
    found = simulated(num_ranks=5, num_nodes=5, images_per_s=200.0)
    assert found.distinct_bytes == SIZES.sum()
    assert found.num_gets == 3200 + 4 * 200
    assert found.amplification == pytest.approx(1 + 4 / LANES)


def test_a_fast_network_keeps_nobody_waiting() -> None:
    found = simulated()
    assert found.waiting < 0.01
    assert found.total_s == pytest.approx(found.first_batch_s + found.num_batches * 0.16, rel=0.01)
    assert 0 < found.first_batch_s < 1


@pytest.mark.parametrize("share", [0.8, 0.5, 0.1])
def test_a_slow_network_makes_steps_wait_as_long_as_it_is_too_slow(share: float) -> None:
    """The time to the first batch is left out; from then on, the bytes of the epoch set the pace."""
    found = simulated(bytes_per_s=share * NEEDED_BYTES_PER_S)
    assert found.total_s == pytest.approx(SIZES.sum() / 4 / (share * NEEDED_BYTES_PER_S), rel=0.05)
    assert found.waiting == pytest.approx(1 - share, abs=0.05)
    assert simulated(num=400, bytes_per_s=share * NEEDED_BYTES_PER_S).waiting_later == pytest.approx(1 - share, abs=0.1)


def test_latency_is_hidden_by_requests_side_by_side() -> None:
    """One request at a time takes half a second, and 6.25 chunks a second are needed: from four on it is enough."""
    few = simulated(latency_s=0.5, num_requests=1)
    many = simulated(latency_s=0.5, num_requests=16)
    assert few.total_s == pytest.approx(800 * (0.5 + CHUNK / 1e9), rel=0.1)
    assert many.waiting < 0.02


def test_a_late_answer_does_not_hold_up_the_others() -> None:
    """Latencies of 0.1 s on average, some of half a second, beside chunks of 0.1 s: the network is never idle."""
    found = simulated(latency_s=0.1, bytes_per_s=0.4 * CHUNK / 0.1, num_requests=32)
    assert found.total_s == pytest.approx(800 * 0.25, rel=0.03)


def test_what_is_in_use_is_as_others_compute_it() -> None:
    """MosaicML's bound for `py1e`: S * ceil(B / Q) * ceil(C / P), with S bytes of a shard, blocks of B samples, Q
    samples in a shard, C canonical nodes and P machines. A lane is a canonical node, a window a block.
    """
    for lanes, window, num_nodes in ((16, 8, 4), (16, 8, 1), (32, 16, 2), (12, 8, 4)):
        order = StreamOrder(np.full(3200, PER_CHUNK), 1, 0, lanes=lanes, window=window)
        found = simulated(order, num_nodes=num_nodes)
        bound = CHUNK * -(-window * PER_CHUNK // PER_CHUNK) * -(-lanes // num_nodes)
        assert 0.9 * bound <= found.in_use_bytes <= 1.2 * bound


def test_a_cache_is_filled_and_never_overfull() -> None:
    needed = simulated().in_use_bytes
    found = simulated(cache_bytes=2 * needed)
    assert 1.9 * needed < found.cached_bytes <= 2 * needed
    assert simulated(cache_bytes=needed).cached_bytes <= needed
    assert found.fetched_bytes == SIZES.sum()
    with pytest.raises(ConfigError, match=r"too small.*\n.*16 lanes and windows of 8"):
        simulated(cache_bytes=needed - 1)


def test_a_small_cache_makes_steps_wait_for_latency() -> None:
    """Nothing can be fetched ahead while what is in use fills the cache."""
    needed = simulated().in_use_bytes
    tight, wide = (simulated(cache_bytes=size, latency_s=0.2) for size in (needed, 3 * needed))
    assert tight.waiting > wide.waiting
    assert wide.waiting < 0.02
    assert wide.waiting_later == 0


@pytest.mark.parametrize("batch", [1, 300, 799])
def test_a_restart_costs_the_chunks_in_use(batch: int) -> None:
    whole, before, after = simulated(), simulated(num=batch), simulated(first=batch)
    again = refill_bytes(ORDER, SIZES, batch * 160)
    assert before.fetched_bytes + after.fetched_bytes == whole.fetched_bytes + again
    assert 0 < again <= 1.2 * LANES * WINDOW * CHUNK
    assert after.num_batches == 800 - batch


def test_pairs_are_counted() -> None:
    """Chunks of one example make none; a single chunk makes all of them."""
    alone = StreamOrder(np.ones(100, dtype=np.int64), 0, 0, lanes=4, window=4)
    assert same_chunk_pairs_in(alone, range(4), 25) == 0
    assert same_chunk_pairs_in(StreamOrder(np.array([100]), 0, 0, lanes=4, window=4), range(4), 25) == 1


def test_nothing_to_train_on() -> None:
    found = simulate(StreamOrder(np.zeros(3, dtype=np.int64), 0, 0, lanes=2, window=2), SIZES[:3], CLUSTER)
    assert (found.num_batches, found.num_gets, found.waiting) == (0, 0, 0)
