"""Processes that start in milliseconds: a server imports everything once, in one thread, and forks for each job.

    with ForkServer() as server:
        server.run("vitrail.selftest.jobs:train_tiny", {"run": "..."}, ranks=2, kill_after=0.1)

A job is a function that takes its arguments as keywords; its process ends with 0 when it returns, 1 when it raises.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ended:
    """What became of a job's processes: exit status of each rank, negative for a signal, None: killed as too slow."""

    statuses: list[int | None]
    seconds: float


class ForkServer:
    """Starts jobs. Close it, or use it in a `with` block."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-u", str(Path(__file__).resolve())]
        self._server = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        job: str,
        arguments: dict[str, Any],
        *,
        ranks: int = 1,
        kill_after: float | None = None,
        timeout: float = 60.0,
        log: Path | None = None,
    ) -> Ended:
        """Run a job to its end. Standard error of its processes goes to `log`, or nowhere."""
        request = {
            "job": job, "arguments": arguments, "ranks": ranks, "kill_after": kill_after, "timeout": timeout,
            "log": str(log) if log else os.devnull,
        }  # fmt: skip
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the fork server died"
        return Ended(**json.loads(answer))

    def close(self) -> None:
        """End the server; a job that still runs ends by itself."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        assert self._server.stdout is not None
        self._server.stdout.close()

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve() -> None:
    for name in ("numpy", "sklearn.datasets", "torch.distributed", "vitrail.training"):
        importlib.import_module(name)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line))) + "\n")
        sys.stdout.flush()


def _run(request: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    port = _free_port()
    children = [_forked(request, rank, port) for rank in range(request["ranks"])]
    statuses: list[int | None] = [None] * len(children)
    waiting = set(range(len(children)))
    while waiting and time.monotonic() - started < request["timeout"]:
        if request["kill_after"] is not None and time.monotonic() - started >= request["kill_after"]:
            for i in waiting:
                os.kill(children[i], signal.SIGKILL)
            request["kill_after"] = None
        for i in list(waiting):
            pid, status = os.waitpid(children[i], os.WNOHANG)
            if pid:
                statuses[i] = os.waitstatus_to_exitcode(status)
                waiting.discard(i)
        time.sleep(0.001)
    for i in waiting:
        os.kill(children[i], signal.SIGKILL)
        os.waitpid(children[i], 0)
    return {"statuses": statuses, "seconds": time.monotonic() - started}


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _forked(request: dict[str, Any], rank: int, port: int) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        if request["ranks"] > 1:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(request["ranks"]),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        module, _, name = request["job"].partition(":")
        getattr(importlib.import_module(module), name)(**request["arguments"])
        status = 0
    except BaseException as error:
        status = getattr(error, "exit_status", 1)
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
