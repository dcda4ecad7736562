"""The only code of the package that writes, renames, deletes, creates directories or fsyncs.

A file appears under its final name whole or not at all: it is written under a temporary name in the same directory,
flushed to the disk, renamed, and the directory is flushed too. Every operation goes through one replaceable
`FileSystem`, so a test can record the operations or make any one of them fail.
"""

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vitrail.errors import RunError, SaveError

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileSystem:
    """The real operations, one method each; tests replace it through `use_file_system`."""

    def open(self, path: Path, mode: str) -> IO[Any]:
        return open(path, mode, encoding=None if "b" in mode else "utf-8")

    def fsync(self, file: IO[Any]) -> None:
        file.flush()
        os.fsync(file.fileno())

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def fsync_dir(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def mkdir(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rmtree(self, path: Path) -> None:
        shutil.rmtree(path)

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free


_file_system = FileSystem()


@contextlib.contextmanager
def use_file_system(file_system: FileSystem) -> Iterator[None]:
    """Send every operation to another `FileSystem` for the length of a `with` block (tests)."""
    global _file_system
    previous, _file_system = _file_system, file_system
    try:
        yield
    finally:
        _file_system = previous


@contextlib.contextmanager
def writing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on leaving the block it is flushed and takes the final name.

    Args:
        path: final name; its directory is created when missing.
        mode: "wb", "w+b" or "w".
    Raises:
        SaveError: the disk is full, read-only or broken. The temporary file is removed and whatever stood under
            `path` before is intact.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    with _explained(path):
        _file_system.mkdir(path.parent)
        try:
            with _file_system.open(temporary, mode) as file:
                yield file
                _file_system.fsync(file)
            _file_system.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                _file_system.unlink(temporary)
            raise
        _file_system.fsync_dir(path.parent)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file atomically. Raises SaveError as `writing` does."""
    with writing(path) as file:
        file.write(data)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically. NaN and infinity are refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def append_line(path: Path, line: str) -> None:
    """Append one line to a log file and hand it to the operating system at once.

    Raises:
        SaveError: the line could not be written.
    """
    with _explained(path):
        _file_system.mkdir(path.parent)
        with _file_system.open(path, "a") as file:
            file.write(line + "\n")


def append_bytes(path: Path, data: bytes) -> None:
    """Append to a file that is not finished yet, as a download; `rename_file` finishes it. Raises SaveError."""
    with _explained(path):
        _file_system.mkdir(path.parent)
        with _file_system.open(path, "ab") as file:
            file.write(data)


def rename_file(source: Path, target: Path) -> None:
    """Flush a finished file to the disk, give it its final name, and flush the directory. Raises SaveError."""
    with _explained(target):
        with _file_system.open(source, "r+b") as file:
            _file_system.fsync(file)
        _file_system.replace(source, target)
        _file_system.fsync_dir(target.parent)


def make_dir(path: Path) -> None:
    """Create a directory and its parents. Raises SaveError when that is impossible."""
    with _explained(path):
        _file_system.mkdir(path)


def rename_dir(source: Path, target: Path) -> None:
    """Give a finished directory its final name and flush the parent."""
    with _explained(target):
        _file_system.replace(source, target)
        _file_system.fsync_dir(target.parent)


def remove(path: Path) -> None:
    """Delete a file, or a directory with everything in it; nothing there is no error."""
    with _explained(path):
        if path.is_dir():
            _file_system.rmtree(path)
        else:
            _file_system.unlink(path)


def check_writable(directory: Path, needed_bytes: int) -> None:
    """Find out before hours of work whether `directory` can be created or written and take `needed_bytes`.

    Leaves nothing behind: a probe file is written and removed in the nearest directory that exists.

    Raises:
        RunError: it cannot be written, or its disk has too little room.
    """
    existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    probe = existing / f".probe-{uuid.uuid4().hex[:8]}"
    try:
        try:
            with _file_system.open(probe, "wb") as file:
                file.write(b"probe")
        finally:
            _file_system.unlink(probe)
        free = _file_system.free_bytes(existing)
    except OSError as error:
        raise RunError(
            f"{directory}: cannot be written.",
            got=f"{existing}: {error.strerror or error}",
            expected="a directory that can be created and written",
            do="Choose another directory with --run.",
        ) from error
    if free < needed_bytes:
        raise RunError(
            f"{directory}: not enough room on the disk.",
            got=f"{free / 2**20:.1f} MiB free",
            expected=f"at least {needed_bytes / 2**20:.1f} MiB",
            do="Free some space, or choose another directory with --run.",
        )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an OSError into a SaveError that names the path, the reason and the room left."""
    try:
        yield
    except SaveError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        got = reason
        if error.errno in _FULL_DISK:
            with contextlib.suppress(OSError):
                existing = next(parent for parent in (path, *path.parents) if parent.exists())
                got = f"{reason}, {_file_system.free_bytes(existing) / 2**20:.1f} MiB free"
        raise SaveError(
            f"{path}: could not be written.",
            got=got,
            expected="a writable place with room for it",
            do="What was saved before is intact. Free some space, or choose another place.",
        ) from error
