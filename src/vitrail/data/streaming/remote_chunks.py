"""Chunks of remote shards: read from the cache of this machine, fetched when they are missing, and before that."""

import atexit
import contextlib
import hashlib
import importlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from vitrail.data.streaming.chunk_cache import ChunkCache
from vitrail.data.streaming.order import StreamOrder
from vitrail.data.streaming.places import printable
from vitrail.data.streaming.reader import LocalObjects, ReadAt
from vitrail.data.streaming.remote import Objects, replaced
from vitrail.data.streaming.row_groups import images_of
from vitrail.data.streaming.table import NO_DIGEST, Table
from vitrail.errors import DataError, SaveError, VitrailError

_AHEAD_BYTES, _THREADS = 512 << 20, 8
_ODD = np.uint64(0x9E3779B97F4A7C15)


class RemoteChunks:
    """Opens the chunks of a table, from several threads.

    Args:
        table: of the shards.
        objects: read them.
        cache: keeps their chunks.
    """

    def __init__(self, table: Table, objects: Objects | LocalObjects, cache: ChunkCache) -> None:
        self.table, self.objects, self.cache = table, objects, cache
        self._keys = _keys_of(table)
        self._by_key = np.argsort(self._keys["high"], kind="stable")
        self._sorted = self._keys["high"][self._by_key]
        self._is_checked = np.zeros(len(self._keys), dtype=bool)
        self._uses = _Uses(len(self._keys))
        self.num_fetched = 0
        _IN_USE.add(self)

    def key(self, number: int) -> str:
        """What the file of a chunk is called by: its digest, or where it is from."""
        high, low = self._keys[number]
        return f"{int(high):016x}{int(low):016x}"

    @contextmanager
    def opened(self, number: int) -> Iterator[ReadAt]:
        """A chunk, for reading. Raises DataError where it cannot be had."""
        self._uses.reach(number)
        size = int(self.table.chunks["size"][number])
        offset = 0 if self.table.kind == "parquet" else int(self.table.chunks["offset"][number])
        with self.cache.leased(self.key(number), size) as file:
            if file is not None and self._is_sound(number, file.fileno()):
                yield lambda at, length: os.pread(file.fileno(), length, at - offset)
                return
        data = memoryview(self._had(number, may_wait=True) or b"")
        yield lambda at, length: bytes(data[at - offset : at - offset + length])

    def follow(
        self, first_chunk: int, order: StreamOrder, later: StreamOrder, position: int, rank: int = 0, num_ranks: int = 1
    ) -> None:
        """Fetch what comes, in the order in which it is needed, and evict by it; replaces what was followed before.

        Args:
            first_chunk: of the split.
            order: of this epoch.
            later: of the next one.
            position: from which training goes on.
            rank, num_ranks: which process this is, of how many that share each batch.
        """
        self._uses = uses = _Uses(len(self._keys), first_chunk, order, later, position, (rank, num_ranks))
        limit = min(_AHEAD_BYTES, self.cache.limit_bytes // 2)

        def work() -> None:
            while (number := uses.next(self.table.chunks["size"], limit)) is not None:
                with contextlib.suppress(VitrailError):  # the reader comes upon it, and says so
                    size = int(self.table.chunks["size"][number])
                    while not self.cache.has_room(self.key(number), size, self._next_use):
                        if not uses.wait():
                            return
                    self._had(number, may_wait=False)

        threading.Thread(
            target=uses.look_further, args=(self.table.chunks["size"], self.cache.limit_bytes), daemon=True
        ).start()
        for _ in range(_THREADS):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """Fetch nothing more ahead, and end what is being fetched; whoever waits for it gets a DataError."""
        self._uses.stop()
        if isinstance(self.objects, Objects):
            self.objects.stop()

    # ---- one chunk -----------------------------------------------------------------------------------------------

    def _had(self, number: int, *, may_wait: bool) -> bytes | None:
        """The bytes of a chunk, which is in the cache afterwards where there is room; None: not needed at once, and it
        is there already.
        """
        key, size = self.key(number), int(self.table.chunks["size"][number])
        with self.cache.fetching(key):
            with self.cache.leased(key, size) as file:  # another process or thread was quicker
                if file is not None and self._is_sound(number, file.fileno()):
                    return os.pread(file.fileno(), size, 0) if may_wait else None
            data = self._fetched(number)
            try:
                self.cache.add(key, data, self._next_use, may_wait=may_wait)
            except SaveError:  # the disk is full or broken; what is needed now is in memory
                if not may_wait:
                    raise
        return data

    def _fetched(self, number: int) -> bytes:
        chunk = self.table.chunks[number]
        shard = self.table.shards[int(chunk["shard"])]
        offset, size = int(chunk["offset"]), int(chunk["size"])
        if self.table.kind == "parquet":
            self.num_fetched += 1
            self._is_checked[number] = True
            return images_of(shard, self.objects.fetch, offset, int(chunk["count"]), size)
        for _ in range(2):
            data = self.objects.fetch(shard, offset, size)
            self.num_fetched += 1
            if _is_whole(data, chunk):
                self._is_checked[number] = True
                return data
        address = f"{self.objects.place}/{shard.name}"
        if self.objects.about(shard.name) != (shard.size, shard.tag):
            raise replaced(address, "another size or ETag")
        raise DataError(
            f"{printable(address)}: other bytes than were indexed, twice.",
            got=f"another digest of {size} bytes at {offset}",
            expected="the bytes that vitrail data index saw",
            do="Upload the shard again, or index it again.",
        )

    def _is_sound(self, number: int, descriptor: int) -> bool:
        """Whether a file of the cache holds the chunk; looked at once in a process, where there is a digest."""
        if not self._is_checked[number]:
            chunk = self.table.chunks[number]
            if not _is_whole(os.pread(descriptor, int(chunk["size"]), 0), chunk):
                self.cache.remove(self.key(number), int(chunk["size"]))
                return False
            self._is_checked[number] = True
        return True

    def _next_use(self, key: str) -> float:
        high = np.uint64(int(key[:16], 16))
        at = int(np.searchsorted(self._sorted, high))
        is_ours = at < len(self._sorted) and self._sorted[at] == high
        return self._uses.next_use(int(self._by_key[at])) if is_ours else np.inf


_IN_USE: "weakref.WeakSet[RemoteChunks]" = weakref.WeakSet()


def stop_all() -> None:
    """End everything that is being fetched in this process, as when it is interrupted or ends."""
    for chunks in tuple(_IN_USE):
        chunks.stop()


# At its exit, Python waits for the threads of executors before it calls `atexit`; these may wait for a chunk. The
# functions registered here are called earlier, the last one first; so the executors' own comes before.
importlib.import_module("concurrent.futures.thread")
getattr(threading, "_register_atexit", atexit.register)(stop_all)


def _is_whole(data: bytes, chunk: np.void) -> bool:
    digest = chunk["digest"].tobytes()
    return len(data) == int(chunk["size"]) and digest in (NO_DIGEST, hashlib.blake2b(data, digest_size=16).digest())


def _keys_of(table: Table) -> np.ndarray:
    """128 bits for each chunk, as two halves: its digest, or hashes of its shard and its place there."""
    keys = np.zeros(len(table.chunks), dtype=[("high", "<u8"), ("low", "<u8")])
    digests = np.frombuffer(np.ascontiguousarray(table.chunks["digest"]).tobytes(), dtype=">u8").reshape(-1, 2)
    about = (f"{table.place}\0{shard.name}\0{shard.size}\0{shard.tag}" for shard in table.shards)
    hashes = [hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest() for text in about]
    shards = np.frombuffer(b"".join(hashes), dtype="<u8")[table.chunks["shard"]]
    is_known = digests.any(axis=1)
    keys["high"] = np.where(is_known, digests[:, 0], shards + table.chunks["offset"] * _ODD)
    keys["low"] = np.where(is_known, digests[:, 1], shards)
    return keys


class _Uses:
    """When each chunk is needed, as far as an order was looked at; for the threads that fetch and those that read.

    Args:
        num_chunks: of the whole table.
        first_chunk, order, later, position, share: as of `RemoteChunks.follow`; without an order nothing is known.
    """

    def __init__(
        self,
        num_chunks: int,
        first_chunk: int = 0,
        order: StreamOrder | None = None,
        later: StreamOrder | None = None,
        position: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._changed = threading.Condition()
        self._first_chunk, self._later, self._share = first_chunk, later, share
        self._loads = order.loads(position, rank=share[0], num_ranks=share[1]) if order else None
        self._length = len(order) if order else 0
        self._first, self._last, self._again = (np.full(num_chunks, -1, dtype=np.int64) for _ in range(3))
        self._progress = position
        self._ahead: deque[tuple[int, int]] = deque()
        self._ahead_bytes = 0
        self._is_stopped = order is None

    def reach(self, number: int) -> None:
        """A chunk is read: the epoch has come at least to its first use."""
        with self._changed:
            if self._first[number] > self._progress:
                self._progress = int(self._first[number])
                while self._ahead and self._ahead[0][0] <= self._progress:
                    self._ahead_bytes -= self._ahead.popleft()[1]
                self._changed.notify_all()

    def next(self, sizes: np.ndarray, limit: int) -> int | None:
        """The next chunk to fetch, when less than `limit` bytes are fetched and not yet in use; None: no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or self._ahead_bytes < limit)
            found = None if self._is_stopped or self._loads is None else next(self._loads, None)
            if found is None:
                return None
            number, first, last = self._first_chunk + found[0], found[1], found[2]
            self._first[number], self._last[number] = first, last
            if first > self._progress:
                self._ahead.append((first, int(sizes[number])))
                self._ahead_bytes += int(sizes[number])
            return number

    def look_further(self, sizes: np.ndarray, limit: int) -> None:
        """Note which chunks the next epoch begins with, as many as the cache holds."""
        rank, num_ranks = self._share
        for number, first, _ in self._later.loads(rank=rank, num_ranks=num_ranks) if self._later else ():
            self._again[self._first_chunk + number] = first
            limit -= int(sizes[self._first_chunk + number])
            if limit < 0 or self._is_stopped:
                return

    def next_use(self, number: int) -> float:
        """The position at which a chunk is needed, those of the next epoch behind those of this one."""
        if self._first[number] < 0:
            return self._length if self._loads is not None else np.inf  # later in this epoch
        if self._last[number] >= self._progress:
            return max(int(self._first[number]), self._progress)
        return self._length + 1 + int(self._again[number]) if self._again[number] >= 0 else np.inf

    def wait(self) -> bool:
        """Until the epoch has gone on, or a while; False: nothing more is to be fetched."""
        with self._changed:
            self._changed.wait(1.0)
            return not self._is_stopped

    def stop(self) -> None:
        """Give out no more chunks."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
