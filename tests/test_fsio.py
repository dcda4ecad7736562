"""Writing: whole or not at all, and an error that says what to do."""

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail import fsio
from vitrail.errors import RunError, SaveError


class Failing(fsio.FileSystem):
    """Fails one named operation with one errno."""

    def __init__(self, operation: str, code: int) -> None:
        self.operation, self.code = operation, code

    def _maybe(self, operation: str) -> None:
        if operation == self.operation:
            raise OSError(self.code, "injected", operation)

    def open(self, path: Path, mode: str, buffering: int = -1) -> IO[Any]:
        self._maybe("open")
        return super().open(path, mode, buffering)

    def fsync(self, file: IO[Any]) -> None:
        self._maybe("fsync")
        super().fsync(file)

    def replace(self, source: Path, target: Path) -> None:
        self._maybe("replace")
        super().replace(source, target)

    def mkdir(self, path: Path) -> None:
        self._maybe("mkdir")
        super().mkdir(path)


@pytest.mark.parametrize("operation", ["open", "fsync", "replace", "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_wreck(tmp_path: Path, operation: str, code: int) -> None:
    target = tmp_path / "model.bin"
    fsio.write_bytes(target, b"old")
    with fsio.use_file_system(Failing(operation, code)), pytest.raises(SaveError) as caught:
        fsio.write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]
    assert str(target) in str(caught.value)
    assert caught.value.exit_status == 74
    assert ("MiB free" in str(caught.value)) == (code == errno.ENOSPC)


def test_an_interrupted_body_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), fsio.writing(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_order_is_write_fsync_rename_fsync_of_the_directory(tmp_path: Path) -> None:
    log: list[str] = []

    class Recording(fsio.FileSystem):
        def fsync(self, file: IO[Any]) -> None:
            log.append("fsync")
            super().fsync(file)

        def replace(self, source: Path, target: Path) -> None:
            assert source.read_bytes() == b"data"
            log.append("replace")
            super().replace(source, target)

        def fsync_dir(self, path: Path) -> None:
            log.append(f"fsync {path.name}")
            super().fsync_dir(path)

    with fsio.use_file_system(Recording()):
        fsio.write_bytes(tmp_path / "a", b"data")
    assert log == ["fsync", "replace", f"fsync {tmp_path.name}"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        fsio.write_json(tmp_path / "a.json", {"x": float("nan")})
    fsio.write_json(tmp_path / "a.json", {"x": 1.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.5}


def test_a_tail_replaces_what_was_torn(tmp_path: Path) -> None:
    log = tmp_path / "log" / "a.jsonl"
    fsio.write_tail(log, 0, b"one\n")
    log.write_bytes(b"one\ntw")
    fsio.write_tail(log, 4, b"two\n")
    assert log.read_text() == "one\ntwo\n"


def test_only_one_creates(tmp_path: Path) -> None:
    assert fsio.create_exclusively(tmp_path / "a", b"1")
    assert not fsio.create_exclusively(tmp_path / "a", b"2")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_directory_that_reads_back_otherwise_is_refused(tmp_path: Path) -> None:
    class Lying(fsio.FileSystem):
        def fsync(self, file: IO[Any]) -> None:
            super().fsync(file)
            if file.name.endswith("b.bin"):
                Path(file.name).write_bytes(b"other")

    files = {"a.bin": [b"1", b"2"], "b.bin": [b"3"]}
    with fsio.use_file_system(Lying()), pytest.raises(SaveError, match="reading it back"):
        fsio.write_new_dir(
            tmp_path / "new", files, ("m", lambda digests: b"".join(d.encode() for d in digests.values()))
        )
    assert list(tmp_path.iterdir()) == []
    fsio.write_new_dir(tmp_path / "new", files, ("m", lambda digests: " ".join(digests).encode()))
    assert {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()} == {
        "a.bin": b"12",
        "b.bin": b"3",
        "m": b"a.bin b.bin",
    }


def test_preflight_leaves_nothing_behind(tmp_path: Path) -> None:
    fsio.check_writable(tmp_path / "new" / "run", 1000)
    assert list(tmp_path.iterdir()) == []


def test_preflight_refuses_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not enough room") as caught:
        fsio.check_writable(tmp_path / "run", 2**60)
    assert caught.value.exit_status == 2


def test_preflight_refuses_an_unwritable_place(tmp_path: Path) -> None:
    with fsio.use_file_system(Failing("open", errno.EACCES)), pytest.raises(RunError, match="cannot be written"):
        fsio.check_writable(tmp_path / "run", 0)
    assert list(tmp_path.iterdir()) == []


def test_preflight_refuses_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be written"):
        fsio.check_writable(tmp_path / "file" / "run", 0)


_CUTS = st.lists(st.integers(0, 9000) | st.sampled_from([4096, 512 << 10, (512 << 10) + 1, 1 << 20]), max_size=6)


@settings(deadline=None, max_examples=60)
@given(_CUTS, st.integers(0, 2**32 - 1))
def test_a_directory_holds_every_byte_wherever_pieces_and_blocks_are_cut(sizes: list[int], seed: int) -> None:
    pieces = [random.Random(seed + at).randbytes(size) for at, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        fsio.write_new_dir(Path(folder) / "new", {"a": pieces}, ("sums", lambda sums: sums["a"].encode()))
        whole = (Path(folder) / "new" / "a").read_bytes()
        assert whole == b"".join(pieces)
        assert (Path(folder) / "new" / "sums").read_text() == hashlib.sha256(whole).hexdigest()


class _Odd:
    """A file that takes at most `most` bytes at a time and, past the cache, none at all."""

    def __init__(self, file: IO[Any], most: int) -> None:
        self.file, self.most, self.refused = file, most, 0

    def write(self, data: memoryview) -> int:
        fcntl = pytest.importorskip("fcntl")
        if fcntl.fcntl(self.file.fileno(), fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
            self.refused += 1
            raise OSError(errno.EINVAL, "injected")
        return self.file.write(data[: self.most])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_Odd":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_a_file_system_that_takes_little_and_only_through_the_cache(tmp_path: Path) -> None:
    files: list[_Odd] = []

    class Odd(fsio.FileSystem):
        def open(self, path: Path, mode: str, buffering: int = -1) -> IO[Any]:
            files.append(_Odd(super().open(path, mode, buffering), most=100_001))
            return files[-1]  # type: ignore[return-value]

    data = random.Random(0).randbytes(3_000_000)
    with fsio.use_file_system(Odd()):
        fsio.write_new_dir(tmp_path / "new", {"a": [data]}, ("m", lambda _: b"end"))
    assert (tmp_path / "new" / "a").read_bytes() == data
    assert sum(file.refused for file in files) <= 1  # asked once, not for every block


@pytest.mark.parametrize("changed", [0, 512 << 10, -1, None])
def test_a_single_byte_that_reads_back_otherwise_is_found(tmp_path: Path, changed: int | None) -> None:
    class Flipping(fsio.FileSystem):
        def fsync(self, file: IO[Any]) -> None:
            super().fsync(file)
            path = Path(file.name)
            data = bytearray(path.read_bytes())
            if path.name == "a" and changed is not None:
                data[changed] ^= 1
            path.write_bytes(data if changed is not None else data + b"x")

    data = random.Random(0).randbytes((1 << 20) + 5)
    with fsio.use_file_system(Flipping()), pytest.raises(SaveError, match="reading it back"):
        fsio.write_new_dir(tmp_path / "new", {"a": [data]}, ("m", lambda _: b"end"))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_takes_nothing_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    class Odd(fsio.FileSystem):
        def open(self, path: Path, mode: str, buffering: int = -1) -> IO[Any]:
            return _Odd(super().open(path, mode, buffering), most=0)  # type: ignore[return-value]

    with fsio.use_file_system(Odd()), pytest.raises(SaveError, match="nothing was written"):
        fsio.write_new_dir(tmp_path / "new", {"a": [b"1"]}, ("m", lambda _: b"end"))
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_is_under_way_when_the_interpreter_ends_is_finished(tmp_path: Path) -> None:
    code = (
        "import sys, threading, time; from pathlib import Path; from vitrail import fsio\n"
        "def save():\n"
        "    time.sleep(0.5)\n"
        "    fsio.write_new_dir(Path(sys.argv[1]), {'a': [b'1']}, ('m', lambda sums: sums['a'].encode()))\n"
        "threading.Thread(target=save).start()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")], check=True)
    assert (tmp_path / "new" / "m").read_text() == hashlib.sha256(b"1").hexdigest()
