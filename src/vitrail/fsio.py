"""The only code of the package that writes, renames, deletes, creates directories or fsyncs.

A file appears under its final name whole or not at all: it is written under a temporary name in the same directory,
flushed to the disk, renamed, and the directory is flushed too. Every operation goes through one replaceable
`FileSystem`, so a test can record the operations or make any one of them fail.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from vitrail.direct_io import PageAligned, blocks, bypass_cache, moved
from vitrail.errors import RunError, SaveError

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileSystem:
    """The real operations, one method each; tests replace it through `use_file_system`."""

    def open(self, path: Path, mode: str, buffering: int = -1) -> IO[Any]:
        return open(path, mode, buffering, encoding=None if "b" in mode else "utf-8")

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

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def truncate(self, file: IO[Any], length: int) -> None:
        file.truncate(length)

    def touch(self, path: Path) -> None:
        os.utime(path)

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
def writing(path: Path, mode: str = "wb", needed_bytes: int = 0) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on leaving the block it is flushed and takes the final name.

    Args:
        path: final name; its directory is created when missing.
        mode: "wb", "w+b" or "w".
        needed_bytes: what will be written, for the message of a full disk.
    Raises:
        SaveError: the disk is full, read-only or broken. The temporary file is removed and whatever stood under
            `path` before is intact.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    with _explained(path, needed_bytes):
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
    with writing(path, needed_bytes=len(data)) as file:
        file.write(data)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically. NaN and infinity are refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_tail(path: Path, start: int, data: bytes) -> None:
    """Cut a log file off at `start` bytes and append `data`: what an earlier, torn write left there goes.

    Args:
        path: created when missing.
        start: length of the part that is kept.
        data: what comes after it.
    Raises:
        SaveError: it could not be written; the first `start` bytes are intact.
    """
    with _explained(path):
        _file_system.mkdir(path.parent)
        new = not path.exists()
        with _file_system.open(path, "ab" if new else "r+b") as file:
            _file_system.truncate(file, start)
            file.seek(start)
            file.write(data)


def flush_to_disk(path: Path) -> None:
    """Wait until a file and its name would survive a loss of power. Raises SaveError."""
    with _explained(path):
        with _file_system.open(path, "r+b") as file:
            _file_system.fsync(file)
        _file_system.fsync_dir(path.parent)


def create_exclusively(path: Path, data: bytes) -> bool:
    """Create a whole file unless one of this name exists, atomically, for several processes at once.

    Returns:
        Whether this call created it.
    Raises:
        SaveError: it could not be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    with _explained(path):
        _file_system.mkdir(path.parent)
        try:
            with _file_system.open(temporary, "wb") as file:
                file.write(data)
            _file_system.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            _file_system.unlink(temporary)
    return True


def free_bytes(directory: Path) -> int:
    """Room on the disk of a directory, which need not exist yet. Raises SaveError."""
    with _explained(directory):
        existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
        return _file_system.free_bytes(existing)


def touch(path: Path) -> None:
    """Set the time of last change to now. Raises SaveError, also when there is no such file."""
    with _explained(path):
        _file_system.touch(path)


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


def write_new_dir(
    final: Path, files: Mapping[str, Sequence[bytes | memoryview]], last: tuple[str, Callable[[dict[str, str]], bytes]]
) -> None:
    """Write a directory of files so that it appears under its final name complete or not at all.

    Written under a temporary name in the same parent, each file and the directory flushed to the disk, read back and
    compared, renamed, the parent flushed. A second thread computes the hashes meanwhile. Whole blocks go past the
    memory that the system keeps of files, where the file system allows it.

    Args:
        final: its name; nothing may stand there.
        files: name to the pieces of the content, in the order of writing.
        last: name of one more file, and what gives its content from the SHA-256 of each of `files`.
    Raises:
        SaveError: it could not be written, or reading it back gave something else. Nothing is left of it.
    """
    temporary = final.with_name(f"{final.name}.tmp-{uuid.uuid4().hex[:8]}")
    needed = sum(memoryview(piece).nbytes for pieces in files.values() for piece in pieces)
    with _explained(final, needed), ThreadPoolExecutor(1, "hashing") as hashing:
        _file_system.mkdir(temporary.parent)
        if _file_system.free_bytes(temporary.parent) < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            _file_system.mkdir(temporary)
            digests = {name: _begun(hashing, pieces) for name, pieces in files.items()}
            for name, pieces in files.items():
                _write_and_read_back(temporary / name, pieces)
            name, content = last
            _write_and_read_back(temporary / name, [content({file: digest() for file, digest in digests.items()})])
            _file_system.fsync_dir(temporary)
            _file_system.replace(temporary, final)
        except BaseException:
            hashing.shutdown(wait=False, cancel_futures=True)
            with contextlib.suppress(OSError):
                _file_system.rmtree(temporary)
            raise
        _file_system.fsync_dir(final.parent)


def _write_and_read_back(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    """Write a file, flush it, and make sure that the disk has it. Raises OSError."""
    memory = PageAligned()
    with _file_system.open(path, "wb", 0) as file:
        bypass_cache(file, True)
        for parts in blocks(pieces):
            block = memory.filled(parts)
            while block:
                count = moved(file, file.write, block)
                if not count:
                    raise OSError(errno.EIO, "nothing was written, and no reason given")
                block = block[count:]
        _file_system.fsync(file)
    if not _holds(path, pieces, memory):
        raise OSError(errno.EIO, "reading it back gave other bytes than were written")


def _holds(path: Path, pieces: Sequence[bytes | memoryview], memory: PageAligned) -> bool:
    """Whether the disk has exactly these bytes; comparing takes a fifth of the time of a second hash."""
    with open(path, "rb", 0) as file:
        _forget(file)
        bypass_cache(file, True)
        for parts in blocks(pieces):
            block = memory.view[: sum(map(len, parts))]
            while block and (count := moved(file, file.readinto, block)):
                block = block[count:]
            if block or not memory.holds(parts):
                return False
        return file.tell() == os.fstat(file.fileno()).st_size


def _begun(thread: ThreadPoolExecutor, pieces: Sequence[bytes | memoryview]) -> Callable[[], str]:
    """What gives the SHA-256, computed in a thread from now on, or when asked for while the interpreter ends."""
    try:
        return thread.submit(_sha256_of, pieces).result
    except RuntimeError:
        return lambda: _sha256_of(pieces)


def _sha256_of(pieces: Sequence[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _forget(file: IO[Any]) -> None:
    """Ask the operating system to forget what it keeps of a file in memory, so that the disk is read."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rename(source: Path, target: Path) -> None:
    """Give a file or directory another name in the same directory and flush that. Raises SaveError."""
    with _explained(target):
        _file_system.replace(source, target)
        _file_system.fsync_dir(target.parent)


def remove_dir(path: Path) -> None:
    """Delete a directory that others may look for: renamed first, so that it is there whole or not at all."""
    doomed = path.with_name(f"{path.name}.del-{uuid.uuid4().hex[:8]}")
    with _explained(path):
        _file_system.replace(path, doomed)
        _file_system.fsync_dir(path.parent)
        _file_system.rmtree(doomed)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError when it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Delete a file, or a directory with everything in it; nothing there is no error."""
    with _explained(path):
        if path.is_dir() and not path.is_symlink():
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
def _explained(path: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn an OSError into a SaveError that names the path, the reason, and the room needed and left."""
    try:
        yield
    except SaveError:
        raise
    except OSError as error:
        got = reason = error.strerror or str(error)
        if error.errno in _FULL_DISK:
            with contextlib.suppress(OSError):
                existing = next(parent for parent in (path, *path.parents) if parent.exists())
                got = f"{reason}, {_file_system.free_bytes(existing) / 2**20:.1f} MiB free"
        needed = f" for {needed_bytes / 2**20:.1f} MiB" if needed_bytes else " for it"
        raise SaveError(
            f"{path}: could not be written.",
            got=got,
            expected=f"a writable place with room{needed}",
            do="What was saved before is intact. Free some space, or choose another place.",
        ) from error
