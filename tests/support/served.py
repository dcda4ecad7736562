"""A server of the real program, in a process of its own, and raw bytes to it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vitrail import weights
from vitrail.weights.calibration import Unknown

_PATIENCE_S = 60.0


def exported_file(folder: Path, unknown: Unknown | None = None) -> Path:
    """The model in the package as an exported file, without the comparison that takes seconds."""
    from vitrail.exporting.onnx_file import built, metadata

    model, card = weights.load("builtin:cifar100")
    graph, description = built(model, card, form="image", precision="fp32", merge=0, opset=20)
    path = folder / "cifar.onnx"
    path.write_bytes(graph + metadata(replace(description, parity={"passed": True})))
    return path


@dataclass
class Served:
    """A running server."""

    url: str
    card: dict[str, Any]
    process: "subprocess.Popen[str]"
    log: Path

    @property
    def port(self) -> int:
        found = urlsplit(self.url).port
        assert found
        return found

    def get(self, path: str) -> Any:
        """The JSON of an address, or its text."""
        with urllib.request.urlopen(self.url + path, timeout=_PATIENCE_S) as answer:
            text = answer.read().decode()
        return json.loads(text) if answer.headers["content-type"] == "application/json" else text

    def figure(self, name: str) -> float:
        """A number of /metrics."""
        for _ in range(100):  # of a busy server it is asked again
            with contextlib.suppress(OSError):
                lines = [line for line in self.get("/metrics").splitlines() if line.startswith(name)]
                if lines:
                    return float(lines[0].split()[-1])
            time.sleep(0.1)
        raise AssertionError(f"/metrics has no {name}")

    def end(self) -> int:
        """Signal it, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE_S)


@contextlib.contextmanager
def served(model: Path, *options: str, before: str = "") -> Iterator[Served]:
    """A server for the length of a `with` block.

    Args:
        options: of `vitrail serve`.
        before: Python that its process runs first.
    """
    log = model.with_name(f"log-{os.urandom(4).hex()}")
    code = f"{before}\nimport sys\nfrom vitrail.cli import main\nsys.exit(main())"
    command = [sys.executable, "-c", code, "serve", str(model), "--port", "0", "--json", *options]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        card = json.loads(line)
        yield Served(card["url"], card, process, log)
    finally:
        process.kill()
        process.communicate(timeout=_PATIENCE_S)


def raw(port: int, *pieces: bytes, half_close: bool = False) -> bytes:
    """What comes back for some bytes, until the server closes or nothing more comes for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        with contextlib.suppress(OSError):
            for piece in pieces:
                link.sendall(piece)
            if half_close:
                link.shutdown(socket.SHUT_WR)
        return received(link)


def received(link: socket.socket) -> bytes:
    """One answer, or what came before the connection ended."""
    found = b""
    with contextlib.suppress(ConnectionResetError, TimeoutError):
        while piece := link.recv(65536):
            found += piece
            head, end, body = found.partition(b"\r\n\r\n")
            if end and b"content-length: " in head.lower():
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                if len(body) >= length:
                    break
    return found


def request(body: bytes = b"", path: str = "/predict", method: str = "POST", **headers: str) -> bytes:
    """A request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    """The status of an answer; 0: there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
