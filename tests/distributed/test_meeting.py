"""Processes of one attempt agree on its name, whatever dead processes of earlier attempts left in the store."""

import datetime
import os
import random
import threading

import pytest
import torch.distributed as dist

from vitrail.distributed.meeting import Attempt, agreed, met
from vitrail.errors import RankLost

SOON = datetime.timedelta(seconds=20)


def _attempt(store: dist.Store, ranks: list[int], size: int, patience: datetime.timedelta) -> dict[int, Attempt | None]:
    """What each of the processes that came knows of the attempt; None: it gave up."""
    found: dict[int, Attempt | None] = {}

    def come(rank: int) -> None:
        try:
            found[rank] = agreed(store, rank, size, patience)
        except RankLost:
            found[rank] = None

    threads = [threading.Thread(target=come, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_every_attempt_has_a_name_of_its_own_that_all_know() -> None:
    store, draw, used = dist.HashStore(), random.Random(0), set[str]()
    for _ in range(10):
        size = draw.randint(2, 5)
        # An attempt of which some never come, or die on the way, leaves its words behind.
        some = draw.sample(range(size), draw.randint(1, size - 1))
        _attempt(store, some, size, datetime.timedelta(seconds=0.1))
        found = _attempt(store, draw.sample(range(size), size), size, SOON)
        assert len(found) == size
        assert len(set(found.values())) == 1
        attempt = found[0]
        assert attempt is not None
        assert attempt.name not in used
        assert [process.pid for process in attempt.processes] == [os.getpid()] * size
        used.add(attempt.name)


def test_a_process_that_does_not_come_is_named() -> None:
    store, soon = dist.HashStore(), datetime.timedelta(seconds=0.5)
    other = threading.Thread(target=_attempt, args=(store, [1], 3, soon))
    other.start()
    with pytest.raises(RankLost, match="rank 2 did not come"):
        agreed(store, 0, 3, soon)
    other.join()


def test_a_first_process_that_ends_while_others_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise dist.DistNetworkError("connection reset by peer")

    monkeypatch.setattr("vitrail.distributed.meeting.rendezvous", gone)
    with pytest.raises(RankLost, match=r"is gone(.|\n)*connection reset by peer"):
        met(1, 2)
