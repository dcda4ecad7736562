"""The cache of chunks: its limit, what it evicts, and what processes that are killed leave behind."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import IO, Any

import pytest

from vitrail import fsio
from vitrail.data.streaming.chunk_cache import ChunkCache
from vitrail.errors import ConfigError, SaveError

SIZE = 1000


def _key(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}"


def _data(number: int) -> bytes:
    return number.to_bytes(4, "little") * (SIZE // 4)


def _by_number(key: str) -> float:
    return int(key[16:], 16)


def _add(cache: ChunkCache, number: int, *, may_wait: bool = True) -> bool:
    with cache.fetching(_key(number)):
        return cache.add(_key(number), _data(number), _by_number, may_wait=may_wait)


def _has(cache: ChunkCache, number: int) -> bool:
    with cache.leased(_key(number), SIZE) as file:
        return file is not None and os.pread(file.fileno(), SIZE, 0) == _data(number)


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"locks", "lock", "usage"}


def test_what_is_needed_last_makes_room(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 4 * SIZE, SIZE)
    assert all(_add(cache, number) for number in (5, 9, 7, 6))
    assert not _add(cache, 10, may_wait=False)  # needed later than all that are there
    assert _add(cache, 1, may_wait=False)
    assert [number for number in range(11) if _has(cache, number)] == [1, 5, 6, 7]
    assert _add(cache, 10)  # needed now, whatever the order says
    assert [number for number in range(11) if _has(cache, number)] == [1, 5, 6, 10]


def test_a_chunk_that_is_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cache_gib"):
        ChunkCache(tmp_path, SIZE, SIZE + 1)


def test_what_is_being_read_is_not_evicted(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 2 * SIZE, SIZE)
    _add(cache, 8)
    _add(cache, 9)
    with cache.leased(_key(9), SIZE) as file:
        assert file is not None
        assert _add(cache, 1)
        assert _has(cache, 9)
        assert not _has(cache, 8)
    released = threading.Event()

    def hold() -> None:
        with cache.leased(_key(9), SIZE), cache.leased(_key(1), SIZE):
            holding.set()
            released.wait(20)

    holding, thread = threading.Event(), threading.Thread(target=hold)
    thread.start()
    holding.wait(20)
    waiting = threading.Thread(target=_add, args=(cache, 2))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()  # everything is being read: it waits
    released.set()
    waiting.join(20)
    thread.join(20)
    assert _has(cache, 2)


def test_a_full_disk_is_no_room(tmp_path: Path) -> None:
    class Full(fsio.FileSystem):
        def free_bytes(self, path: Path) -> int:
            return (256 << 20) + SIZE // 2

    cache = ChunkCache(tmp_path, 10 * SIZE, SIZE)
    _add(cache, 3)
    with fsio.use_file_system(Full()):
        assert not _add(cache, 4, may_wait=False)
        assert _has(cache, 3)
        assert _add(cache, 1, may_wait=False)
        assert not _has(cache, 3)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Breaking(fsio.FileSystem):
        def replace(self, source: Path, target: Path) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fsync(self, file: IO[Any]) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = ChunkCache(tmp_path, 10 * SIZE, SIZE)
    with fsio.use_file_system(Breaking()), pytest.raises(SaveError):
        _add(cache, 4)
    assert _files(tmp_path) == set()
    assert _add(cache, 4)


def test_a_wrong_note_of_the_usage_is_counted_again(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 3 * SIZE, SIZE)
    _add(cache, 1)
    for note in ("", "nonsense", "999999999\n"):
        (tmp_path / "usage").write_text(note)
        assert _add(cache, 2)
        assert int((tmp_path / "usage").read_text()) <= 3 * SIZE
        cache.remove(_key(2), SIZE)
    assert _has(cache, 1)


_WORKER = """
    import os, random, sys
    from pathlib import Path
    from tests.data.streaming.test_chunk_cache import ChunkCache, SIZE, _add, _data, _has, _key

    folder, seed, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    print("ready", flush=True)
    cache = ChunkCache(folder, limit, SIZE)
    for turn in range(int(sys.argv[4])):
        number = draw.randrange(60)
        with cache.leased(_key(number), SIZE) as file:
            found = file is not None and os.pread(file.fileno(), SIZE, 0)
        if found:
            assert found == _data(number), number
        else:
            _add(cache, number, may_wait=draw.random() < 0.7)
    print("done", flush=True)
"""


def _worker(folder: Path, seed: int, turns: int) -> "subprocess.Popen[str]":
    code = textwrap.dedent(_WORKER)
    command = [sys.executable, "-c", code, str(folder), str(seed), str(20 * SIZE), str(turns)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])


def _check_after_kills(folder: Path) -> None:
    """A new process finds whole files only, nothing half written, and no more than the limit."""
    cache = ChunkCache(folder, 20 * SIZE, SIZE)
    files = _files(folder)
    assert not [name for name in files if name.startswith(".")]
    for name in files:
        assert (folder / name).read_bytes() == _data(int(name[16:32], 16))
    assert len(files) <= 20
    assert int((folder / "usage").read_text()) == len(files) * SIZE
    assert _add(cache, 0)
    assert _has(cache, 0)


def _kill(folder: Path, times: int, seed: int) -> None:
    draw = random.Random(seed)
    for turn in range(times):
        workers = [_worker(folder, 2 * turn, 10**9), _worker(folder, 2 * turn + 1, 10**9)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0, 0.3))
        for worker in workers:
            assert worker.poll() is None
            os.kill(worker.pid, signal.SIGKILL)
            worker.communicate()
        _check_after_kills(folder)


def test_processes_that_are_killed_leave_whole_files(tmp_path: Path) -> None:
    _kill(tmp_path, 2, 0)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_processes_that_are_killed_hundreds_of_times(tmp_path: Path) -> None:
    _kill(tmp_path, 150, 1)


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    workers = [_worker(tmp_path, seed, 150) for seed in (1, 2)]
    for worker in workers:
        output, _ = worker.communicate(timeout=100)
        assert output.endswith("done\n")
        assert worker.returncode == 0
    _check_after_kills(tmp_path)


def test_what_was_begun_is_kept_while_its_writer_lives(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 10 * SIZE, SIZE)
    begun = tmp_path / f".{_key(7)}-{SIZE}.tmp-01234567"
    begun.write_bytes(b"half")
    with cache.fetching(_key(7)):
        ChunkCache(tmp_path, 10 * SIZE, SIZE)
        assert begun.exists()
        assert int((tmp_path / "usage").read_text()) == SIZE
    ChunkCache(tmp_path, 10 * SIZE, SIZE)
    assert not begun.exists()
    assert int((tmp_path / "usage").read_text()) == 0
