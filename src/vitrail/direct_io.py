"""Large blocks between memory and a disk, past the memory that the system keeps of files.

It saves a copy of every byte, and whole pages that are read come from the disk. Where a file system or a system
cannot, the same calls go through the cache.
"""

import errno
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

BLOCK_BYTES = 512 << 10


def blocks(pieces: Sequence[bytes | memoryview]) -> Iterator[list[memoryview]]:
    """The bytes of `pieces` without a copy, cut so that each list but the last has `BLOCK_BYTES`."""
    parts: list[memoryview] = []
    room = BLOCK_BYTES
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            parts.append(rest[:room])
            rest, room = rest[room:], room - len(parts[-1])
            if not room:
                yield parts
                parts, room = [], BLOCK_BYTES
    if parts:
        yield parts


class PageAligned:
    """Memory for one block that begins with a page, as reading and writing past the cache ask for.

    It is shared memory: what goes past the cache into private memory must not meet a fork (open(2), O_DIRECT).
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, BLOCK_BYTES)
        self.view = memoryview(self._memory)

    def filled(self, parts: Sequence[memoryview]) -> memoryview:
        """Copy `parts`, at most a block, one behind the other, and give what they fill."""
        at = 0
        for part in parts:
            self.view[at : at + len(part)] = part
            at += len(part)
        return self.view[:at]

    def holds(self, parts: Sequence[memoryview]) -> bool:
        """Whether the block begins with exactly these bytes."""
        at = 0
        for part in parts:
            if self._memory.find(part, at, at + len(part)) != at:  # many times faster than == of two memoryviews
                return False
            at += len(part)
        return True


def bypass_cache(file: IO[Any], wanted: bool) -> bool:
    """Let an unbuffered file be read or written past the system's memory of files, or not; whether that changed."""
    direct: int = getattr(os, "O_DIRECT", 0)
    if not direct:
        return False
    import fcntl

    flags = fcntl.fcntl(file.fileno(), fcntl.F_GETFL)
    if bool(flags & direct) == wanted:
        return False
    try:
        fcntl.fcntl(file.fileno(), fcntl.F_SETFL, flags ^ direct)
    except OSError:  # this file system cannot
        return False
    return True


def moved(file: IO[Any], operation: Callable[[memoryview], int], block: memoryview) -> int:
    """Read into or write `block`, through the cache where the file system refuses it, as for part of a page."""
    if len(block) % mmap.PAGESIZE:
        bypass_cache(file, False)
    try:
        return operation(block)
    except OSError as error:
        if error.errno != errno.EINVAL or not bypass_cache(file, False):
            raise
        return operation(block)
