"""`vitrail data simulate SPEC`: what a cluster would see that trains on a streamed set, from the chunk table alone."""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli.answer import Answer, table
from vitrail.cli.settings import as_flag
from vitrail.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from vitrail.data.streaming.simulate import Cluster

DEFAULTS: dict[str, float] = {
    "ranks": 8,
    "ranks_per_node": 8,
    "batch_size": 1024,
    "images_per_second": 1000.0,
    "mbit_per_second": 10_000.0,
    "latency_ms": 30.0,
    "requests": 16,
    "cache_gib": math.inf,
    "lanes": 64,
    "window": 64,
    "batches": 1000,
}
"""Options and their values where they are not given."""
_HELP = {
    "ranks": "processes",
    "ranks_per_node": "processes of a machine",
    "batch_size": "images of a step, of all processes together",
    "images_per_second": "that one process trains on when nothing keeps it waiting",
    "mbit_per_second": "network of a machine, in 10^6 bits per second",
    "latency_ms": "from a request to its first byte, on average",
    "requests": "of a machine at a time",
    "cache_gib": "of a machine, for chunks",
    "lanes": "as data.lanes",
    "window": "as data.window",
    "batches": "of the first epoch that are simulated",
}
_MOST_BATCHES_COUNTED = 50
_MOST = 1 << 16
_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the action."""
    for name, value in DEFAULTS.items():
        default = "no limit" if value == math.inf else f"{value:g}"
        kind = float if isinstance(value, float) else int
        parser.add_argument(as_flag(name), type=kind, metavar="N", help=f"simulate: {_HELP[name]} (default: {default})")


def run(args: argparse.Namespace) -> Answer:
    """Simulate the beginning of an epoch, and a restart in it."""
    given = {name: getattr(args, name) for name in DEFAULTS if getattr(args, name) is not None}
    for name, value in given.items():
        is_possible = 0 < value < math.inf or (name, value) in (("latency_ms", 0), ("cache_gib", math.inf))
        if not is_possible:
            raise ConfigError(f"{as_flag(name)} must be positive.", got=value)
        if name in ("ranks", "lanes", "window") and value > _MOST:
            raise ConfigError(f"{as_flag(name)} is too large.", got=value, expected=f"at most {_MOST}")
    counts, sizes = _chunks(args.spec)
    found = outlook(counts, sizes, {**DEFAULTS, **given})
    return Answer(_lines(found), found)


def _chunks(spec: str) -> "tuple[np.ndarray, np.ndarray]":
    """Images and bytes of each chunk of the training set. Local shards are indexed now; an address has to be."""
    import numpy as np

    from vitrail.data.streaming.opening import index, remote_table
    from vitrail.data.streaming.places import scheme_of
    from vitrail.data.streaming.table import SPLITS, is_table, read_table

    path = Path(spec).expanduser()
    if scheme_of(spec) is not None:
        found = remote_table(spec)
    else:
        found = read_table(path) if is_table(path) else index(spec, progress=True)[1]
    chunks = found.chunks[found.chunks_of(min((shard.split for shard in found.shards), key=SPLITS.index))]
    return chunks["count"].astype(np.int64), chunks["size"].astype(np.int64)


def outlook(counts: "np.ndarray", sizes: "np.ndarray", options: dict[str, float]) -> dict[str, Any]:
    """What the simulation says, as JSON values.

    Args:
        counts: images in each chunk.
        sizes: bytes of each chunk.
        options: a value for each of `DEFAULTS`.
    """
    from vitrail.data.streaming.order import StreamOrder, same_chunk_pairs
    from vitrail.data.streaming.simulate import refill_bytes, same_chunk_pairs_in, simulate

    cluster = _cluster(options)
    lanes, window, num_batches = int(options["lanes"]), int(options["window"]), int(options["batches"])
    order = StreamOrder(counts, 0, 0, lanes=lanes, window=window)
    run = simulate(order, sizes, cluster, num_batches=num_batches)
    middle = run.num_batches // 2
    again = simulate(order, sizes, cluster, first_batch=middle, num_batches=1)
    measured = range(0, run.num_batches, max(1, run.num_batches // _MOST_BATCHES_COUNTED))
    return {
        "cluster": {**asdict(cluster), "lanes": lanes, "window": window},
        "num_examples": len(order),
        "num_chunks": len(counts),
        "num_bytes": int(sizes.sum()),
        "step_s": cluster.step_s,
        **asdict(run),
        "amplification": run.amplification,
        "restart": {
            "batch": middle,
            "first_batch_s": again.first_batch_s,
            "refill_bytes": refill_bytes(order, sizes, middle * cluster.batch_size),
        },
        "same_chunk_pairs": {
            "measured": same_chunk_pairs_in(order, measured, cluster.batch_size),
            "expected": same_chunk_pairs(counts, lanes, window),
            "perfect_shuffle": same_chunk_pairs(counts, len(counts) or 1, 1),
        },
    }


def _cluster(options: dict[str, float]) -> "Cluster":
    from vitrail.data.streaming.simulate import Cluster

    num_ranks = int(options["ranks"])
    per_node = min(int(options["ranks_per_node"]), num_ranks)
    if num_ranks % per_node:
        raise ConfigError(
            "All machines must have the same number of processes.",
            got=f"--ranks {num_ranks} --ranks-per-node {per_node}",
            expected="a number of processes that can be divided by it",
        )
    cache = options["cache_gib"]
    return Cluster(
        num_ranks=num_ranks,
        num_nodes=num_ranks // per_node,
        batch_size=int(options["batch_size"]),
        images_per_s=options["images_per_second"],
        bytes_per_s=options["mbit_per_second"] * 1e6 / 8,
        latency_s=options["latency_ms"] / 1000,
        num_requests=int(options["requests"]),
        cache_bytes=None if cache == math.inf else int(cache * _GIB),
    )


def _lines(found: dict[str, Any]) -> list[str]:
    cluster, pairs, restart = found["cluster"], found["same_chunk_pairs"], found["restart"]
    trained = found["total_s"] - found["first_batch_s"]
    num_images = min(found["num_batches"] * cluster["batch_size"], found["num_examples"])
    rows = [
        ("time to the first batch", f"{found['first_batch_s']:.2f} s"),
        (
            "then waiting for data",
            f"{found['waiting']:.1%} of the time; {found['waiting_later']:.1%} in the second half of the batches",
        ),
        ("images per second", f"{num_images / trained:,.0f}" if trained else "none"),
        ("requests", f"{found['num_gets']:,}"),
        ("fetched", f"{found['fetched_bytes'] / _GIB:,.2f} GiB, {found['amplification']:.3f} times each byte"),
        ("in use on a machine, at most", f"{found['in_use_bytes'] / _GIB:.2f} GiB: no cache can be smaller"),
        ("in its cache, at most", f"{found['cached_bytes'] / _GIB:.2f} GiB"),
        (f"a restart at batch {restart['batch']:,}", f"first batch after {restart['first_batch_s']:.2f} s"),
        ("what it fetches again", f"{restart['refill_bytes'] / _GIB:.2f} GiB on all machines"),
        (
            "two images of a batch from one chunk",
            f"{_pairs(pairs['measured'])}; if all images were shuffled together, {_pairs(pairs['perfect_shuffle'])}",
        ),
    ]
    return [
        f"{found['num_examples']:,} images in {found['num_chunks']:,} chunks, {found['num_bytes'] / _GIB:,.2f} GiB; "
        f"{found['num_batches']:,} batches on {cluster['num_nodes']:,} x "
        f"{cluster['num_ranks'] // cluster['num_nodes']:,} processes, steps of {found['step_s']:.3f} s",
        "",
        *table(("", "simulated"), rows),
    ]


def _pairs(share: float) -> str:
    return f"one pair in {1 / share:,.0f}" if share else "no pair"
