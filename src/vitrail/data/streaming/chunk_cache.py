"""Fetched chunks on the disk of a machine: a file each, shared by all processes, never more than a limit.

A file gets its name, `KEY-SIZE`, only when it is whole. Three kinds of locks, all of them dropped by the kernel when a
process dies: one of `locks/` while a chunk is fetched, so that one process does it; a shared one on the chunk while it
is read, so that it is not evicted; `lock` while room is made and a file begun. What a killed process began is found by
its lock being free, and deleted by the next process that starts or needs room.
"""

import contextlib
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vitrail import fsio
from vitrail.errors import ConfigError
from vitrail.reading import open_regular, read_regular

_FILE = re.compile(r"([0-9a-f]{32})-(\d{1,10})")
_BEGUN = re.compile(r"\.([0-9a-f]{32})-(\d{1,10})\.tmp-[0-9a-f]{8}")
_NUM_LOCKS = 1024
_ROOM_LEFT = 256 << 20
"""Of the disk, which the cache never takes."""
_PATIENCE_S, _PAUSE_S = 600.0, 0.02
_AT_ONCE = 0.05
"""Of the limit, is evicted at once where so much is no longer needed: the folder is not listed for each chunk."""

NextUse = Callable[[str], float]
"""By its key, when a chunk is next needed; infinity: not as far as is known."""


@dataclass(frozen=True)
class CachedFile:
    """A whole file of the cache."""

    path: Path
    key: str
    size: int


class ChunkCache:
    """A folder of chunks.

    Args:
        folder: created when missing.
        limit_bytes: of all files together, those that are being written among them.
        largest: size of the largest chunk that will be kept.
    Raises:
        ConfigError: a chunk does not fit in.
        SaveError: the folder cannot be written.
    """

    def __init__(self, folder: Path, limit_bytes: int, largest: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        if largest > limit_bytes:
            raise ConfigError(
                "data.cache_gib is too small for a single chunk.",
                got=f"{limit_bytes / 2**30:.3g} GiB",
                expected=f"more than {largest / 2**30:.3g} GiB",
            )
        fsio.make_dir(folder / "locks")
        with self._locked():
            self._count()

    def path(self, key: str, size: int) -> Path:
        """Of a chunk, by the 32 hexadecimal digits of its key."""
        return self.folder / f"{key}-{size}"

    @contextmanager
    def leased(self, key: str, size: int) -> Iterator[io.FileIO | None]:
        """The file of a chunk, which is not evicted inside the `with` block; None where there is none, or not whole."""
        try:
            file = open_regular(self.path(key, size))
        except OSError:
            yield None
            return
        with file:
            _lock(file, "LOCK_SH")
            yield file if os.fstat(file.fileno()).st_size == size else None

    @contextmanager
    def fetching(self, key: str) -> Iterator[None]:
        """Be the only one of this machine that fetches this chunk; whoever waited looks for the file first."""
        with self._flocked(self._lock_of(key)):
            yield

    def add(self, key: str, data: bytes, next_use: NextUse, *, may_wait: bool) -> bool:
        """Keep a chunk, inside `fetching`.

        Args:
            key: of the chunk.
            data: its bytes.
            next_use: of each chunk. Those that are needed last make room.
            may_wait: take room from chunks that are needed sooner than this one, and wait while all are being read.
        Returns:
            Whether there was room.
        Raises:
            SaveError: it cannot be written.
        """
        path, began = self.path(key, len(data)), time.monotonic()
        while True:
            with ExitStack() as stack:
                with self._locked():
                    file = None
                    if self._make_room(len(data), next_use(key), next_use, may_wait):
                        self._note(self._noted() + len(data))
                        file = stack.enter_context(fsio.writing(path, needed_bytes=len(data)))
                if file is not None:
                    file.write(data)
            if file is not None:
                return True
            if not may_wait or time.monotonic() - began > _PATIENCE_S:
                return False
            time.sleep(_PAUSE_S)

    def has_room(self, key: str, size: int, next_use: NextUse) -> bool:
        """Whether `add` would keep a chunk without waiting, before it is fetched. Raises SaveError."""
        with self._locked():
            return self._make_room(size, next_use(key), next_use, False)

    def remove(self, key: str, size: int) -> None:
        """Forget a chunk that turned out to be damaged."""
        fsio.remove(self.path(key, size))

    # ---- room ----------------------------------------------------------------------------------------------------

    def _files(self) -> tuple[list[CachedFile], int]:
        """The whole files, and bytes of those that are being written. What nobody writes any more is deleted."""
        whole: list[CachedFile] = []
        begun = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if found := _FILE.fullmatch(entry.name):
                    whole.append(CachedFile(Path(entry.path), found[1], int(found[2])))
                elif found := _BEGUN.fullmatch(entry.name):
                    if self._is_free(self._lock_of(found[1])):
                        fsio.remove(Path(entry.path))
                    else:
                        begun += int(found[2])
        return whole, begun

    def _count(self) -> list[CachedFile]:
        """The whole files; the sum of all is noted, so that the folder need not be listed for each chunk."""
        whole, begun = self._files()
        self._note(sum(file.size for file in whole) + begun)
        return whole

    def _noted(self) -> int:
        """Bytes of all files, at least: a process that was killed may have noted one that it did not write."""
        try:
            return int(read_regular(self.folder / "usage", 32))
        except (OSError, ValueError):
            self._count()
            return int(read_regular(self.folder / "usage", 32))

    def _note(self, total: int) -> None:
        fsio.write_tail(self.folder / "usage", 0, f"{total}\n".encode())

    def _make_room(self, size: int, needed_at: float, next_use: NextUse, must: bool) -> bool:
        """Evict what is needed later than `needed_at`, or else, if it must be, anything that nobody reads."""
        total, free = self._noted(), fsio.free_bytes(self.folder) - _ROOM_LEFT
        if total + size > self.limit_bytes or size > free:
            whole = self._count()
            short = max(self._noted() + size - self.limit_bytes, size - free)
            spare = int(_AT_ONCE * self.limit_bytes)
            for use, _, file in sorted(((next_use(f.key), f.key, f) for f in whole), key=lambda t: t[:2], reverse=True):
                is_later = use > needed_at
                is_enough = short <= 0 and (not is_later or short - file.size < -spare)
                if is_enough or not (is_later or must):
                    break
                if self._evict(file):
                    short -= file.size
            self._count()
            if short > 0:
                return False
        return True

    def _evict(self, file: CachedFile) -> bool:
        """Delete a file unless somebody reads it."""
        with contextlib.suppress(OSError), open_regular(file.path) as opened:
            if not _lock(opened, "LOCK_EX", wait=False):
                return False
            fsio.remove(file.path)
        return True

    # ---- locks ---------------------------------------------------------------------------------------------------

    def _lock_of(self, key: str) -> Path:
        return self.folder / "locks" / f"{int(key[:8], 16) % _NUM_LOCKS:04}"

    def _touch(self, path: Path) -> None:
        if not path.exists():
            fsio.append_bytes(path, b"")

    @contextmanager
    def _flocked(self, path: Path) -> Iterator[None]:
        self._touch(path)
        with open(path, "rb") as file:
            _lock(file, "LOCK_EX")
            yield

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return self._flocked(self.folder / "lock")

    def _is_free(self, path: Path) -> bool:
        """Whether nobody holds a lock."""
        if not path.exists():
            return True
        with open(path, "rb") as file:
            return _lock(file, "LOCK_EX", wait=False)


def _lock(file: IO[bytes] | io.FileIO, kind: str, *, wait: bool = True) -> bool:
    """Lock an open file until it is closed; whether that was possible at once, where it is not waited for."""
    import fcntl  # which not every system has

    try:
        fcntl.flock(file, getattr(fcntl, kind) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
