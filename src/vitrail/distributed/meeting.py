"""The processes of one attempt at a run find each other, and no process of an earlier attempt.

torchrun's agent keeps its store when it starts all processes anew, and the new ones would read the addresses that the
dead ones left there; its count of restarts differs from machine to machine, so it can't tell attempts apart. So each
process says hello with a word of its own, and the first answers each with the name of this attempt.
"""

import datetime
import time
import uuid

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from vitrail.errors import RankLost

ARRIVAL = datetime.timedelta(minutes=10)
_POLL_SECONDS = 0.02


def met(rank: int, size: int, patience: datetime.timedelta = ARRIVAL) -> tuple[dist.Store, str]:
    """Wait until all processes of this attempt are there, at the store that the environment names.

    Returns:
        The store, and the name of this attempt, the same on all and never used before.
    Raises:
        RankLost: one did not come in time.
    """
    store: dist.Store = next(iter(rendezvous("env://", timeout=patience)))[0]
    return store, agreed(store, rank, size, patience)


def agreed(store: dist.Store, rank: int, size: int, patience: datetime.timedelta = ARRIVAL) -> str:
    """Name of this attempt, the same for all its processes, whatever earlier ones left in the store."""
    until = time.monotonic() + patience.total_seconds()
    return _as_first(store, size, until) if rank == 0 else _as_other(store, rank, until)


def _as_first(store: dist.Store, size: int, until: float) -> str:
    attempt = uuid.uuid4().hex
    answered: dict[int, str] = {}
    waiting = set(range(1, size))
    while waiting:
        for rank in sorted(waiting):
            if store.check([_arrived(attempt, rank)]):
                waiting.discard(rank)
            elif store.check([_hello(rank)]):
                # May be of an earlier attempt, whose process is gone: the new one will say another word.
                word = store.get(_hello(rank)).decode()
                if answered.get(rank) != word:
                    store.set(_welcome(word), attempt)
                    answered[rank] = word
        if waiting:
            _pause(until, f"rank {min(waiting)}")
    return attempt


def _as_other(store: dist.Store, rank: int, until: float) -> str:
    word = uuid.uuid4().hex
    store.set(_hello(rank), word)
    while not store.check([_welcome(word)]):
        _pause(until, "rank 0")
    attempt = store.get(_welcome(word)).decode()
    store.set(_arrived(attempt, rank), "")
    return attempt


def _pause(until: float, missing: str) -> None:
    if time.monotonic() > until:
        raise RankLost(
            "Not all processes of this run came together.",
            got=f"{missing} did not come in time",
            expected="every process started",
            do="Look at what that process says, and whether the machines reach each other.",
        )
    time.sleep(_POLL_SECONDS)


def _hello(rank: int) -> str:
    return f"vitrail/hello/{rank}"


def _welcome(word: str) -> str:
    return f"vitrail/welcome/{word}"


def _arrived(attempt: str, rank: int) -> str:
    return f"vitrail/arrived/{attempt}/{rank}"
