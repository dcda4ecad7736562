"""Which images of a data set are decoded once and kept, and which are decoded each time they are needed."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from vitrail.config import DataConfig, Preprocessing
from vitrail.data.decoded_cache import can_cache
from vitrail.data.sources import NAMED_SETS, Split
from vitrail.data.store import fitted_bytes, sizes_of, whole_bytes, whole_side
from vitrail.data.streaming.order import same_chunk_pairs
from vitrail.errors import ConfigError


@dataclass(frozen=True)
class Store:
    """How the images of a split are kept.

    Args:
        kind: memory: decoded once to the size of the input; whole: decoded once, with their borders, so that random
            crops can be cut from them; files: decoded for each use.
        note: a line that says so; empty where there is nothing to say.
    """

    kind: Literal["memory", "whole", "files"]
    note: str = ""


def choose_store(config: DataConfig, split: Split, preprocessing: Preprocessing, *, random_crops: bool) -> Store:
    """How a split is kept.

    Random crops are cut from whole images, unless all images have the size at which they are kept, or that size was
    asked for (data.decode_size).

    Args:
        config: data.store, and what memory and disk allow.
        random_crops: training cuts random parts out of them.
    Raises:
        ConfigError: the images are to be kept in memory, and are streamed.
    """
    height, width = preprocessing.decode_size
    if split.packed is not None or not len(split):
        return Store("memory")
    if split.chunk_starts is not None:
        if config.store == "memory":
            raise ConfigError(
                "Streamed data are not kept in memory.",
                got="data.store=memory",
                expected="auto or files",
                do="Use --data.store auto.",
            )
        return Store("files", _streamed(config, split.chunk_starts))
    is_asked_size = config.decode_size != 0 or config.spec in NAMED_SETS
    crops = random_crops and not is_asked_size and any(size != (width, height) for size in sizes_of(split))
    if config.store == "files":
        return Store("files", "the images are decoded from their files each time they are needed (data.store)")
    fitted = fitted_bytes(split, preprocessing)
    budget, limit = config.ram_budget_mib << 20, int(config.cache_gib * 2**30)
    if not crops:
        if fitted <= budget or config.store == "memory" or can_cache(fitted, limit):
            return Store("memory")
        gib = f"{fitted / 2**30:.0f} GiB"
        return Store("files", f"the images are decoded each time they are needed: all of them would take {gib}")
    whole = whole_bytes(split, preprocessing)
    if whole <= budget or config.store == "memory":
        side, mib = whole_side(preprocessing), f"{math.ceil(whole / 2**20)} MiB"
        return Store(
            "whole", f"the images are decoded once and kept whole, their shorter side at most {side} pixels: {mib}"
        )
    mib = f"{whole / 2**20:.0f} MiB"
    return Store(
        "files",
        f"random crops are cut from the files each time: all images, decoded, would take {mib}, more than "
        f"data.ram-budget-mib allows",
    )


def _streamed(config: DataConfig, chunk_starts: Int64[np.ndarray, "C1"]) -> str:
    """How streamed examples are read, and how well their order is shuffled."""
    counts = np.diff(chunk_starts)
    counts = counts[counts > 0]
    what = f"the images are streamed in {len(counts)} chunks and decoded each time they are needed"
    if config.shuffle == "exact" or len(counts) <= config.lanes * config.window:
        return what
    pairs = same_chunk_pairs(counts, config.lanes, config.window)
    return f"{what}; of {round(1 / pairs)} pairs of a batch one is from the same chunk (data.lanes, data.window)"
