"""One writer a run directory."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitrail import fsio, train
from vitrail.errors import RunError
from vitrail.process_identity import this_machine
from vitrail.run import lock
from vitrail.selftest.fork_server import ForkServer
from vitrail.selftest.tiny import tiny_run


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


def _locks(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_second_run_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    with lock.hold_lock(tmp_path):
        with pytest.raises(RunError, match=rf"another process is writing.*\n.*process {os.getpid()} on "):
            train(tiny_run(), tmp_path)
        assert _locks(tmp_path) == [".lock-1"]
    assert json.loads((tmp_path / ".lock-1").read_text()) == {"released": True}
    with lock.hold_lock(tmp_path) as again:
        again.check()
        assert _locks(tmp_path) == [".lock-2"]


def _someone_else(path: Path, **changes: object) -> None:
    holder = {"pid": 2**22 + 1, "host": "elsewhere", "machine": this_machine(), "process_started": "1"} | changes
    path.write_text(json.dumps(holder))


def test_a_dead_process_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    _someone_else(tmp_path / ".lock-7")
    with lock.hold_lock(tmp_path):
        assert _locks(tmp_path) == [".lock-8"]


def test_a_later_process_with_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    _someone_else(tmp_path / ".lock-1", pid=os.getpid(), process_started="0")
    with lock.hold_lock(tmp_path):
        pass


def test_a_process_of_another_machine_is_gone_after_a_minute_of_silence(tmp_path: Path) -> None:
    other = tmp_path / ".lock-3"
    _someone_else(other, machine="another boot")
    with pytest.raises(RunError, match="process 4194305 on elsewhere"), lock.hold_lock(tmp_path):
        pass
    os.utime(other, (time.time() - 61, time.time() - 61))
    with lock.hold_lock(tmp_path):
        assert _locks(tmp_path) == [".lock-4"]


def test_one_that_overslept_notices_before_it_writes(tmp_path: Path) -> None:
    with lock.hold_lock(tmp_path) as mine:
        _someone_else(tmp_path / ".lock-2")
        with pytest.raises(RunError, match="has taken this run over"):
            mine.check()
    assert json.loads((tmp_path / ".lock-2").read_text())["host"] == "elsewhere", "the new holder's file is left alone"


def test_the_holder_is_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    with lock.hold_lock(tmp_path) as mine:
        os.utime(mine.path, (0, 0))
        until = time.monotonic() + 5
        while mine.path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert mine.path.stat().st_mtime > 0


def test_a_damaged_lock_file_does_not_lock_out(tmp_path: Path) -> None:
    (tmp_path / ".lock-1").write_bytes(b"\x00")
    with lock.hold_lock(tmp_path):
        assert _locks(tmp_path) == [".lock-2"]


def _race(server: ForkServer, directory: Path, processes: int) -> int:
    log = directory.with_suffix(".log")
    ended = server.run("tests.support.jobs:hold_lock", {"directory": str(directory), "log": str(log)}, ranks=processes)
    assert ended.statuses == [0] * processes
    lines = log.read_text().splitlines()
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert (entered.split()[0], left.split()[0]) == ("in", "out")
        assert entered.split()[1] == left.split()[1], "two were inside at once"
    return len(lines) // 2


@pytest.mark.long
def test_of_twenty_that_start_at_once_one_at_a_time_writes(server: ForkServer, tmp_path: Path) -> None:
    inside = [_race(server, tmp_path / str(number), 20) for number in range(10)]
    assert min(inside) >= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_races(server: ForkServer, tmp_path: Path) -> None:
    for number in range(1000):
        directory = tmp_path / str(number)
        directory.mkdir()
        if number % 2:
            _someone_else(directory / ".lock-5")  # all of them take over from a dead one
        assert _race(server, directory, 20) >= 1


def test_several_threads_count_as_one_process(tmp_path: Path) -> None:
    """The lock is between processes, but a second thread that asks for it is refused as well."""
    refused: list[str] = []

    def ask() -> None:
        try:
            with lock.hold_lock(tmp_path):
                pass
        except RunError as error:
            refused.append(str(error))

    with lock.hold_lock(tmp_path):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_files_of_fsio_that_only_one_may_create(tmp_path: Path) -> None:
    made = [fsio.create_exclusively(tmp_path / "x", str(i).encode()) for i in range(5)]
    assert made == [True, False, False, False, False]
