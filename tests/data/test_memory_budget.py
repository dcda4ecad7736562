"""Threads share a number of bytes."""

import threading

from vitrail.data.memory_budget import MemoryBudget

WAIT = 30.0


def test_what_does_not_fit_waits_and_the_largest_goes_alone() -> None:
    room, inside, go = MemoryBudget(10), list[int](), threading.Event()
    entered = threading.Semaphore(0)

    def work(num_bytes: int) -> None:
        with room.taking(num_bytes):
            inside.append(num_bytes)
            entered.release()
            assert go.wait(WAIT)

    threads = [threading.Thread(target=work, args=(size,)) for size in (4, 6)]
    for thread in threads:
        thread.start()
    assert entered.acquire(timeout=WAIT) and entered.acquire(timeout=WAIT)
    assert room.taken == 10
    large = threading.Thread(target=work, args=(50,))
    large.start()
    assert not entered.acquire(timeout=0.1)
    go.set()
    for thread in (*threads, large):
        thread.join(WAIT)
    assert (sorted(inside), room.taken) == ([4, 6, 50], 0)


def test_an_error_gives_back() -> None:
    room = MemoryBudget(10)
    for _ in range(3):
        try:
            with room.taking(8):
                raise ValueError
        except ValueError:
            pass
    assert room.taken == 0
