"""The server as a process: how it starts and ends, what it does to the machine, and who may ask."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.images import encode, smooth
from tests.support.served import Served, raw, received, request, served, status

IMAGE = encode(smooth(300, 300), "PNG")


class Clients:
    """Closed loops, each over one connection; they count answers, and requests that were sent and never answered."""

    def __init__(self, server: Served, number: int) -> None:
        self.server, self.ended = server, threading.Event()
        self.answers: list[int] = []
        self.lost: list[str] = []
        self.threads = [threading.Thread(target=self._work) for _ in range(number)]
        for thread in self.threads:
            thread.start()

    def _work(self) -> None:
        while not self.ended.is_set():
            link = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
            try:
                link.connect()
            except OSError:
                return  # the port is closed
            with contextlib.closing(link):
                while not self.ended.is_set():
                    try:
                        link.request("POST", "/predict", IMAGE)
                        answer = link.getresponse()
                        answer.read()
                    except (OSError, http.client.HTTPException) as error:
                        self.lost.append(repr(error))
                        break
                    self.answers.append(answer.status)
                    if answer.getheader("connection") == "close":
                        break

    def join(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(40)


@pytest.mark.parametrize("delay", ["0", "0.5"])
def test_no_request_is_lost_when_it_ends_under_load(model_file: Path, delay: str) -> None:
    with served(model_file, "--drain-delay", delay) as server:
        clients = Clients(server, 8)
        while len(clients.answers) < 50:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        if delay != "0":
            time.sleep(0.2)
            with pytest.raises(Exception, match="503"):
                server.get("/readyz")
            assert server.get("/livez") == {"live": True}
        assert server.process.wait(30) == 0
        clients.join()
    assert clients.lost == []
    assert set(clients.answers) == {200}


def test_a_second_signal_ends_at_once(model_file: Path) -> None:
    with served(model_file, "--drain-delay", "60") as server:
        children = [int(pid) for pid in _children(server.process.pid)]
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 130
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert children
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_what_does_not_end_in_time_is_given_up(model_file: Path) -> None:
    with served(model_file, "--drain", "0.5") as server, socket.create_connection(("127.0.0.1", server.port)) as link:
        link.sendall(request(IMAGE)[:-10])
        time.sleep(0.3)
        assert server.end() == 0
        assert status(received(link)) == 503


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_taken_port_and_a_file_that_is_none_end_before_anything_starts(model_file: Path, tmp_path: Path) -> None:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "vitrail", "serve", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(str(model_file), "--port", str(taken.getsockname()[1]))
    assert (done.returncode, "cannot be opened" in done.stderr) == (2, True), done.stderr
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model_file.read_bytes()[:-1000])
    for words in ([str(damaged)], [str(tmp_path / "none.onnx")], [str(model_file), "--max-images", "0"]):
        done = run(*words, "--port", "0")
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr


WATCH = """
import os, sys, threading
LOG = os.open({log!r}, os.O_WRONLY | os.O_CREAT)
NAMES = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "os.system", "os.exec", "os.posix_spawn", "os.remove",
         "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "tempfile.mkstemp")
def hook(event, details):
    writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in NAMES or event == "subprocess.Popen" or (writes and details[0] != os.devnull):
        os.write(LOG, (event + " " + repr(details)[:200] + "\\n").encode())
sys.addaudithook(hook)
"""


def test_it_writes_no_file_and_opens_no_connection(model_file: Path, tmp_path: Path) -> None:
    """From the first import to the end, with the environment of a user, not that of CI."""
    log, home = tmp_path / "audit", tmp_path / "home"
    home.mkdir()
    before = (
        "import os\nfor name in ('CI', 'ORT_DISABLE_TELEMETRY', 'PYTHONPYCACHEPREFIX'): os.environ.pop(name, None)\n"
    )
    before += f"os.environ['HOME'] = os.environ['XDG_CACHE_HOME'] = {str(home)!r}\n"
    before += "sys = __import__('sys'); sys.dont_write_bytecode = True\n" + WATCH.format(log=str(log))
    with served(model_file, "--decoders", "1", before=before) as server:
        for _ in range(3):
            assert status(raw(server.port, request(IMAGE))) == 200
        for path in ("/", "/model", "/metrics", "/openapi.json", "/v2"):
            assert status(raw(server.port, request(path=path, method="GET"))) == 200
        assert status(raw(server.port, request(IMAGE, path="/explain"))) == 200
        assert "torch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
        assert server.end() == 0
    seen = log.read_text().splitlines()
    assert [line for line in seen if "vitrail.serving.decoder" not in line] == []
    assert len(seen) == 1
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("kind", ["broken", "never read"])
def test_unwritable_standard_error_is_no_fault(model_file: Path, kind: str) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while kind == "never read":
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    if kind == "broken":
        os.close(reader)
    command = [sys.executable, "-m", "vitrail", "serve", str(model_file), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer, text=True) as process:
        os.close(writer)
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        for _ in range(5):
            assert status(raw(port, request(IMAGE))) == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, 120)  # 120: the interpreter could not flush it at its end
    if kind == "never read":
        os.close(reader)


def test_a_token_is_asked_for(model_file: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef-\u00e4", encoding="utf-8")
    words = ["serve", str(model_file), "--token-file", str(token)]
    done = subprocess.run(
        [sys.executable, "-m", "vitrail", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, "token" in done.stderr) == (2, True)
    token.write_text("0123456789abcdef\n")
    origin = "https://app.example"
    with served(
        model_file, "--token-file", str(token), "--allow-origin", origin, "--allow-host", "my.example"
    ) as server:
        port = server.port
        for path in ("/", "/livez", "/readyz", "/metrics", "/v2/health/ready"):
            assert status(raw(port, request(path=path, method="GET"))) == 200
        for given in ("", "Bearer", "Bearer 0123456789abcdeF", "Basic 0123456789abcdef", "Bearer \u00e9"):
            answer = raw(port, request(IMAGE, Authorization=given))
            assert status(answer) == 401, given
            assert b"www-authenticate: Bearer" in answer
        assert status(raw(port, request(IMAGE, Access_Control_Request_Method="POST"))) == 401
        assert status(raw(port, request(method="OPTIONS", Connection="close"))) == 401
        good = {"Authorization": "Bearer 0123456789abcdef"}
        assert status(raw(port, request(IMAGE, **good))) == 200
        assert status(raw(port, request(path="/model", method="GET"))) == 401
        for host in ("my.example", "my.example:1"):
            answer = raw(
                port, request(path="/model", method="GET", **good).replace(b"Host: localhost", f"Host: {host}".encode())
            )
            assert status(answer) == 200
        asked = request(method="OPTIONS", Origin=origin, Access_Control_Request_Method="POST", Connection="close")
        answer = raw(port, asked)
        assert status(answer) == 204
        assert b"access-control-allow-origin: https://app.example" in answer
        answer = raw(port, request(IMAGE, Origin=origin, Sec_Fetch_Site="cross-site", **good))
        assert status(answer) == 200
        assert b"access-control-allow-origin: https://app.example" in answer
        assert "0123456789abcdef" not in server.log.read_text()


def test_further_requests_are_refused_when_the_queue_is_long(model_file: Path) -> None:
    with served(model_file, "--queue-seconds", "0.02", "--decoders", "1", "--threads", "1") as server:
        clients = Clients(server, 24)
        while len(clients.answers) < 300:
            time.sleep(0.01)
        assert server.get("/readyz") == {"ready": True}
        clients.join()
        assert clients.lost == []
        assert {200, 503} == set(clients.answers)
        assert server.figure('vitrail_rejected_total{reason="queue"}') == clients.answers.count(503)


def test_small_answers_are_sent_at_once() -> None:
    """Nagle's algorithm and a client that delays its acknowledgements cost 40 ms a request."""
    import asyncio

    from vitrail.serving.options import ServeOptions
    from vitrail.serving.server import _bound

    async def option() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        class Probe(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                link = transport.get_extra_info("socket")
                found.set_result(link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        with _bound(ServeOptions(port=0)) as listener:
            server = await asyncio.get_running_loop().create_server(Probe, sock=listener)
            async with server:
                _, writer = await asyncio.open_connection(*listener.getsockname())
                result = await asyncio.wait_for(found, 20)
                writer.close()
                await writer.wait_closed()
        return result

    assert asyncio.run(option()) != 0
