"""What clients do to connections: too slow, too much, too many, two readings. Raw bytes to the real protocol."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from tests.support.images import encode, smooth
from tests.support.served import Served, raw, received, request, status
from vitrail.serving import connections
from vitrail.serving.connections import Connection, Crowd

IMAGE = encode(smooth(20, 20), "PNG")
GET = request(path="/livez", method="GET")


@dataclass
class Small:
    """A server in a thread of this process, whose deadlines are short; it answers with the length of the body."""

    port: int
    crowd: Crowd
    refused: list[str]
    bodies: list[int] = field(default_factory=list[int])


@contextlib.contextmanager
def small(most: int = 100) -> Iterator[Small]:
    refused: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))
    found = Small(listener.getsockname()[1], Crowd(most, refused.append), refused)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            length, more = length + len(message["body"]), message.get("more_body", False)
        found.bodies.append(length)
        if scope["path"] == "/slow":
            await asyncio.sleep(1.0)
        long = 16 << 20 if scope["path"] == "/long" else 0
        code = 503 if scope["state"].get(connections.SURPLUS_KEY) else 200
        body = b"%d" % length + b" " * long
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def protocol(**rest: Any) -> Connection:
        return Connection(found.crowd, **rest)

    config: Any = uvicorn.Config(
        app, http=protocol, ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False,
        timeout_keep_alive=10**6,
    )  # type: ignore[arg-type]  # fmt: skip
    server = uvicorn.Server(config)

    async def run() -> None:
        async def watch() -> None:
            while True:
                await asyncio.sleep(0.05)
                found.crowd.look()

        watching = asyncio.ensure_future(watch())
        await server.serve([listener])
        watching.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield found
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of tenths of a second."""
    for name, value in (
        ("HEADER_SECONDS", 0.3),
        ("BODY_SECONDS", 0.3),
        ("IDLE_SECONDS", 0.6),
        ("WRITING_SECONDS", 0.3),
    ):
        monkeypatch.setattr(connections, name, value)


def closed_after(link: socket.socket) -> float:
    """Seconds until the other side closes."""
    begun = time.monotonic()
    link.settimeout(20)
    with contextlib.suppress(ConnectionResetError):
        while link.recv(65536):
            pass
    return time.monotonic() - begun


def open_to(port: int, data: bytes = b"") -> socket.socket:
    link = socket.create_connection(("127.0.0.1", port), timeout=20)
    with contextlib.suppress(ConnectionError):  # it was closed at once
        link.sendall(data)
    return link


@pytest.mark.usefixtures("short")
def test_slow_clients_are_closed_and_slow_answers_are_not() -> None:
    with small() as server:
        with open_to(server.port) as silent, open_to(server.port, b"GET / HT") as headers:
            assert status(received(headers)) == 408
            assert closed_after(silent) < 10
        with open_to(server.port, request(b"x" * 100)[:-50]) as body:
            assert status(received(body)) == 408
        with open_to(
            server.port, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
        ) as chunks:
            assert status(received(chunks)) == 408
        with open_to(server.port, request(path="/slow")) as slow:
            assert status(received(slow)) == 200
            time.sleep(0.4)  # longer than headers may take, shorter than a connection may rest
            slow.sendall(GET)
            assert status(received(slow)) == 200
            assert closed_after(slow) < 10
        assert server.refused.count("slow_client") == 3
        assert server.bodies == [0, 0]
        assert not server.crowd.open


@pytest.mark.usefixtures("short")
def test_an_honest_slow_upload_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_BYTES_A_SECOND", 50)
    with small() as server, open_to(server.port, request(b"x" * 100)[:-100]) as link:
        for _ in range(10):  # 0.8 s in all, where 0.3 s are given and 2 s more for what comes
            time.sleep(0.08)
            link.sendall(b"x" * 10)
        assert status(received(link)) == 200


@pytest.mark.usefixtures("short")
def test_a_client_that_does_not_read_is_closed() -> None:
    with small() as server, open_to(server.port, request(path="/long")):
        deadline = time.monotonic() + 20
        while (not server.bodies or server.crowd.open) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.bodies
        assert not server.crowd.open
        assert server.refused == ["slow_reader"]


def test_too_many_connections() -> None:
    with small(most=4) as server, contextlib.ExitStack() as links:

        def opened(data: bytes = b"") -> socket.socket:
            return links.enter_context(open_to(server.port, data))

        silent = [opened() for _ in range(4)]
        time.sleep(0.3)
        assert status(received(opened(GET))) == 200  # it takes the place of the one that has been silent longest
        assert closed_after(silent[0]) < 10
        time.sleep(0.3)
        busy = [opened(request(b"xx")[:-1]) for _ in range(4)]  # and these that of the others
        assert closed_after(silent[3]) < 10
        time.sleep(0.3)
        assert status(received(opened(GET))) == 503  # without a place; the application may answer about health
        time.sleep(0.3)
        waiting = [opened(request(b"xx")[:-1]) for _ in range(connections.SURPLUS)]
        time.sleep(0.3)
        assert status(received(opened(GET))) in (0, 503)  # not even that
        for link in busy:
            link.sendall(b"x")
            assert status(received(link)) == 200
        waiting[-1].sendall(b"x")
        assert status(received(waiting[-1])) == 503
        assert server.refused.count("connections") == 1


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (b"\0\0\0\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", {400}),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", {505}),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", {400}),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -3\r\n\r\nabc", {400}),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: +3\r\n\r\nabc", {400}),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9" + b"9" * 30 + b"\r\n\r\nabc", {400}),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\nabc", {413}),
        (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\n",
            {400},
        ),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", {400}),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n", {400}),
        (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 3000,
            {400},
        ),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 17000 + b"\r\n\r\n", {431}),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 5000 + b"\r\n", {431}),
        (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {431, 0}),
        (b"GET /livez HTTP/1.1\nHost: localhost\n\n", {400, 200}),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", {400, 200}),
        (b"GET /livez HTTP/1.0\r\n\r\n", {200}),
        (b"PRI * HTTP/2.0\r\n\r\n", {400, 505}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400, 408, 0}),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", {404, 405, 400}),
        (b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", {404, 200}),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", {200}),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", {200}),
        (b"GET /%00%ff%2e%2e/ HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    ],
)  # fmt: skip
def test_bytes_that_are_no_request(server: Served, data: bytes, codes: set[int]) -> None:
    answer = raw(server.port, data, half_close=status(b"") in codes or data.startswith(b"\x16"))
    assert status(answer) in codes, answer[:300]
    body = answer.partition(b"\r\n\r\n")[2]
    if status(answer) >= 400:
        assert json.loads(body)["error"]
    assert b"Traceback" not in answer


def test_two_requests_at_once_are_two_answers(server: Served) -> None:
    with open_to(server.port, GET + request(IMAGE) + GET.replace(b"livez", b"readyz")) as link:
        deadline, found = time.monotonic() + 20, b""
        while b'"ready":true' not in found and time.monotonic() < deadline:
            found += link.recv(65536)
    assert found.count(b"HTTP/1.1 200 OK") == 3
    assert found.index(b'"live":true') < found.index(b'"predictions"') < found.index(b'"ready":true')


def test_a_body_in_chunks_is_the_same_body(server: Served) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [IMAGE[i : i + 40] for i in range(0, len(IMAGE), 40)]
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\n"
    whole = json.loads(raw(server.port, request(IMAGE)).partition(b"\r\n\r\n")[2])
    assert json.loads(raw(server.port, head + chunks).partition(b"\r\n\r\n")[2])["predictions"] == whole["predictions"]


def test_a_body_without_end_is_refused_soon_after_the_limit(server: Served) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece, sent = b"10000\r\n" + bytes(65536) + b"\r\n", 0
    with open_to(server.port, head) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        with contextlib.suppress(ConnectionError, TimeoutError):
            link.settimeout(5)
            for _ in range(1000):
                link.sendall(piece)
                sent += 65536
        assert sent < 2_000_000 + (8 << 20)  # what the system buffers counts as sent
    deadline = time.monotonic() + 20
    while server.figure("vitrail_body_bytes") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.figure("vitrail_body_bytes") == 0


def test_a_refusal_is_read_by_a_client_that_goes_on_sending(server: Served) -> None:
    answer = raw(server.port, request(bytes(2_000_001)))
    assert status(answer) == 413
    assert b"connection: close" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["expected"] == "at most 2000000 bytes"


def test_a_connection_goes_on_after_a_refusal(server: Served) -> None:
    with open_to(server.port, request(IMAGE, path="/nowhere")) as link:
        assert status(received(link)) == 404
        link.sendall(request(IMAGE))
        assert status(received(link)) == 200


def test_a_refusal_comes_before_the_body_is_sent(server: Served) -> None:
    head = request(bytes(2_000_001), Expect="100-continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    with open_to(server.port, head) as link:
        assert status(received(link)) == 413
    head = request(IMAGE, Expect="100-continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    with open_to(server.port, head) as link:
        assert link.recv(100).startswith(b"HTTP/1.1 100")
        link.sendall(IMAGE)
        assert status(received(link)) == 200


def test_clients_that_leave_are_forgotten(server: Served) -> None:
    before = server.figure("vitrail_requests_total")
    for _ in range(20):
        open_to(server.port, request(IMAGE)).close()
        open_to(server.port, request(b"{")).close()
        open_to(server.port, request(IMAGE)[:-20]).close()
        open_to(server.port, request(IMAGE)[:30]).close()
    deadline = time.monotonic() + 20
    while server.figure("vitrail_queue_images") + server.figure("vitrail_body_bytes") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.figure("vitrail_queue_images") == server.figure("vitrail_body_bytes") == 0
    assert server.figure("vitrail_requests_total") >= before
    assert "internal error" not in server.log.read_text()
