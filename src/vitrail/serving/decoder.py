"""A process that reads what strangers sent: JSON and image files to pixels. It may die, and is replaced.

    python -P -m vitrail.serving.decoder DESCRIPTOR

It speaks frames (`frames.py`) over the socket that it was given, has no other file open, and ends with the socket. Of
memory it can take what the largest allowed image needs and a little more. In: a first frame with the settings, then
one for each request, its body being the data. Out: for each image a frame, then one that says what else was asked for.
"""

import importlib.util
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from vitrail.config import Preprocessing, from_json
from vitrail.data.decode import Limits as ImageLimits
from vitrail.data.decode import load_image
from vitrail.data.formats import format_of
from vitrail.errors import ImageError, shown
from vitrail.serving.bodies import Body, BodyError, Limits, read_body
from vitrail.serving.frames import Frame, FrameReader, packed
from vitrail.serving.options import DECODING_SECONDS

_PIECE = 1 << 20
_SPARE_BYTES = 512 << 20
_BYTES_A_PIXEL = 20
"""That decoding takes at most (data/decode.py)."""


def main() -> int:
    """Answer requests until the socket is closed."""
    # The server alone decides when a decoder ends: Ctrl-C and service managers signal every process of a group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    link = socket.socket(fileno=int(sys.argv[1]))
    frames = _frames(link, FrameReader(1 << 30))
    decoder = Decoder(next(frames).header)
    _limit_memory(_SPARE_BYTES + _BYTES_A_PIXEL * decoder.image_limits.max_pixels)
    link.sendall(packed({"ready": True}))
    for frame in frames:
        _limit_time()
        for header, pixels in decoder.answers(frame):
            data = b"" if pixels is None else pixels.data.cast("B")
            link.sendall(packed(header, len(data)))
            if len(data):
                link.sendall(data)
    return 0


class Decoder:
    """Requests to pixels.

    Args:
        settings: `preprocessing`, `max_pixels`, `max_images`, `max_body` in JSON.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.preprocessing = from_json(Preprocessing, settings["preprocessing"])
        height, width = self.preprocessing.decode_size
        self.limits = Limits(settings["max_images"], (self.preprocessing.num_channels, height, width))
        self.image_limits = ImageLimits(max_bytes=settings["max_body"], max_pixels=settings["max_pixels"])

    def answers(self, frame: Frame) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        """The frames that answer a request: one an image, then the last."""
        asked = frame.header
        try:
            body = read_body(
                frame.data, asked["kind"], self.limits,
                is_json=asked["is_json"], header_length=asked["header_length"], tensor=asked["tensor"],
            )  # fmt: skip
        except BodyError as error:
            named = {"error": error.error, "got": error.got, "expected": error.expected, "do": error.do}
            yield {"refused": named, "status": error.status}, None
            return
        except MemoryError:
            yield {"refused": {"error": "The body takes more memory than a request may have."}, "status": 413}, None
            return
        yield from self._images(body)
        yield {"asked": body.asked}, None

    def _images(self, body: Body) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        if body.pixels is not None:
            for i, pixels in enumerate(body.pixels):
                yield {"index": i}, pixels
        for i, data in enumerate(body.images):
            try:
                pixels = load_image(data, self.preprocessing, name="image", limits=self.image_limits, with_torch=False)
                yield {"index": i}, pixels
                _limit_time()
            except ImageError as error:
                status = 422 if _is_read_here(data) else 415
                yield {"index": i, "error": shown(error.reason, 300), "status": status}, None
            body.images[i] = b""


def _is_read_here(data: bytes) -> bool:
    """Whether this is an image of a format that is read with what is installed."""
    kind = format_of(data)
    return kind is not None and (kind != "HEIC" or importlib.util.find_spec("pillow_heif") is not None)


def _frames(link: socket.socket, reader: FrameReader) -> Iterator[Frame]:
    while piece := link.recv(_PIECE):
        yield from reader.add(piece)


def _limit_time() -> None:
    """Let this process compute so many seconds more; a busy machine makes no image suspicious."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    most = math.ceil(time.process_time()) + DECODING_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _limit_memory(more_bytes: int) -> None:
    """Let this process have so many bytes of address space more than it has now."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/statm", "rb") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, now + more_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
