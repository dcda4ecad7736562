"""One line a request on standard error: time, id, route, status, bytes, seconds. Nothing that a client sent.

A thread of its own writes, so that a terminal that is stopped or a full pipe holds up nobody; what cannot be written
is dropped.
"""

import contextlib
import json
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass

from vitrail import terminal

_MOST_WAITING, _AT_ONCE = 10_000, 100


@dataclass(frozen=True)
class Line:
    """What is said about a request.

    Args:
        route: a name of ours, "-" for a path that there is not.
        received: bytes of the body.
    """

    request_id: str
    method: str
    route: str
    status: int
    received: int
    seconds: float


class RequestLog:
    """Writes lines in the background.

    Args:
        form: text or json.
    """

    def __init__(self, form: str) -> None:
        self._form = form
        self._waiting: deque[tuple[float, Line | str | BaseException]] = deque(maxlen=_MOST_WAITING)
        self._something = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def add(self, line: Line | str | BaseException) -> None:
        """A request, a message, or an internal error."""
        self._waiting.append((time.time(), line))
        self._something.set()

    def close(self) -> None:
        """Write what is left, for at most a second."""
        self._is_closed = True
        self._something.set()
        self._thread.join(1.0)

    def _work(self) -> None:
        while not self._is_closed or self._waiting:
            self._something.wait()
            self._something.clear()
            while self._waiting:
                lines: list[str] = []
                fault: BaseException | None = None
                while self._waiting and fault is None and len(lines) < _AT_ONCE:
                    at, line = self._waiting.popleft()
                    if isinstance(line, BaseException):
                        fault = line
                    else:
                        lines.append(self._written(at, line))
                with contextlib.suppress(OSError, ValueError):  # ValueError: standard error is closed
                    terminal.say_lines(lines)
                    if fault is not None:
                        terminal.say_fault(fault)

    def _written(self, at: float, line: Line | str) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"
        if self._form == "json":
            return json.dumps({"time": stamp, **({"message": line} if isinstance(line, str) else asdict(line))})
        if isinstance(line, str):
            return f"{stamp} {line}"
        what = f"{line.method} {line.route} {line.status} {line.received} B {line.seconds:.4f} s"
        return f"{stamp} {what} {line.request_id}"
