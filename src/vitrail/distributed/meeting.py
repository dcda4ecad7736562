"""The processes of one attempt at a run find each other, and no process of an earlier attempt.

torchrun's agent keeps its store when it starts all processes anew, and the new ones would read the addresses that the
dead ones left there; its count of restarts differs from machine to machine, so it can't tell attempts apart. So each
process says hello with a word of its own, and the first answers each with the name of this attempt. All learn which
processes they are among before anything else happens: one that is stopped a moment later can still be ended.
"""

import contextlib
import datetime
import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from vitrail.errors import ConfigError, RankLost

ARRIVAL = datetime.timedelta(minutes=10)
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Process:
    """Where a process of a run lives.

    Args:
        pid: its number on that machine.
        host: name of the machine.
        machine: equal for two processes only if each knows the other by its number: hosts may have the same name, and
            containers count their processes anew.
    """

    pid: int
    host: str
    machine: str


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run, the same on all its processes.

    Args:
        name: never used before.
        processes: in the order of their ranks.
    """

    name: str
    processes: tuple[Process, ...]


def met(rank: int, size: int, patience: datetime.timedelta = ARRIVAL) -> tuple[dist.Store, Attempt]:
    """Wait until all processes of this attempt are there, at the store that the environment names.

    Returns:
        The store, and this attempt.
    Raises:
        RankLost: one did not come in time, or ended meanwhile.
        ConfigError: the port is in use.
    """
    try:
        store: dist.Store = next(iter(rendezvous("env://", timeout=patience)))[0]
        return store, agreed(store, rank, size, patience)
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


def agreed(store: dist.Store, rank: int, size: int, patience: datetime.timedelta = ARRIVAL) -> Attempt:
    """This attempt, the same for all its processes, whatever earlier ones left in the store."""
    until = time.monotonic() + patience.total_seconds()
    name = _as_first(store, size, until) if rank == 0 else _as_other(store, rank, until)
    return Attempt(name, tuple(Process(**entry) for entry in json.loads(store.get(_everyone(name)))))


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
    others = [json.loads(store.get(_arrived(attempt, rank))) for rank in range(1, size)]
    store.set(_everyone(attempt), json.dumps([_this_process(), *others]))
    return attempt


def _as_other(store: dist.Store, rank: int, until: float) -> str:
    word = uuid.uuid4().hex
    store.set(_hello(rank), word)
    while not store.check([_welcome(word)]):
        _pause(until, "rank 0")
    attempt = store.get(_welcome(word)).decode()
    store.set(_arrived(attempt, rank), json.dumps(_this_process()))
    while not store.check([_everyone(attempt)]):
        _pause(until, "another rank")
    return attempt


def watched(store: dist.Store, attempt: Attempt, rank: int, patience: datetime.timedelta = ARRIVAL) -> None:
    """Say that this process watches the others; the first, which the store may live in, waits until all do.

    Raises:
        RankLost: one did not get so far in time.
    """
    until = time.monotonic() + patience.total_seconds()
    if rank:
        store.set(_watches(attempt.name, rank), "")
        return
    for other in range(1, len(attempt.processes)):
        while not store.check([_watches(attempt.name, other)]):
            _pause(until, f"rank {other}")


def this_machine() -> str:
    """Host name, this start of the system, and the space that process numbers are counted in."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _this_process() -> dict[str, int | str]:
    return asdict(Process(os.getpid(), socket.gethostname(), this_machine()))


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


def _everyone(attempt: str) -> str:
    return f"vitrail/everyone/{attempt}"


def _watches(attempt: str, rank: int) -> str:
    return f"vitrail/watches/{attempt}/{rank}"
