"""A server that is away for a while, and a reader that is told to stop: nobody gives up early, nobody waits in vain."""

import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.range_server import RangeServer
from vitrail.data.streaming.http_objects import HttpObjects
from vitrail.data.streaming.remote import TRAINING, Patience
from vitrail.data.streaming.table import Shard
from vitrail.errors import DataError

CONTENT = bytes(range(256)) * 40
SHARDS = [Shard(f"{name}.bin", "train", len(CONTENT), "") for name in "abcd"]
FILES = {f"/{shard.name}": CONTENT for shard in SHARDS}


def test_a_restart_of_the_server_is_outlasted_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    patience = Patience(tries=2, first_s=0.001, longest_s=0.002, outage_s=60, said_s=0)
    with (
        RangeServer(FILES, lambda path, start, attempt: "503" if attempt < 12 else None) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        objects = HttpObjects(server.url, patience)
        for outage in (1, 2):
            found = list(pool.map(lambda shard, at=outage: objects.fetch(shard, at, 5), SHARDS))
            assert found == [CONTENT[outage : outage + 5]] * 4
        assert set(server.asked.values()) == {13}
    said = capsys.readouterr().err.splitlines()
    assert 2 <= len(said) <= 8  # a shard may have come back before another one failed
    assert all(f"waiting for {server.url}/" in line and "HTTP status 503; trying again until" in line for line in said)


def test_an_outage_that_does_not_end_is_given_up_and_not_waited_for_again() -> None:
    with RangeServer(FILES, lambda *_: "503") as server:
        objects = HttpObjects(server.url, Patience(3, 0.001, 0.002, outage_s=0.3))
        began = time.monotonic()
        with pytest.raises(DataError, match="HTTP status 503, after"):
            objects.fetch(SHARDS[0], 0, 5)
        assert time.monotonic() - began >= 0.3
        with pytest.raises(DataError, match="after 3 tries"):
            objects.fetch(SHARDS[0], 7, 5)


def test_training_is_patient() -> None:
    assert TRAINING.outage_s >= 300
    assert TRAINING.deadline_s > TRAINING.outage_s + TRAINING.timeout_s


@contextmanager
def _silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _stopped(objects: HttpObjects) -> None:
    errors: list[DataError] = []

    def fetch() -> None:
        with pytest.raises(DataError) as caught:
            objects.fetch(SHARDS[0], 0, 5)
        errors.append(caught.value)

    readers = [threading.Thread(target=fetch, daemon=True) for _ in range(3)]  # one of them is not let in yet
    for reader in readers:
        reader.start()
    while len(objects._under_way) < 3:
        time.sleep(0.001)
    time.sleep(0.05)
    objects.stop()
    for reader in readers:
        reader.join(60)
    assert ["was stopped" in str(error) for error in errors] == [True] * 3


def test_stopping_does_not_wait_for_an_answer() -> None:
    with _silent_server() as url:
        _stopped(HttpObjects(url, Patience(timeout_s=1000), requests=2))


def test_stopping_does_not_wait_for_a_pause() -> None:
    with RangeServer(FILES, lambda *_: "503") as server:
        _stopped(HttpObjects(server.url, Patience(first_s=1000, longest_s=1e6, deadline_s=1e9), requests=2))


_EXIT = """
    import sys, time
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    import numpy as np
    from vitrail.data.streaming.chunk_cache import ChunkCache
    from vitrail.data.streaming.http_objects import HttpObjects
    from vitrail.data.streaming.remote import Patience
    from vitrail.data.streaming.remote_chunks import RemoteChunks
    from vitrail.data.streaming.table import CHUNK, MEMBER, Shard, Table

    objects = HttpObjects(sys.argv[1], Patience(timeout_s=1000))
    chunk = np.zeros(1, CHUNK)
    chunk["size"], chunk["count"] = 5, 1
    table = Table("tar", objects.place, (Shard("a", "train", 9, "", 1),), chunk, np.zeros(1, MEMBER),
                  np.zeros(1, np.uint8), np.ones(1, np.uint64), ("x",))
    chunks = RemoteChunks(table, objects, ChunkCache(Path(sys.argv[2]), 100, 5))
    ThreadPoolExecutor(1).submit(lambda: chunks.opened(0).__enter__())
    while not objects._under_way:
        time.sleep(0.001)
    raise KeyboardInterrupt
"""


def test_a_process_ends_while_a_chunk_is_awaited(tmp_path: Path) -> None:
    with _silent_server() as url:
        command = [sys.executable, "-c", textwrap.dedent(_EXIT), url, str(tmp_path)]
        ended = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
        assert "KeyboardInterrupt" in ended.stderr
