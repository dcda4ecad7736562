"""What stands before every route: who may ask, what is never read, and one form for every answer and error.

An ASGI application around another. It refuses strangers (Host, Origin, token), numbers the request, closes the
connection where a body was not read to its end, turns what was raised into JSON, counts, and writes the log.
"""

import asyncio
import hmac
import ipaddress
import re
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitrail.errors import shown
from vitrail.serving.connections import SURPLUS_KEY
from vitrail.serving.endpoints import ROUTE, Failure, Left, answer, new_id
from vitrail.serving.metrics import Metrics
from vitrail.serving.options import LARGEST_HEADERS, ServeOptions
from vitrail.serving.request_log import Line, RequestLog

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_HEALTH = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
_PREFLIGHT = {
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "authorization, content-type, inference-header-content-length",
    "access-control-max-age": "600",
}
_LINGERING_SECONDS = 1.0
_SOON_SECONDS = 0.05
_LINGERING_BYTES = 64 << 10
_METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH")


class Guard:
    """The outermost application.

    Args:
        app: the routes.
        options: who may ask.
        metrics: what is counted.
        log: where each request gets a line.
        is_ending: whether connections are to be closed after their answer.
    """

    def __init__(
        self, app: ASGIApp, options: ServeOptions, metrics: Metrics, log: RequestLog, is_ending: Callable[[], bool]
    ) -> None:
        self._app, self._options, self._metrics, self._log = app, options, metrics, log
        self._is_ending = is_ending
        self._hosts = _allowed_hosts(options)
        self._is_public = not is_loopback(options.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["app"] = self._app  # whereupon the router raises HTTPException, instead of answering in plain text
        exchange = _Exchange(scope, receive, send, self._is_ending)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            try:
                self._check(scope, headers)
                if _is_preflight(scope, headers):
                    await Response(status_code=204, headers=_PREFLIGHT)(scope, exchange.receive, exchange.send)
                else:
                    await self._app(scope, exchange.receive, exchange.send)
            except Left:
                pass
            except HTTPException as error:  # of the router
                what = {404: "There is no such address.", 405: "The address does not take this method."}
                error = Failure(error.status_code, what.get(error.status_code, "Refused."), headers=error.headers)
                await exchange.fail(error)
            except Failure as failure:
                if failure.reason:
                    self._metrics.rejected.labels(failure.reason).inc()
                await exchange.fail(failure)
            except asyncio.CancelledError:  # the time to end is up
                exchange.reads_on = False
                await exchange.fail(Failure(503, "The server is ending.", retry_after=1))
            except Exception as error:  # a fault of ours: the client gets its number, we the traceback
                self._log.add(error)
                await exchange.fail(Failure(500, "The server made a mistake.", do="Report it, with the request_id."))
        finally:
            exchange.status = exchange.status or 499  # as nginx counts a client that left
            self._note(scope, exchange)

    def _note(self, scope: Scope, exchange: "_Exchange") -> None:
        seconds = time.monotonic() - exchange.begun
        route = scope.get(ROUTE, "-")
        self._metrics.requests.labels(route, str(exchange.status)).inc()
        self._metrics.seconds.observe(seconds)
        method = scope["method"] if scope["method"] in _METHODS else "-"
        self._log.add(Line(exchange.request_id, method, route, exchange.status, exchange.received, seconds))

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise Failure for what is refused by its headers alone."""
        path, is_health = scope["path"], scope["path"] in _HEALTH
        if scope["state"].get(SURPLUS_KEY) and not is_health:
            raise Failure(503, "Too many connections.", reason="connections", retry_after=1)
        if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > LARGEST_HEADERS:
            raise Failure(431, "The headers are too large.", expected=f"at most {LARGEST_HEADERS} bytes")
        if scope["http_version"] not in ("1.0", "1.1"):
            raise Failure(505, "This version of HTTP is not spoken.", got=scope["http_version"], expected="1.1")
        names = [name for name, _ in scope["headers"]]
        if names.count(b"host") > 1 or (b"content-length" in names and b"transfer-encoding" in names):
            raise Failure(400, "This is no valid HTTP request.", got="two readings of its headers", reason="protocol")
        self._check_origin(scope, headers)
        if path == "/" and scope["method"] in ("GET", "HEAD"):
            return
        is_free = is_health or path.startswith("/static/") or _is_preflight(scope, headers)
        if self._options.token and not is_free:
            self._check_token(headers.get(b"authorization", b""))
        for name in (b"content-encoding", b"transfer-encoding"):
            if headers.get(name, b"identity").lower() not in (b"identity", b"chunked"):
                do = "Send the body as it is; an image is compressed already."
                raise Failure(415, "Compressed bodies are not read.", got=headers[name].decode("latin-1"), do=do)
        if headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
            do = "Send the file as it is: curl --data-binary @photo.jpg ADDRESS/predict"
            raise Failure(415, "Forms are not read.", got="multipart", expected="an image file or JSON", do=do)

    def _check_origin(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        name = _host_name(host)
        if name is None or not self._may_be_called(name):
            do = f"Start the server with --allow-host {shown(name)}" if name else None
            raise Failure(403, "The server does not go by this name.", got=host, do=do, reason="host")
        origin = headers.get(b"origin")
        if origin is not None and not self._is_allowed(origin.decode("latin-1"), host):
            do = "Start the server with --allow-origin and this origin, if its pages may ask."
            raise Failure(
                403, "Pages of this origin may not ask.", got=origin.decode("latin-1"), do=do, reason="origin"
            )
        if headers.get(b"sec-fetch-site") == b"cross-site" and origin is None:
            is_link = scope["path"] == "/" and scope["method"] == "GET"  # somebody follows a link to the page
            if not is_link or headers.get(b"sec-fetch-dest") not in (b"document", None):
                raise Failure(403, "Pages of other sites may not ask.", reason="origin")

    def _may_be_called(self, name: str) -> bool:
        if name in self._hosts or "*" in self._hosts or not name:
            return True
        return self._is_public and _is_address(name)  # an address cannot be rebound to another machine

    def _is_allowed(self, origin: str, host: str) -> bool:
        if origin in self._options.allow_origin or "*" in self._options.allow_origin:
            return True
        parts = urlsplit(origin) if re.fullmatch(r"https?://[^/\\@\s]+", origin) else None
        return parts is not None and parts.netloc.lower() == host.lower()

    def _check_token(self, given: bytes) -> None:
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._options.token.encode()):
            raise Failure(
                401, "The token is missing or wrong.", do="Send the header Authorization: Bearer TOKEN",
                reason="token", headers={"www-authenticate": "Bearer"},
            )  # fmt: skip


class _Exchange:
    """A request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, is_ending: Callable[[], bool]) -> None:
        self._closes = bool(scope["state"].get(SURPLUS_KEY)) or is_ending()
        self.reads_on = not scope["state"].get(SURPLUS_KEY)
        self.begun = time.monotonic()
        self.request_id = new_id()
        self.status, self.received = 0, 0
        self._receive, self._send = receive, send
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self._is_read = b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"
        # Such a body has mostly come when the request is refused; with it read, the connection can go on.
        length = headers.get(b"content-length", b"")
        self._is_short = b"expect" not in headers and length.isdigit() and int(length) <= _LINGERING_BYTES
        self._is_gone = False
        origin = headers.get(b"origin")
        # Whoever came as far as an answer was allowed to ask; for others the header changes nothing.
        exposed = (b"access-control-expose-headers", b"retry-after, x-request-id")
        allowed = [(b"access-control-allow-origin", origin or b""), (b"vary", b"origin"), exposed]
        self._cors = [] if origin is None else allowed

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._is_read = self._is_read or not message.get("more_body", False)
        else:
            self._is_gone = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            found = list(message.get("headers", []))
            names = {name for name, _ in found}
            found += [header for header in _HEADERS if header[0] not in names]
            found.append((b"x-request-id", self.request_id.encode()))
            if b"cache-control" not in names:
                found.append((b"cache-control", b"no-store"))
            if self.status != 403:
                found += self._cors
            if not self._is_read or self._closes:
                found.append((b"connection", b"close"))
            await self._send({**message, "headers": found})
        elif message["type"] == "http.response.body" and not self._is_read and self.reads_on:
            # Closed now, with bytes on their way, the connection would be reset, and the answer lost with it.
            await self._send({**message, "more_body": True})
            await self._read_rest(_LINGERING_SECONDS)
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await self._send(message)

    async def fail(self, failure: Failure) -> None:
        """Answer with what went wrong, unless an answer has begun or nobody waits for one."""
        if self.status or self._is_gone:
            return
        if self._is_short and self.reads_on:
            await self._read_rest(_SOON_SECONDS)
        response = answer({**failure.values, "request_id": self.request_id}, failure.status, failure.headers)
        await self._send_response(response)

    async def _send_response(self, response: Response) -> None:
        await self.send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )
        await self.send({"type": "http.response.body", "body": response.body})

    async def _read_rest(self, seconds: float) -> None:
        """Read on for a moment what will not be used."""
        read = 0
        try:
            async with asyncio.timeout(seconds):
                while read < _LINGERING_BYTES and not self._is_gone and not self._is_read:
                    message = await self.receive()
                    read += len(message.get("body", b""))
        except TimeoutError:
            pass


def _is_preflight(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Whether a browser asks if a page of another origin may ask."""
    return scope["method"] == "OPTIONS" and b"access-control-request-method" in headers


def _allowed_hosts(options: ServeOptions) -> set[str]:
    own = {"localhost", "127.0.0.1", "::1", options.host.lower().strip("[]"), *map(str.lower, options.allow_host)}
    return own if is_loopback(options.host) else own | {socket.gethostname().lower()}


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which nobody else reaches."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host.strip("[]")).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _host_name(host: str) -> str | None:
    """The name in a Host header, without its port; empty: there is none, as in HTTP/1.0; None: it is malformed."""
    if not host:
        return ""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", host)
    return match[1].lower().strip("[]") if match else None
