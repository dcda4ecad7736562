"""HTTP/1.1 by uvicorn and h11, with what they leave out: deadlines, limits, and errors in JSON.

uvicorn's own protocol waits for ever for headers, for the rest of a body, and for a client that does not read
(Kludex/uvicorn#157). Here every connection is looked at several times a second, and closed when its time is up.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vitrail.serving.endpoints import new_id
from vitrail.serving.options import (
    BODY_BYTES_A_SECOND,
    BODY_SECONDS,
    CROWDED_BODY_SECONDS,
    HEADER_SECONDS,
    IDLE_SECONDS,
    LARGEST_HEADERS,
    LONGEST_BODY_SECONDS,
    WRITING_SECONDS,
)

SURPLUS = 64
"""Connections beyond the limit that are kept for questions about the server's health."""
SURPLUS_KEY = "surplus"
"""In the state of a request's scope: its connection is one of these."""
_READ_BYTES = 16 << 10
"""At a time, so that a body in chunks of one byte does not hold up the event loop."""
_GRACE_SECONDS = 0.02
"""Before a connection without a request gives its place to another one."""
_FREE_CHUNKS, _CHUNK_BYTES = 1000, 16
"""A body's chunks have to have so many bytes on average, after the first thousand."""


@dataclass
class Crowd:
    """The connections of a server, and how many there may be.

    Args:
        most: the limit.
        on_refused: told the reason when one is closed for what its client did or left undone.
    """

    most: int
    on_refused: Callable[[str], object] = lambda _: None
    open: "set[Connection]" = field(default_factory=set)
    waiting: "OrderedDict[Connection, None]" = field(default_factory=OrderedDict)
    """Those without a request in progress, the one that waits longest first."""

    def look(self) -> None:
        """Close those whose time is up."""
        now = time.monotonic()
        for connection in list(self.open):
            connection.look(now)


class _Parser(h11.Connection):
    """h11, remembering what it would have answered, and counting chunks."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, LARGEST_HEADERS)
        self.status = 400
        self.received = self._pieces = 0

    def next_event(self) -> Any:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.status = error.error_status_hint
            raise
        if isinstance(event, h11.Request):
            self.received = self._pieces = 0
        elif isinstance(event, h11.Data):
            self.received += len(event.data)
            self._pieces += 1
            if self._pieces > _FREE_CHUNKS + self.received // _CHUNK_BYTES:
                raise h11.RemoteProtocolError("the chunks of the body are too small")
        return event


class _Joined:
    """A transport that sends together what is written together: headers and body in one packet."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        if data and not self._pieces:
            self._loop.call_soon(self._flush)
        if data:
            self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces:
            self._transport.write(b"".join(pieces))


class Connection(H11Protocol):
    """One connection.

    Args:
        crowd: all of them.
    """

    def __init__(
        self, crowd: Crowd, config: Config, server_state: ServerState, app_state: dict[str, Any], **rest: Any
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state, **rest)
        self.conn = self._parser = _Parser()
        self._crowd = crowd
        self._since = time.monotonic()
        self._writing_since: float | None = None
        self._closing_since: float | None = None
        self._is_first, self._has_begun = True, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(cast(Any, _Joined(cast(asyncio.Transport, transport), self.loop)))
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        crowd = self._crowd
        crowd.open.add(self)
        if len(crowd.open) > crowd.most and crowd.waiting:
            longest = next(iter(crowd.waiting))
            if time.monotonic() - longest._since > _GRACE_SECONDS:
                longest._close("crowded")
        if len(crowd.open) > crowd.most + SURPLUS:
            crowd.on_refused("connections")
            self.refuse(503, "Too many connections.")
            return
        if len(crowd.open) > crowd.most:
            self.app_state = {**self.app_state, SURPLUS_KEY: True}
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.open.discard(self)
        self._crowd.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.is_busy and not self._has_begun:
            self._has_begun, self._since = True, time.monotonic()
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self.is_busy and self in self._crowd.waiting:
            del self._crowd.waiting[self]
            self._since = time.monotonic()

    def on_response_complete(self) -> None:
        self._is_first = False
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._writing_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._writing_since = None
        super().resume_writing()

    @property
    def is_busy(self) -> bool:
        """Whether a request has begun that is not answered yet."""
        cycle = cast(Any, self.cycle)
        return cycle is not None and not cycle.response_complete

    def look(self, now: float) -> None:
        """Close it when its time is up."""
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > WRITING_SECONDS:
                self.transport.abort()
        elif self._writing_since is not None and now - self._writing_since > WRITING_SECONDS:
            self._close("slow_reader")
        elif not self.is_busy:
            seconds = HEADER_SECONDS if self._is_first or self._has_begun else IDLE_SECONDS
            if now - self._since > seconds:
                self._late() if self._has_begun else self._close("idle")
        elif self.cycle.more_body and self._parser.their_state is h11.SEND_BODY:
            least = BODY_SECONDS if len(self._crowd.open) < self._crowd.most else CROWDED_BODY_SECONDS
            seconds = min(LONGEST_BODY_SECONDS, least + self._parser.received / BODY_BYTES_A_SECOND)
            if now - self._since > seconds:
                self._late()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does where the bytes are no HTTP."""
        status = self._parser.status
        what = "The headers are too large." if status == 431 else "This is no valid HTTP request."
        self._crowd.on_refused("headers" if status == 431 else "protocol")
        self.refuse(status, what)

    def refuse(self, status: int, error: str) -> None:
        """Answer without asking the application, and close."""
        body = json.dumps({"error": error, "request_id": new_id()}).encode()
        headers = [
            ("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close"),
            *([("retry-after", "1")] if status == 503 else []),
        ]  # fmt: skip
        if cast(Any, self.cycle) is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            reason = HTTPStatus(status).phrase.encode()
            self.transport.write(
                self.conn.send(h11.Response(status_code=status, headers=headers, reason=reason)) or b""
            )
            self.transport.write(self.conn.send(h11.Data(data=body)) or b"")
            self.conn.send(h11.EndOfMessage())
        self.transport.close()

    def _late(self) -> None:
        self._crowd.on_refused("slow_client")
        self.refuse(408, "The request did not come in time.")

    def _wait(self) -> None:
        self._has_begun, self._since = False, time.monotonic()
        self._crowd.waiting[self] = None
        self._crowd.waiting.move_to_end(self)

    def _close(self, reason: str) -> None:
        self._crowd.on_refused(reason)
        self._crowd.waiting.pop(self, None)
        self._crowd.open.discard(self)
        if reason == "slow_reader":
            self.transport.abort()
        else:
            self.transport.close()
