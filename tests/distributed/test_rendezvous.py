"""Processes of one attempt agree on its name, whatever dead processes of earlier attempts left in the store."""

import os
import random
import threading

import pytest
import torch.distributed as dist

from vitrail.distributed.rendezvous import identity_of, join_attempt, meet
from vitrail.errors import RankLost


def _name(store: dist.Store, key: str = "name of this attempt") -> str:
    """A word that all who have the store of this attempt share, made by the first to ask."""
    return store.compare_set(key, "", os.urandom(8).hex()).decode()


def _attempt(store: dist.Store, ranks: list[int], size: int, seconds: float) -> dict[int, dist.Store | None]:
    """The store of the attempt that each of the processes that came was given; None: it gave up."""
    found: dict[int, dist.Store | None] = {}

    def come(rank: int) -> None:
        try:
            found[rank] = join_attempt(store, rank, size, lambda _: None, seconds)
        except RankLost:
            found[rank] = None

    threads = [threading.Thread(target=come, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_every_attempt_has_a_store_of_its_own_that_all_share() -> None:
    store, draw, used = dist.HashStore(), random.Random(0), set[str]()
    for _ in range(10):
        size = draw.randint(2, 5)
        # An attempt of which some never come, or die on the way, leaves its words behind.
        some = draw.sample(range(size), draw.randint(1, size - 1))
        used |= {_name(own) for own in _attempt(store, some, size, 0.1).values() if own is not None}
        found = _attempt(store, draw.sample(range(size), size), size, 20)
        assert len(found) == size
        names = {_name(own) for own in found.values() if own is not None}
        assert len(names) == 1
        assert not names & used
        used |= names
        own = found[0]
        assert own is not None
        identities = [identity_of(own, rank) for rank in range(size)]
        assert [identity.pid for identity in identities if identity is not None] == [os.getpid()] * size


def test_a_process_that_does_not_come_is_named() -> None:
    store, seconds = dist.HashStore(), 0.5
    other = threading.Thread(target=_attempt, args=(store, [1], 3, seconds))
    other.start()
    with pytest.raises(RankLost, match="rank 2 did not come"):
        join_attempt(store, 0, 3, lambda _: None, seconds)
    other.join()


def test_a_first_process_that_ends_while_others_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise dist.DistNetworkError("connection reset by peer")

    monkeypatch.setattr("vitrail.distributed.rendezvous.rendezvous", gone)
    with pytest.raises(RankLost, match=r"is gone(.|\n)*connection reset by peer"):
        meet(1, 2, lambda _: None)
