"""Reading what a stranger wrote: regular files up to a limit, and JSON that fails in one way.

The counterpart of fsio, which writes. Whatever is wrong is an OSError or a ValueError with a short reason; the room
that asked turns it into an error of its own.
"""

import errno
import io
import json
import math
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 32 << 20
"""Of a JSON file that describes something; the longest honest ones, indices of sharded models, have a few MB."""

DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""What reading ends in, in our code or a library's, when a file is not what it says: RecursionError, OverflowError and
UnicodeError are among them."""


def open_regular(path: Path) -> io.FileIO:
    """Open a regular file for reading, unbuffered.

    A pipe would block and a device might never end: both are refused, and without opening them for good.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    descriptor = os.open(path, flags)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return io.FileIO(descriptor)
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a regular file; memory is taken for what it has, never for more than `limit` bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than `limit` bytes.
    """
    parts: list[bytes] = []
    with open_regular(path) as file:
        # A file may have more than it says (/proc), so the limit holds for what comes.
        room, step = limit + 1, max(os.fstat(file.fileno()).st_size, 4096) + 1
        while part := file.read(min(room, step)):
            parts.append(part)
            room -= len(part)
    if not room:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return b"".join(parts)


def parsed_json(raw: bytes | str, *, finite: bool = False) -> Any:
    """The value of a JSON text, in which no object has a name twice.

    Args:
        finite: refuse NaN and Infinity, which are no JSON; other libraries write them, and we do not.
    Raises:
        ValueError: it is no JSON, not UTF-8, nested too deeply, or has a name twice; the message is short.
    """
    numbers: dict[str, Any] = {"parse_constant": _finite, "parse_float": _finite} if finite else {}
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        return json.loads(text, object_pairs_hook=_unique, **numbers)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from error


def read_json_object(path: Path, limit: int = MAX_JSON_BYTES, *, finite: bool = False) -> dict[str, Any]:
    """The object in a JSON file; `finite` as in `parsed_json`.

    Raises:
        OSError: as `read_regular`.
        ValueError: as `parsed_json`, or the text is another value than an object.
    """
    value = parsed_json(read_regular(path, limit), finite=finite)
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {type(value).__name__}")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} is there twice")
    return found
