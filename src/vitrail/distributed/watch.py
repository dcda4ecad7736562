"""Noticing within seconds that a process of a run died, stopped or stands still, and ending the others.

A thread in each process says once a second through the store of torch.distributed that it is alive, what it works on
and for how long. Each looks at its predecessor: silence means that it died, or was stopped. The first looks at all: if
none has finished a step or a batch for too long, the run hangs. Whoever finds something writes down why, once, and
all of them end; a process that hangs in a collective call cannot be woken in another way. A second thread watches the
first: the store lives in one process, and when that one is stopped, asking it takes forever.
"""

import contextlib
import faulthandler
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

import torch.distributed as dist

from vitrail.config import ParallelConfig
from vitrail.distributed.meeting import Attempt, Process, this_machine
from vitrail.errors import Interrupted, RankLost, VitrailError
from vitrail.terminal import say

BEAT_SECONDS = 0.5
START_SECONDS = 30.0
"""How long a process may at least take until it is first heard of: to connect may need names to be looked up."""
_ABORT, _STOP = "vitrail/abort", "vitrail/stop"


class Watch:
    """Watches the other processes, in a thread.

    Args:
        rank: of this process.
        config: how long silence and standing still may last.
        attempt: at the run, with all its processes; what processes of an earlier one said is not heard.
    """

    def __init__(self, rank: int, config: ParallelConfig, attempt: Attempt) -> None:
        self.rank, self.size, self.config = rank, len(attempt.processes), config
        self.stop_asked = 0
        self._attempt = attempt.name
        self._processes = attempt.processes
        self._connection: dist.TCPStore | None = None
        self._place = ("start", 0)
        self._since = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._guard = threading.Thread(target=self._guard_store, name="watch of the store", daemon=True)
        self._turns = 0
        self._heard: dict[int, tuple[int, float]] = {}
        self._stop_spread = 0

    def start(self) -> None:
        """Begin to say that this process lives, and to listen."""
        self._guard.start()  # first: a store whose process is stopped lets nobody connect
        self._connection = self._connected()
        self._turns = 1
        self._beat(self._turns)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the others no longer hear of this process."""
        self._over.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def at(self, phase: str, step: int) -> None:
        """Note what the main thread works on."""
        self._place, self._since = (phase, step), time.monotonic()

    def spread_stop(self, signal_number: int) -> None:
        """Let the others know, through the thread, that this process was asked to stop."""
        self._stop_spread = signal_number

    def abort(self, error: BaseException) -> None:
        """Write down why this process ends, unless another did so before: then this one has nothing to tell."""
        text = str(error) if isinstance(error, VitrailError) else "".join(traceback.format_exception_only(error))
        reason = {
            "rank": self.rank,
            "status": getattr(error, "exit_status", 1),
            "text": text,
            "lost": isinstance(error, RankLost),
        }
        try:
            first = self._abort_once(reason)
            if isinstance(error, VitrailError):
                error.told = first["rank"] != self.rank
        except (RuntimeError, ValueError):
            pass

    def reason_of_others(self, seconds: float) -> VitrailError | None:
        """Why another process ended, waiting a little for it to be written down."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if self._store.check([self._key(_ABORT)]):
                    return _as_error(json.loads(self._store.get(self._key(_ABORT))))
            except RuntimeError:
                return None
            time.sleep(0.1)
        return None

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._turns += 1
            try:
                self._beat(self._turns)
                if self._store.check([self._key(_ABORT)]):
                    # The main thread may end by itself, with its own words; in a collective call it never would.
                    if not self._ends_by_itself(3.0):
                        self._end(_as_error(json.loads(self._store.get(self._key(_ABORT)))), told=True)
                    return
                self._share_stop()
                reason = self._predecessor() or (self._standstill() if self.rank == 0 else None)
                if reason is None:
                    continue
                text, culprit = reason
                error = RankLost(text, do="What was saved is intact: go on with --resume.")
                first = self._abort_once({"rank": self.rank, "status": 75, "text": str(error), "lost": True})
            except RuntimeError:
                if not self._over.is_set():
                    self._end(RankLost("The launcher or the first process of this run is gone."), told=self.rank != 1)
                return
            if culprit is not None:
                _kill(culprit)
            if not self._ends_by_itself(2.0):
                self._end(error, told=first["rank"] != self.rank)
            return

    def _ends_by_itself(self, seconds: float) -> bool:
        """Whether the main thread ends within so many seconds; meanwhile the guard sees this thread turn."""
        for _ in range(math.ceil(seconds / BEAT_SECONDS)):
            if self._over.wait(BEAT_SECONDS):
                return True
            self._turns += 1
        return False

    def _guard_store(self) -> None:
        """End this process when the store has not answered for too long, counted while this process itself ran."""
        seen, same = -1, 0
        while not self._over.wait(BEAT_SECONDS):
            same = same + 1 if self._turns == seen else 0
            seen = self._turns
            if same * BEAT_SECONDS < self._patience(begun=seen > 0) + 2 * BEAT_SECONDS:
                continue
            if self.rank != 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                _kill(self._processes[0])
            text = "The process that all of this run speak through does not answer: it was stopped, or is cut off."
            self._end(RankLost(text, do="What was saved is intact: go on with --resume."), told=self.rank != 1)

    def _patience(self, *, begun: bool) -> float:
        """Seconds of silence that are allowed, of a process that has begun to speak or not yet."""
        return self.config.silence_seconds if begun else max(self.config.silence_seconds, START_SECONDS)

    def _beat(self, count: int) -> None:
        phase, step = self._place
        still = time.monotonic() - self._since
        said = {
            "count": count,
            "phase": phase,
            "step": step,
            "still": still,
            "where": _main_thread_is_at() if still > self.config.timeout_seconds / 2 else "",
        }
        self._store.set(self._key(f"beat/{self.rank}"), json.dumps(said))

    def _share_stop(self) -> None:
        key = self._key(_STOP)
        if self._stop_spread:
            self._store.set(key, str(self._stop_spread))
            self._stop_spread = 0
        if not self.stop_asked and self._store.check([key]):
            self.stop_asked = int(self._store.get(key))

    def _predecessor(self) -> tuple[str, Process | None] | None:
        """What is wrong with the process before this one, and the process, if it is to be killed."""
        rank = (self.rank - 1) % self.size
        said = self._said_by(rank) or {"count": 0, "phase": "start", "step": 0}
        count, since = self._heard.get(rank, (-1, 0.0))
        if count != said["count"]:
            self._heard[rank] = said["count"], time.monotonic()
            return None
        process = self._processes[rank]
        place = f"rank {rank} (process {process.pid} on {process.host}), last heard of in "
        place += f"{said['phase']} step {said['step']}"
        if process.machine == this_machine() and not _lives(process.pid):
            return f"{place}: it died.", None
        seconds = self._patience(begun=count > 0)
        if time.monotonic() - since > seconds:
            return f"{place}: silent for {seconds:g} s; it was stopped, or its machine cannot be reached.", process
        return None

    def _standstill(self) -> tuple[str, None] | None:
        """Whether no process has got any further for too long, and where each of them stands."""
        if time.monotonic() - self._since <= self.config.timeout_seconds or self._place[0] == "start":
            return None
        everyone = [self._said_by(rank) for rank in range(self.size)]
        if any(said is None or said["still"] <= self.config.timeout_seconds for said in everyone):
            return None
        places = "; ".join(
            f"rank {rank}, {said['phase']} step {said['step']}: {said['where']}"
            for rank, said in enumerate(everyone)
            if said is not None
        )
        return f"Nothing went on for {self.config.timeout_seconds:g} s. {places}.", None

    def _said_by(self, rank: int) -> dict[str, Any] | None:
        key = self._key(f"beat/{rank}")
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def _abort_once(self, reason: dict[str, Any]) -> dict[str, Any]:
        """Write the reason down unless there is one; the one that stands."""
        written = self._store.compare_set(self._key(_ABORT), "", json.dumps(reason))
        return json.loads(written)

    def _end(self, error: VitrailError, *, told: bool) -> None:
        """Leave at once: the main thread may wait in a call that never returns."""
        try:
            if not told:
                say(error)
                if self._place[0] != "start":
                    faulthandler.dump_traceback(sys.stderr, all_threads=True)
            sys.stderr.flush()
        finally:
            os._exit(error.exit_status)

    def _key(self, name: str) -> str:
        return f"{name}/{self._attempt}"

    @property
    def _store(self) -> dist.TCPStore:
        if self._connection is None:
            raise RuntimeError("not connected yet")
        return self._connection

    def _connected(self) -> dist.TCPStore:
        """A connection of its own to the store that the processes met at."""
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return dist.TCPStore(host, port, is_master=False, wait_for_workers=False)


def _as_error(reason: dict[str, Any]) -> VitrailError:
    """The error that another process wrote down; it has been told to the user already."""
    status = reason["status"]
    what, *more = (line.strip() for line in reason["text"].split("\n"))
    do = " ".join(more)
    if status > 128:
        error: VitrailError = Interrupted(what, signal_number=status - 128, do=do)
    elif reason["lost"] or status == 75:
        error = RankLost(what, do=do)
    else:
        error = RankLost(f"rank {reason['rank']} ended: {what}", do=do)
        error.exit_status = status
    error.told = True
    return error


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return True


def _kill(process: Process) -> None:
    """End a silent process of this machine: no gentler signal reaches one that is stopped."""
    if process.machine == this_machine() and _lives(process.pid):
        with contextlib.suppress(OSError):  # another was quicker
            os.kill(process.pid, signal.SIGKILL)


def _main_thread_is_at() -> str:
    """The innermost line of ours, and of all, that the main thread executes."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return "nowhere"
    stack = traceback.extract_stack(frame)
    ours = [entry for entry in stack if f"{os.sep}vitrail{os.sep}" in entry.filename] or stack
    inner, last = ours[-1], stack[-1]
    place = f"{os.path.basename(inner.filename)}:{inner.lineno} {inner.name}"
    return place if last is inner else f"{place}, in {last.name} of {os.path.basename(last.filename)}"
