"""A web server on this machine that gives ranges of files, slowly and wrongly where it is told to."""

import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

FAULTS = (
    "latency", "bandwidth", "503", "500", "429", "reset", "cut", "short", "ignored", "flip", "stall", "shifted",
)  # fmt: skip
"""What may go wrong and pass: an answer that comes late or slowly; statuses; a connection reset after some bytes; a
body shorter than its Content-Length; one with the right Content-Length that is shorter than the range; the whole file
in place of a range; a flipped bit; silence after some bytes; another range than was asked for.
"""
STALL_S = 2.0

Fault = Callable[[str, int, int], str | None]
"""By path, first byte and how often this range was asked for: what goes wrong; None: nothing."""


class RangeServer:
    """Serves `files` while it is open; `asked` counts the requests for each (path, first byte)."""

    def __init__(self, files: dict[str, bytes], fault: Fault = lambda path, start, attempt: None) -> None:
        self.files, self.fault = files, fault
        self.etags = {path: f'"{len(content)}-1"' for path, content in files.items()}
        self.asked: Counter[tuple[str, int]] = Counter()
        self.seen: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with server._lock:
                    server.in_flight += 1
                    server.most_in_flight = max(server.most_in_flight, server.in_flight)
                try:
                    server._answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with server._lock:
                        server.in_flight -= 1

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "RangeServer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, to: BaseHTTPRequestHandler) -> None:
        to.close_connection = True
        content = self.files.get(to.path)
        if content is None:
            return self._status(to, 404)
        condition = to.headers.get("If-Match")
        if condition and condition != self.etags[to.path]:
            return self._status(to, 412)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", to.headers.get("Range", ""))
        start, stop = (int(found[1]), min(int(found[2]) + 1, len(content))) if found else (0, len(content))
        if start >= len(content):
            return self._status(to, 416)
        with self._lock:
            attempt = self.asked[(to.path, start)]
            self.asked[(to.path, start)] += 1
        fault = self.fault(to.path, start, attempt)
        with self._lock:
            self.seen[fault or ""] += 1
        if fault in ("503", "500", "429"):
            return self._status(to, int(fault), "0" if fault != "500" else None)
        if fault == "latency":
            time.sleep(0.05)
        if fault == "shifted":
            start = max(start - 7, 0)
        self._body(to, content, start, stop, fault)

    def _body(self, to: BaseHTTPRequestHandler, content: bytes, start: int, stop: int, fault: str | None) -> None:
        is_whole = fault == "ignored"
        if fault == "short":
            stop = max(start + 1, stop - max((stop - start) // 3, 1))
        body = bytearray(content if is_whole else content[start:stop])
        to.send_response(200 if is_whole else 206)
        to.send_header("Content-Length", str(len(body)))
        to.send_header("ETag", self.etags[to.path])
        if not is_whole:
            to.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        to.end_headers()
        if fault == "flip":
            body[len(body) // 2] ^= 4
        if fault == "bandwidth":
            for at in range(0, len(body), 1 << 16):
                to.wfile.write(body[at : at + (1 << 16)])
                time.sleep(0.01)
            return
        if fault in ("reset", "cut", "stall"):
            to.wfile.write(body[: len(body) // 2])
            to.wfile.flush()
            if fault == "stall":
                time.sleep(STALL_S)
            if fault == "reset":
                to.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                to.connection.close()
            return
        to.wfile.write(body)

    def _status(self, to: BaseHTTPRequestHandler, status: int, after: str | None = None) -> None:
        to.send_response(status)
        if after is not None:
            to.send_header("Retry-After", after)
        to.send_header("Content-Length", "0")
        to.end_headers()
