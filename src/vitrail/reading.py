"""Reading what a stranger wrote: regular files up to a limit, and JSON that fails in one way.

The counterpart of fsio, which writes. Whatever is wrong is an OSError or a ValueError with a short reason; the room
that asked turns it into an error of its own.
"""

import errno
import io
import json
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
    file = io.FileIO(os.open(path, flags))
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
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


def parsed_json(raw: bytes | str) -> Any:
    """The value of a JSON text, in which no object has a name twice.

    Raises:
        ValueError: it is no JSON, not UTF-8, nested too deeply, or has a name twice; the message is short.
    """
    try:
        return json.loads(raw.decode("utf-8") if isinstance(raw, bytes) else raw, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from error


def read_json_object(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: as `read_regular`.
        ValueError: as `parsed_json`, or the text is another value than an object.
    """
    value = parsed_json(read_regular(path, limit))
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} is there twice")
    return found
