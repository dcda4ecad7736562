"""Saving beside the training: one after the other, errors are told, and no thread stays."""

import threading

import pytest

from vitrail.run.saver import Saver


def test_the_thread_of_a_save_ends_with_it() -> None:
    """One that stayed would keep its OpenMP threads, and training would be slower."""
    saver, seen = Saver(asynchronous=True), list[threading.Thread]()
    for _ in range(2):
        saver.submit(lambda: seen.append(threading.current_thread()))
    saver.wait()
    assert threading.current_thread() not in seen and len(seen) == 2
    for thread in seen:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_save_waits_for_the_one_before_and_hears_of_its_error(asynchronous: bool) -> None:
    saver, done, may_go_on = Saver(asynchronous=asynchronous), list[str](), threading.Event()

    def first() -> None:
        assert not asynchronous or may_go_on.wait(10)
        done.append("first")
        raise OSError("full")

    threading.Timer(0.05, may_go_on.set).start()
    with pytest.raises(OSError, match="full"):
        saver.submit(first)
        saver.submit(lambda: done.append("second"))
    assert done == ["first"]
    saver.submit(lambda: done.append("third"))
    saver.close()
    assert done == ["first", "third"]
