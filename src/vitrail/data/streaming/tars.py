"""Tar headers: where the content of each member of a shard is. ustar, GNU long names and PAX are read.

Source: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vitrail.errors import shown

BLOCK = 512
_MAX_EXTENDED_BYTES = 1 << 20
"""Of a long name or of PAX records."""
_TRAILER_BYTES = 1 << 20
"""Behind the end mark this much is looked at: writers fill a record of 10 KiB up to 1 MiB with zeros."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_RECORD = re.compile(rb"([0-9]{1,7}) ([^=]+)=")


class Forward:
    """A shard that is read from front to back, a piece at a time.

    Args:
        fetch: gives the bytes from an offset on, of a length.
        size: of the shard, in bytes.
        piece: bytes that are fetched at once, at least.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, piece: int) -> None:
        self._fetch, self.size, self.piece = fetch, size, piece
        self._start, self._held = 0, b""

    def read(self, offset: int, length: int) -> bytes:
        """These bytes. Raises ValueError where the shard ends before."""
        if offset + length > self.size:
            raise ValueError(f"it ends after {self.size} bytes, inside a member")
        at = offset - self._start
        if not 0 <= at <= len(self._held) - length:
            self._held = self._fetch(offset, min(max(length, self.piece), self.size - offset))
            self._start, at = offset, 0
            if len(self._held) < length:
                raise ValueError(f"{len(self._held)} bytes where {length} should be; it is being changed")
        return self._held[at : at + length]


@dataclass(frozen=True)
class Member:
    """A regular file in a tar.

    Args:
        name: as stored.
        start: of its first header.
        offset: of its content.
        size: of its content, in bytes.
    """

    name: bytes
    start: int
    offset: int
    size: int

    @property
    def stop(self) -> int:
        """Where the next header begins."""
        return self.offset + _padded(self.size)


def members_of(shard: Forward, notes: list[str]) -> Iterator[Member]:
    """The regular files in a tar, in order.

    Args:
        shard: the tar.
        notes: where oddities are added that do no harm.
    Raises:
        ValueError: it is damaged, or of a kind in which members cannot be found by place and length.
    """
    at = start = 0
    long_name: bytes | None = None
    records: dict[bytes, bytes] = {}
    while at < shard.size:
        header = shard.read(at, BLOCK)
        if not header.strip(b"\0"):
            _check_end(shard, at)
            return
        _check_header(header, at)
        kind, size = header[156:157], _number(header[124:136])
        if kind in b"LKxXg":
            if size > _MAX_EXTENDED_BYTES:
                raise ValueError(f"a header of {size} bytes at {at}")
            content = shard.read(at + BLOCK, size)
            if kind == b"L":
                long_name = content.rstrip(b"\0")
            elif kind in b"xX":
                records = _pax(content)
            elif kind == b"g" and _pax(content).keys() & {b"path", b"size"}:
                raise ValueError("a global header that changes names or sizes")
            at += BLOCK + _padded(size)
            continue
        if kind == b"S" or any(key.startswith(b"GNU.sparse") for key in records):
            raise ValueError("a sparse member: what is stored is not the file; write it with tar without --sparse")
        if kind == b"M":
            raise ValueError("part of a tar of several volumes")
        if b"size" in records:
            size = _decimal(records[b"size"])
        name = records.get(b"path") or long_name or _name(header)
        is_regular = kind in (b"0", b"\0", b"7") and not (kind == b"\0" and name.endswith(b"/"))
        # Links, devices and folders have no content, whatever their size says; kinds that nobody knows have.
        stop = at + BLOCK + (0 if kind in b"123456" and kind != b"\0" else _padded(size))
        if is_regular:
            if at + BLOCK + size > shard.size:
                raise ValueError(f"it ends after {shard.size} bytes, inside the member {text(name)}")
            yield Member(name, start, at + BLOCK, size)
        at = start = stop
        long_name, records = None, {}
    if at > shard.size and at - shard.size >= BLOCK:
        raise ValueError(f"it ends after {shard.size} bytes, inside a member")
    if start != at:
        raise ValueError("it ends behind a long name, without the member")
    notes.append("ends without an end mark")


def _check_header(header: bytes, at: int) -> None:
    """Raise ValueError where the sum over a header is another one than it says."""
    unsigned = sum(header) - sum(header[148:156]) + 8 * 32
    try:
        expected = _number(header[148:156])
    except ValueError:
        expected = -1
    if expected != unsigned:
        # Some old writers took the bytes for signed ones.
        signed = unsigned - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
        if expected != signed:
            if at == 0:
                kind = next((name for magic, name in _COMPRESSED.items() if header.startswith(magic)), None)
                if kind:
                    raise ValueError(f"compressed by {kind}: single images cannot be read out of it; unpack it first")
                raise ValueError(f"it does not begin with the header of a tar but with {header[:8]!r}")
            raise ValueError(f"no header at {at}, where one should be")


def _check_end(shard: Forward, at: int) -> None:
    """Raise ValueError where something stands behind the end mark, as when two tars were put together by `cat`."""
    left = min(shard.size - at, _TRAILER_BYTES)
    while left > 0:
        length = min(left, shard.piece)
        if shard.read(at, length).strip(b"\0"):
            raise ValueError("data behind its end mark: two tars in one file; join them with tar --concatenate")
        at, left = at + length, left - length


def _number(raw: bytes) -> int:
    """A field of a header: octal digits, or with the highest bit a binary number."""
    if raw[0] & 128:
        if raw[0] != 128:
            raise ValueError("a negative size")
        return int.from_bytes(raw[1:], "big")
    digits = raw.split(b"\0", 1)[0].strip(b" ")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise ValueError(f"no octal number: {digits!r}")
    return int(digits or b"0", 8)


def _decimal(raw: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,19}", raw):
        raise ValueError(f"no size: {text(raw)}")
    return int(raw)


def _pax(content: bytes) -> dict[bytes, bytes]:
    """PAX records, each `length key=value` and a line feed."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(content) and content[at]:
        head = _RECORD.match(content, at)
        stop = at + int(head[1]) if head else 0
        if not head or not head.end() < stop <= len(content) or content[stop - 1] != 10:
            raise ValueError("PAX records that cannot be read")
        found[head[2]] = content[head.end() : stop - 1]
        at = stop
    return found


def _name(header: bytes) -> bytes:
    name, prefix = (header[start:stop].split(b"\0", 1)[0] for start, stop in ((0, 100), (345, 500)))
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def text(raw: bytes) -> str:
    """A name for a message, in quotes."""
    return repr(shown(raw.decode(errors="surrogateescape"), 80))
