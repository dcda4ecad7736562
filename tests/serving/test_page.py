"""The page in a browser (SHIP S12): every way in, every state, hostile words, and nothing that leaves the machine."""

import base64
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip("no /usr/bin/chromium", allow_module_level=True)

FILES = Path(__file__).resolve().parents[2] / "src/vitrail/serving/page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self)",
    "Cache-Control": "no-store",
}
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}


@dataclass
class StandIn:
    """What the page asks of a server, with answers that a test may set."""

    model: dict[str, Any]
    predict: Callable[[bytes], dict[str, Any]]
    explain: Callable[[bytes], dict[str, Any]]
    token: str | None = None
    delay_s: float = 0.0
    refusals: list[tuple[int, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, route: str, body: bytes, token: str | None) -> tuple[int, dict[str, str], dict[str, Any]]:
        if self.token and token != f"Bearer {self.token}":
            return 401, {}, {"error": "the token is missing or wrong", "do": "send Authorization: Bearer TOKEN"}
        if route == "/model":
            return 200, {}, self.model
        with self.lock:
            if self.refusals:
                return self.refusals.pop(0)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.delay_s)
        with self.lock:
            self.at_once -= 1
        if route == "/predict":
            return 200, {}, self.predict(body)
        return 200, {}, self.explain(body)


def serve(stand_in: StandIn, port: int = 0) -> ThreadingHTTPServer:
    """Start the stand-in on a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            stand_in.requests.append(path)
            file = FILES / ("index.html" if path == "/" else path.removeprefix("/static/"))
            if path == "/model":
                self.reply(*stand_in.answer(path, b"", self.headers.get("Authorization")))
            elif file.parent == FILES and file.is_file():
                self.send(200, {"Content-Type": TYPES[file.suffix]}, file.read_bytes())
            else:
                self.reply(404, {}, {"error": f"there is no {path}"})

        def do_POST(self) -> None:
            path = self.path.split("?")[0]
            stand_in.requests.append(path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(*stand_in.answer(path, body, self.headers.get("Authorization")))

        def reply(self, status: int, headers: dict[str, str], answer: dict[str, Any]) -> None:
            self.send(status, {"Content-Type": "application/json", **headers}, json.dumps(answer).encode())

        def send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in (HEADERS | headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
