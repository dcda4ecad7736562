"""Minutes of load and of attacks on one server: memory, descriptors and children stay, and honest clients are answered.

Each test prints what it saw: `pytest -m slow -s tests/serving/test_endurance.py`.
"""

import contextlib
import http.client
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.images import encode, mutants, noise, smooth
from tests.support.served import Served, raw, received, request, served, status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = encode(noise(32, 32), "PNG")
GET = request(path="/livez", method="GET")


def memory(pid: int) -> int:
    """Bytes that a process alone keeps: private and swapped pages."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in text if line.startswith(("Private", "Swap:")))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Load:
    """Clients in closed loops, each over one connection, until the `with` block ends."""

    def __init__(self, port: int, clients: int, *bodies: bytes) -> None:
        self.port, self.bodies = port, bodies
        self.answers: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.lost: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def wait(self, count: int) -> None:
        while self.answers.total() < count:
            time.sleep(0.02)
            assert any(thread.is_alive() for thread in self._threads), self.lost

    def _work(self, number: int) -> None:
        rng = random.Random(number)
        while not self._ended.is_set():
            link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            with contextlib.closing(link):
                try:
                    link.connect()
                except OSError:
                    return  # the port is closed
                while not self._ended.is_set():
                    begun = time.monotonic()
                    try:
                        link.request("POST", "/predict", rng.choice(self.bodies))
                        answer = link.getresponse()
                        answer.read()
                    except (OSError, http.client.HTTPException) as error:
                        self.lost.append(repr(error))
                        break
                    self.seconds.append(time.monotonic() - begun)
                    self.answers[answer.status] += 1
                    if answer.getheader("connection") == "close":
                        break


@pytest.fixture
def server(model_file: Path) -> Iterator[Served]:
    """A server with the limits that users get."""
    with served(model_file) as found:
        yield found
        assert "internal error" not in found.log.read_text()


def test_memory_does_not_grow_over_twenty_thousand_requests(server: Served) -> None:
    bodies = [SMALL, encode(smooth(300, 400), "JPEG"), encode(smooth(50, 50), "WEBP"), b"no image", b'{"images": [1]}']
    pid = server.process.pid
    before = children(pid)
    figures: list[tuple[int, float]] = []
    with Load(server.port, 8, *bodies) as load:
        for count in range(2000, 22001, 1000):
            load.wait(count)
            figures.append((count, (memory(pid) + sum(map(memory, children(pid)))) / 1e6))
            open_now = descriptors(pid)
    counts, megabytes = np.array(figures[1:]).T
    slope = float(np.polyfit(counts / 10_000, megabytes, 1)[0])
    print(f"\n{load.answers}: {megabytes.round(1).tolist()} MB, {slope:.2f} MB per 10,000; {open_now} files")
    assert load.lost == []
    assert set(load.answers) == {200, 400, 415}
    assert slope < 1.0
    assert children(pid) == before
    time.sleep(0.5)
    assert descriptors(pid) <= open_now


def test_decoders_killed_two_hundred_times_under_load(server: Served) -> None:
    pid, healing = server.process.pid, list[float]()
    rng = random.Random(0)
    with Load(server.port, 6, SMALL, encode(smooth(900, 900), "JPEG")) as load:
        load.wait(50)
        for number in range(200):
            victims = children(pid)
            os.kill(rng.choice(victims), (signal.SIGKILL, signal.SIGSEGV)[number % 2])
            begun = time.monotonic()
            while server.figure("vitrail_child_restarts_total") <= number or server.figure("vitrail_decoders") < 2:
                time.sleep(0.01)
                assert time.monotonic() - begun < 30
            healing.append(time.monotonic() - begun)
    print(f"\n{load.answers}; healed after {np.median(healing):.2f} s, at most {max(healing):.2f} s")
    assert load.lost == []
    assert load.answers[500] <= 200
    assert set(load.answers) <= {200, 500}
    assert load.answers[200] > load.answers[500]


def test_ended_ten_times_under_load(model_file: Path) -> None:
    total: Counter[int] = Counter()
    for number in range(10):
        with served(model_file) as server, Load(server.port, 12, SMALL, encode(smooth(600, 600), "JPEG")) as load:
            load.wait(200 + 30 * number)
            begun = time.monotonic()
            assert server.end() == 0
            assert time.monotonic() - begun < 12
        assert load.lost == []
        total += load.answers
    print(f"\n{total}")
    assert set(total) == {200}


def test_ten_thousand_connections(server: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    pid, before = server.process.pid, memory(server.process.pid)
    open_before, waits, links = descriptors(pid), list[float](), list[socket.socket]()
    with Load(server.port, 2, SMALL) as load:
        load.wait(10)
        for number in range(10_000):
            with contextlib.suppress(OSError):
                links.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            if number % 100 == 0:
                begun = time.monotonic()
                assert status(raw(server.port, GET)) == 200
                waits.append(time.monotonic() - begun)
        most = descriptors(pid)
        answered = load.answers.total()
        load.wait(answered + 50)
    for link in links:
        link.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    time.sleep(1)
    grown = memory(pid) - before
    quantiles = np.quantile(waits, [0.5, 0.99]) * 1e3
    print(f"\n{len(links)} connections; health {quantiles[0]:.1f} ms, 99 % {quantiles[1]:.0f} ms")
    print(f"at most {most} files, {open_before} before, {descriptors(pid)} after; {grown / 1e6:.1f} MB more")
    print(f"{load.answers}, lost {Counter(load.lost)}")
    assert most < 512 + 64 + 50
    assert descriptors(pid) <= open_before + 2
    assert set(load.answers) == {200}


def test_a_thousand_bodies_beyond_the_limit(server: Served) -> None:
    pid, before = server.process.pid, memory(server.process.pid)
    statuses: Counter[int] = Counter()
    peak, ended = [before], threading.Event()

    def send(kind: int) -> None:
        if kind % 3 == 0:  # says so
            answer = raw(
                server.port, request(b"x" * 10, Content_Length="30000000").replace(b"Content-Length: 10\r\n", b"")
            )
        elif kind % 3 == 1:  # without end
            head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer = raw(server.port, head, *[b"10000\r\n" + bytes(65536) + b"\r\n"] * 400)
        else:  # as much as is allowed, and then more
            answer = raw(server.port, request(bytes(19_999_999)).replace(b": 19999999", b": 20000000") + b"x" * 1000)
        statuses[status(answer)] += 1

    def watch() -> None:
        while not ended.is_set():
            peak.append(memory(pid))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for first in range(0, 1000, 100):
        threads = [threading.Thread(target=send, args=(first + i,)) for i in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    ended.set()
    watcher.join()
    time.sleep(1)
    print(
        f"\n{statuses}; {(max(peak) - before) / 1e6:.0f} MB more at most, {(memory(pid) - before) / 1e6:.0f} afterwards"
    )
    assert set(statuses) <= {0, 413, 415, 503, 400}
    assert max(peak) - before < 150e6
    assert server.figure("vitrail_body_bytes") == 0
    assert status(raw(server.port, request(SMALL))) == 200


@pytest.mark.parametrize("attack", ["-H", "-B", "-X"])
def test_slow_attacks_and_an_honest_client(server: Served, attack: str) -> None:
    program = shutil.which("slowhttptest") or pytest.skip("slowhttptest is not installed")
    words = [
        program,
        attack,
        "-c",
        "1000",
        "-r",
        "200",
        "-i",
        "2",
        "-l",
        "25",
        "-p",
        "3",
        "-u",
        server.url + "/predict",
    ]
    words += ["-t", "POST"] if attack == "-B" else []
    with Load(server.port, 2, SMALL) as load:
        load.wait(10)
        attacker = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        health: list[float] = []
        while attacker.poll() is None:
            begun = time.monotonic()
            assert status(raw(server.port, GET)) == 200
            health.append(time.monotonic() - begun)
            time.sleep(0.1)
    quantiles = np.quantile(load.seconds, [0.5, 0.99]) * 1e3
    print(
        f"\n{attack}: {load.answers}, lost {Counter(load.lost)}; {quantiles[0]:.0f} ms, 99 % {quantiles[1]:.0f} ms; "
        f"health 99 % {np.quantile(health, 0.99) * 1e3:.0f} ms; {server.figure('vitrail_requests_total')}"
    )
    assert set(load.answers) == {200}
    assert load.lost == []


def test_twenty_thousand_mutated_requests(server: Served) -> None:
    seeds = [
        request(SMALL), request(SMALL, path="/"), request(path="/model", method="GET"),
        request(b'{"images": ["AAAA"], "top": 1}', Content_Type="application/json"),
        request(b'{"inputs": "AAAA"}', path="/"),
        request(
            b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["AAAA"]}]}',
            path="/v2/models/cifar/infer",
        ),
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ]  # fmt: skip
    found: Counter[int] = Counter()

    def send(part: list[bytes]) -> None:
        for number, data in enumerate(part):
            with socket.create_connection(("127.0.0.1", server.port), timeout=0.3) as link:
                with contextlib.suppress(OSError):
                    link.sendall(data)
                    if number % 4 == 0:
                        link.shutdown(socket.SHUT_WR)
                code = status(received(link))
            found[code] += 1
            if code == 500:
                print(data)

    requests = mutants(seeds, 20_000, seed=1)
    threads = [threading.Thread(target=send, args=(requests[i::16],)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"\n{found}")
    assert found.total() == 20_000
    assert found[500] == 0
    assert found[200] > 0
    assert status(raw(server.port, request(SMALL))) == 200
    assert server.figure("vitrail_child_restarts_total") == 0


def test_schemathesis_finds_no_fault(server: Served) -> None:
    program = (
        shutil.which("schemathesis") or os.environ.get("SCHEMATHESIS") or pytest.skip("schemathesis is not installed")
    )
    words = ["run", f"{server.url}/openapi.json", "--max-examples", "100", "--workers", "2", "--checks"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = subprocess.run([program, *words, checks], capture_output=True, text=True, timeout=600, check=False)
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout
    assert 'status="500"' not in server.get("/metrics")


def test_the_loop_is_never_blocked_for_long(model_file: Path) -> None:
    """Whatever a body is, other clients are answered; the time is that of a loaded machine, so the bound is wide."""
    bombs = [
        b"[" * 10**6, b'{"a":' * 10**5, b'{"images": [' + b"1," * 10**6 + b"1]}", b'{"top": ' + b"9" * 10**6 + b"}",
        b'{"images": ["' + b"A" * 19_000_000 + b'"]}', bytes(19_000_000), b'{"images": [NaN]}',
        encode(smooth(6000, 8000), "JPEG"),
    ]  # fmt: skip
    with served(model_file) as server:
        waits: list[float] = []
        ended = threading.Event()

        def health() -> None:
            while not ended.is_set():
                begun = time.monotonic()
                assert status(raw(server.port, GET)) == 200
                waits.append(time.monotonic() - begun)
                time.sleep(0.005)

        watcher = threading.Thread(target=health)
        watcher.start()
        for _ in range(3):
            for bomb in bombs:
                begun = time.monotonic()
                answer = raw(server.port, request(bomb))
                print(f"{bomb[:16]!r} {len(bomb):>9}: {status(answer)} in {(time.monotonic() - begun) * 1e3:.0f} ms")
                assert status(answer) in (200, 400, 413, 415, 422, 503)
        ended.set()
        watcher.join()
        print(f"health: 99 % {np.quantile(waits, 0.99) * 1e3:.0f} ms, at most {max(waits) * 1e3:.0f} ms")
        assert np.quantile(waits, 0.99) < 1.0


SMUGGLED = b"GET /v2/models/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
TWO_READINGS = [
    b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    b"Content-Length: 0, %d\r\n\r\n" % len(SMUGGLED),
    b"Transfer-Encoding:\tchunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    b"X: a\r\n Content-Length: 9\r\nContent-Length: 0\r\n\r\n",
    b"X: a\nContent-Length: 0\r\n\r\n",
    b"Content-Length: 0\r\nX: a\rContent-Length: 9\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0;\nx\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0\n\n",
    b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n00000000000000000000000000\r\n\r\n",
]


def test_nginx_and_the_server_read_the_same_requests(server: Served, tmp_path: Path) -> None:
    """What nginx passes on is never read as two requests where it has seen one."""
    program = shutil.which("nginx") or pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    settings = (
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/errors; worker_processes 1; events {{}}\n"
        f"http {{ access_log {tmp_path}/access; client_body_temp_path {tmp_path}/body;\n"
        f"proxy_temp_path {tmp_path}/proxy; "
        "fastcgi_temp_path /tmp; uwsgi_temp_path /tmp; scgi_temp_path /tmp;\n"
        f"upstream own {{ server 127.0.0.1:{server.port}; keepalive 4; }}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://own; proxy_http_version 1.1; "
        'proxy_set_header Connection ""; proxy_set_header Host localhost; proxy_request_buffering off; } } }\n'
    )
    (tmp_path / "nginx.conf").write_text(settings)
    nginx = subprocess.Popen([program, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "errors")])
    try:
        deadline = time.monotonic() + 20
        while status(b"" if nginx.poll() is not None else _asked(port, GET)) != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        for sample in TWO_READINGS:
            head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
            seen = [_count(server), _count(server)]
            direct = _all_answers(server.port, head + sample + SMUGGLED)
            seen[0] = _count(server) - seen[0]
            before = _count(server)
            through = _all_answers(port, head + sample + SMUGGLED)
            seen[1] = _count(server) - before
            print(f"{sample!r}: directly {direct}, smuggled {seen[0]}; through nginx {through}, smuggled {seen[1]}")
            assert len(through) - 1 >= seen[1]  # what was reached as a second request was answered as one
            assert status(_asked(port, GET)) == 200
    finally:
        nginx.terminate()
        nginx.wait(20)


def _count(server: Served) -> int:
    """How often the model that is only asked for in a second request was asked for."""
    time.sleep(0.1)
    name = 'vitrail_requests_total{route="/v2/models/{model}",status="404"}'
    return int(server.figure(name)) if name in server.get("/metrics") else 0


def _asked(port: int, data: bytes) -> bytes:
    try:
        return raw(port, data)
    except OSError:
        return b""


def _all_answers(port: int, data: bytes) -> list[int]:
    """The statuses of everything that comes back within a second."""
    with socket.create_connection(("127.0.0.1", port), timeout=1) as link:
        link.sendall(data)
        found = b""
        with contextlib.suppress(OSError):
            while piece := link.recv(65536):
                found += piece
    return [int(part[:3]) for part in found.split(b"HTTP/1.1 ")[1:]]
