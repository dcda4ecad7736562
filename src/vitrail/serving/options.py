"""What the server is told when it starts: where it listens, and what a request may cost."""

import math
from dataclasses import dataclass

from vitrail.config.checks import require

LARGEST_HEADERS = 16 << 10
"""Bytes of the headers of a request."""
HEADER_SECONDS = 10.0
"""From a connection's first byte, or its start, until the headers of a request are there."""
BODY_SECONDS, BODY_BYTES_A_SECOND, LONGEST_BODY_SECONDS = 10.0, 16 << 10, 120.0
"""A body has 10 s, one more for each 16 KiB that has come, 120 s in all."""
CROWDED_BODY_SECONDS = 2.0
"""In place of the 10 s where all connections are taken."""
IDLE_SECONDS = 30.0
"""Between two requests of one connection."""
WRITING_SECONDS = 20.0
"""For a client to take what it was answered."""
LEAST_BODY_MEMORY = 64 << 20
"""Bytes of bodies, of all requests together; three times the largest body where that is more."""
DECODING_SECONDS, LONGEST_DECODING_SECONDS = 5, 30.0
"""For one image: of computation, and by the clock; a decoder that takes longer is killed."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where the server listens, and what it takes. Times are in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: one that is free."""
    name: str = ""
    """Of the model in the answers; empty: that of its file."""
    threads: int = 0
    """That compute the model; 0: one a core that this process may use."""
    decoders: int = 0
    """Processes that decode images; 0: one a core, at most 4."""
    max_batch: int = 0
    """Images computed together, at most; 0: measured when the server starts."""
    batch_wait: float = 0.0
    """How long to wait for further images when fewer than max_batch are there."""
    timeout: float = 30.0
    """From the last byte of a request to its answer."""
    max_body: int = 20_000_000
    max_pixels: int = 50_000_000
    max_images: int = 16
    """Of one request."""
    max_connections: int = 512
    queue_seconds: float = 5.0
    """A request that would wait longer is refused at once."""
    drain: float = 10.0
    """After SIGTERM, for the requests that were accepted."""
    drain_delay: float = 0.0
    """After SIGTERM, before the port is closed: a balancer needs a while to notice."""
    allow_host: tuple[str, ...] = ()
    """Names under which the server may be addressed; "*": any."""
    allow_origin: tuple[str, ...] = ()
    """Origins (https://example.com) whose pages may ask."""
    token: str = ""
    """What clients have to send as `Authorization: Bearer TOKEN`; empty: nothing."""
    explain: bool = True
    page: bool = True
    log: str = "text"
    """text or json."""

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, "port", self.port, "0 to 65535")
        for name, most in (("threads", 1024), ("decoders", 64), ("max_batch", 1024)):
            require(0 <= getattr(self, name) <= most, name, getattr(self, name), f"0 to {most}")
        for name, most in (("max_images", 1024), ("max_connections", 100_000)):
            require(1 <= getattr(self, name) <= most, name, getattr(self, name), f"1 to {most}")
        require(1 <= self.max_body <= 1 << 30, "max_body", self.max_body, f"1 to {1 << 30} bytes")
        require(1 <= self.max_pixels <= 10**9, "max_pixels", self.max_pixels, f"1 to {10**9}")
        for name in ("timeout", "queue_seconds"):
            value = getattr(self, name)
            require(math.isfinite(value) and 0 < value <= 3600, name, value, "seconds above 0, at most 3600")
        for name in ("batch_wait", "drain", "drain_delay"):
            value = getattr(self, name)
            require(math.isfinite(value) and 0 <= value <= 3600, name, value, "seconds from 0 to 3600")
        require(self.log in ("text", "json"), "log", self.log, "text or json")

    @property
    def body_memory(self) -> int:
        """Bytes of bodies that are held at a time, of all requests together."""
        return max(LEAST_BODY_MEMORY, 3 * self.max_body)
