"""The server as a process: it loads, opens the port, answers, and ends without losing what it has accepted.

One process holds the event loop and the model's thread; decoders are children (`decoders.py`). It writes no file and
opens no connection.
"""

import asyncio
import contextlib
import ctypes
import functools
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvicorn

from vitrail.errors import ConfigError, shown
from vitrail.predictor.answers import Outputs
from vitrail.predictor.exported import ExportedPredictor
from vitrail.runtime.cores import available_cores
from vitrail.serving.batching import Batcher, measured_batch
from vitrail.serving.connections import SURPLUS, Connection, Crowd
from vitrail.serving.decoders import Decoders
from vitrail.serving.guard import Guard, is_loopback
from vitrail.serving.metrics import Metrics
from vitrail.serving.options import ServeOptions
from vitrail.serving.request_log import RequestLog
from vitrail.serving.routes import routes_of
from vitrail.serving.service import Service

_MOST_DECODERS = 4
_SPARE_FILES = 256
_LOOK_SECONDS = 0.25
_LAST_REQUEST_SECONDS = 0.25
"""For a request that is on its way over an idle connection when the server ends."""
_MOST_BATCH, _BATCH_BYTES = 32, 64 << 20
_SMALL_SECONDS, _LEAST_SPEEDUP = 0.005, 1.3
"""An image of a small model; how much faster all threads have to be than one."""
_M_MMAP_THRESHOLD, _LARGE_BUFFER = -3, 1 << 20  # mallopt(3)
_ACCEPTED_AT_ONCE, _BACKLOG = 128, 2048
"""Connections between two looks at what has come over the others; and in the system's own queue."""
_NEVER = 10**6
OnReady = Callable[[dict[str, Any]], object]


def serve(path: str | Path, options: ServeOptions, on_ready: OnReady = lambda _: None) -> None:
    """Serve an exported file until a signal ends it.

    Args:
        path: of a file that `vitrail export` wrote.
        options: where, and what a request may cost.
        on_ready: told `url`, `name`, `version` and the limits once requests are welcome.
    Raises:
        WeightsError: the file is not one of ours, or damaged.
        ConfigError: the port is taken, or the host is none of this machine.
    """
    cores = available_cores()
    options = replace(
        options,
        decoders=options.decoders or min(cores, _MOST_DECODERS),
        name=options.name or Path(path).stem,
    )
    with contextlib.closing(_bound(options)) as listener:  # bound, and closed to the world until all is ready
        model, max_batch, seconds = _loaded(path, options, cores)
        chosen = options.max_batch if model.batch_size > 1 else 1
        options = replace(options, max_batch=chosen or max_batch)
        _warm_up(model, options.max_batch)
        _give_memory_back()
        _raise_file_limit(options.max_connections + SURPLUS + _SPARE_FILES)
        gc.collect()
        gc.freeze()
        asyncio.run(_run(model, options, listener, seconds, on_ready))


async def _run(
    model: ExportedPredictor, options: ServeOptions, listener: socket.socket, seconds: float, on_ready: OnReady
) -> None:
    metrics, log = Metrics(), RequestLog(options.log)
    crowd = Crowd(options.max_connections, lambda reason: metrics.rejected.labels(reason).inc())
    batcher = Batcher(
        model.outputs, _split, max_batch=options.max_batch, wait=options.batch_wait, seconds_an_image=seconds,
        on_batch=metrics.batches.observe,
    )  # fmt: skip
    decoders = Decoders(model.preprocessing, options, lambda: metrics.restarts.labels("decoder").inc())
    service = Service(model, options, metrics, batcher, decoders)
    guard = Guard(routes_of(service), options, metrics, log, lambda: service.is_draining)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: log.add(context.get("exception") or str(context.get("message"))))
    watching = loop.create_task(_watch(crowd))
    try:
        await decoders.start()
        server = _Server(guard, options, crowd, service, log)
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        def started() -> None:
            log.add(f"{shown(service.name)}, {len(model.labels)} classes, is served at {url}")
            if model.note:
                log.add(f"careful: {model.note}")
            if not options.token and not is_loopback(options.host):
                log.add(
                    "whoever reaches this address may ask: it is not this machine's own, and there is no --token-file"
                )
            on_ready({"url": url, **service.card()})

        server.on_started = started
        await server.serve([listener])
    finally:
        watching.cancel()
        batcher.close()
        await decoders.close()
        log.close()


async def _watch(crowd: Crowd) -> None:
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        crowd.look()


class _Server(uvicorn.Server):
    """uvicorn with an end that loses no request, and without its own words."""

    def __init__(self, guard: Guard, options: ServeOptions, crowd: Crowd, service: Service, log: RequestLog) -> None:
        self._protocol = functools.partial(Connection, crowd)
        logging.getLogger("uvicorn").addHandler(logging.NullHandler())
        logging.getLogger("uvicorn").propagate = False
        super().__init__(
            uvicorn.Config(
                cast(Any, guard),
                http=cast(Any, self._protocol),
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_ACCEPTED_AT_ONCE,
                timeout_keep_alive=_NEVER,
                timeout_graceful_shutdown=cast(Any, options.drain),
            )
        )
        self.on_started: Callable[[], object] = lambda: None
        self._options, self._crowd, self._service, self._request_log = options, crowd, service, log

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.is_draining = True
        loop = asyncio.get_running_loop()
        for listener in sockets or []:  # whoever was let in by the system already is not turned away
            for accepted in _pending(listener):
                factory = functools.partial(
                    self._protocol, config=self.config, server_state=self.server_state, app_state={}
                )
                await loop.connect_accepted_socket(cast(Any, factory), accepted)
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_REQUEST_SECONDS)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        if self._service.is_draining:  # the second one
            self._service.decoders.kill()
            os._exit(128 + number)
        self._service.is_draining = True
        self._request_log.add("ending: answering what was accepted")

        def end() -> None:
            self.should_exit = True

        asyncio.get_running_loop().call_later(self._options.drain_delay, end)


def _pending(listener: socket.socket) -> Iterator[socket.socket]:
    """Connections that the system has accepted and we have not."""
    listener.setblocking(False)
    with contextlib.suppress(OSError):
        while True:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            yield accepted


def _loaded(path: str | Path, options: ServeOptions, cores: int) -> tuple[ExportedPredictor, int, float]:
    """The model, how many images to compute together, and the seconds that one then takes.

    Its threads do not spin: the decoders need the cores. A small model gets one thread where others hardly help it.
    """
    model = ExportedPredictor(path, threads=options.threads or cores, spins=False)
    shape = (model.preprocessing.num_channels, *model.preprocessing.decode_size)
    most = min(options.max_batch or _MOST_BATCH, max(1, _BATCH_BYTES // math.prod(shape)))
    most = 1 if model.batch_size == 1 else most  # int8: an answer would depend on the images beside it
    max_batch, seconds = measured_batch(model.outputs, shape, most)
    if not options.threads and cores > 1 and seconds < _SMALL_SECONDS:
        alone = ExportedPredictor(path, threads=1, spins=False)
        alone_batch, alone_seconds = measured_batch(alone.outputs, shape, most)
        if alone_seconds < _LEAST_SPEEDUP * seconds:
            return alone, alone_batch, alone_seconds
    return model, max_batch, seconds


def _warm_up(model: ExportedPredictor, max_batch: int) -> None:
    """Let the engine take the memory of its largest batch now, and of smaller ones between."""
    shape = (model.preprocessing.num_channels, *model.preprocessing.decode_size)
    for size in (max_batch, 1, max_batch):
        model.outputs(np.zeros((size, *shape), np.uint8))


def _split(outputs: Outputs, start: int, stop: int) -> Outputs:
    distances = None if outputs.distances is None else outputs.distances[start:stop]
    return Outputs(outputs.probabilities[start:stop], outputs.logits[start:stop], distances)


def _bound(options: ServeOptions) -> socket.socket:
    """A socket at the address; nobody can connect before it listens. Raises ConfigError."""
    host = options.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # asyncio turns Nagle off where it sees TCP
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, options.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Port {options.port} of {shown(options.host)} cannot be opened.",
            got=error.strerror or error,
            do="Choose another one: --port 8001, or --port 0 for one that is free.",
        ) from error
    return listener


def _give_memory_back() -> None:
    """Let the C library hand large buffers back to the system when they are freed (glibc on Linux)."""
    if sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BUFFER)


def _raise_file_limit(wanted: int) -> None:
    """Let this process have so many files and connections open, as far as it may."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
            )
