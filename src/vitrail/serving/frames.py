"""What the server and its decoders say to each other: frames of a JSON object and bytes, over a socket.

A frame is 8 bytes, the lengths of the two parts as big-endian 32-bit integers, then the JSON object in UTF-8, then the
bytes. Nothing is pickled: a decoder reads strangers' files, and what it answers is checked as a stranger's is.
"""

import json
import struct
from typing import Any, NamedTuple

_LENGTHS = struct.Struct("!II")
LARGEST_HEADER = 1 << 20
"""Bytes of the JSON object."""


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    data: bytes


class FrameError(ValueError):
    """What came is no frame, or a larger one than was agreed on."""


def packed(header: dict[str, Any], data_bytes: int = 0) -> bytes:
    """The beginning of a frame, after which so many bytes are to be sent."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(text), data_bytes) + text


class FrameReader:
    """Frames from the pieces in which a stream of them arrives.

    Args:
        largest_data: bytes of the second part, at most.
    """

    def __init__(self, largest_data: int) -> None:
        self.largest_data = largest_data
        self._waiting = bytearray()

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing of a next frame has come yet."""
        return not self._waiting

    def add(self, piece: bytes) -> list[Frame]:
        """Take what came; the frames that are complete with it. Raises FrameError."""
        self._waiting += piece
        found: list[Frame] = []
        while (frame := self._next()) is not None:
            found.append(frame)
        return found

    def _next(self) -> Frame | None:
        waiting = self._waiting
        if len(waiting) < _LENGTHS.size:
            return None
        header_bytes, data_bytes = _LENGTHS.unpack_from(waiting)
        if header_bytes > LARGEST_HEADER or data_bytes > self.largest_data:
            raise FrameError(f"a frame of {header_bytes} and {data_bytes} bytes")
        start = _LENGTHS.size + header_bytes
        if len(waiting) < start + data_bytes:
            return None
        try:
            header = json.loads(waiting[_LENGTHS.size : start])
        except (ValueError, RecursionError) as error:
            raise FrameError("no JSON") from error
        if not isinstance(header, dict):
            raise FrameError("no JSON object")
        data = bytes(memoryview(waiting)[start : start + data_bytes])
        del waiting[: start + data_bytes]
        return Frame(header, data)
