"""The processes of one attempt at a run find each other, and no process of an earlier attempt.

torchrun's agent keeps its store when it starts all processes anew, and the new ones would read the addresses that the
dead ones left there; its count of restarts differs from machine to machine, so it can't tell attempts apart. So each
process says hello with a random word, and rank 0 answers every word with the random name of this attempt. Whatever
the processes say to each other from then on is stored under that name.
"""

import datetime
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from vitrail.errors import ConfigError, RankLost
from vitrail.process_identity import ProcessIdentity, this_process

ARRIVAL_SECONDS = 600.0
_POLL_SECONDS = 0.02
_hello, _welcome, _arrived = "vitrail/hello/{}".format, "vitrail/welcome/{}".format, "arrived/{}".format


def meet(rank: int, size: int, on_attempt: Callable[[dist.Store], object]) -> dist.Store:
    """Wait until all processes of this attempt are there, at the store that the environment names.

    Args:
        rank: of this process.
        size: number of processes.
        on_attempt: called with the store of this attempt before rank 0 hears that this process is there.
    Returns:
        A store that holds words of this attempt alone, among them the identity of each process (`identity_of`).
    Raises:
        RankLost: one did not come in time, or ended meanwhile.
        ConfigError: the port is in use.
    """
    try:
        store: dist.Store = next(iter(rendezvous("env://", timeout=datetime.timedelta(seconds=ARRIVAL_SECONDS))))[0]
        return join_attempt(store, rank, size, on_attempt)
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise ConfigError(
                "The port that the processes are to meet at is in use.",
                got=f"MASTER_PORT={os.environ.get('MASTER_PORT')}",
                do="Set MASTER_PORT to another one on all of them.",
            ) from error
        raise RankLost(
            "The launcher or the first process of this run is gone, or could not be reached.",
            got=str(error).splitlines()[0][:200],
            do="Look at what that process says, and whether the machines reach each other.",
        ) from error


def join_attempt(
    store: dist.Store,
    rank: int,
    size: int,
    on_attempt: Callable[[dist.Store], object],
    seconds: float = ARRIVAL_SECONDS,
) -> dist.Store:
    """As `meet`, at a store that may hold whatever earlier attempts left there."""
    polls = int(seconds / _POLL_SECONDS)
    attempt = _ask_for_attempt(store, rank, polls) if rank else uuid.uuid4().hex
    own_store = dist.PrefixStore(f"vitrail/{attempt}", store)
    on_attempt(own_store)
    own_store.set(_arrived(rank), json.dumps(asdict(this_process())))
    if rank == 0:
        _wait_for_others(store, own_store, attempt, size, polls)
    return own_store


def identity_of(store: dist.Store, rank: int) -> ProcessIdentity | None:
    """Which process has a rank in the attempt that a store belongs to; None: it has not arrived."""
    return ProcessIdentity(**json.loads(store.get(_arrived(rank)))) if store.check([_arrived(rank)]) else None


def _ask_for_attempt(store: dist.Store, rank: int, polls: int) -> str:
    word = uuid.uuid4().hex
    store.set(_hello(rank), word)
    for _ in range(polls):
        if store.check([_welcome(word)]):
            return store.get(_welcome(word)).decode()
        time.sleep(_POLL_SECONDS)
    raise _not_complete("rank 0")


def _wait_for_others(store: dist.Store, own_store: dist.Store, attempt: str, size: int, polls: int) -> None:
    missing = set(range(1, size))
    for _ in range(polls):
        missing = {rank for rank in missing if not own_store.check([_arrived(rank)])}
        if not missing:
            return
        for rank in missing:
            # May be of an earlier attempt, whose process is gone: the new one will say another word.
            if store.check([_hello(rank)]):
                store.set(_welcome(store.get(_hello(rank)).decode()), attempt)
        time.sleep(_POLL_SECONDS)
    raise _not_complete(f"rank {min(missing)}")


def _not_complete(missing: str) -> RankLost:
    return RankLost(
        "Not all processes of this run came together.",
        got=f"{missing} did not come in time",
        expected="every process started",
        do="Look at what that process says, and whether the machines reach each other.",
    )
