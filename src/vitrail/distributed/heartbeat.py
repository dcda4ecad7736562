"""Noticing within seconds that another process of a run was stopped or is cut off. An option: see `ParallelConfig`.

A thread in each process writes a count into the store twice a second and looks at that of its predecessor. One that
does not change for too many of its own turns ends the run. The store lives in the launcher or in the first process;
when that one is stopped, asking it takes forever, so the watchdog watches this thread as well.
"""

import json
import os
import threading

import torch.distributed as dist

from vitrail.distributed.reason import RESUME, end_process, read_reason, record_reason
from vitrail.distributed.rendezvous import identity_of
from vitrail.distributed.watchdog import TURN_SECONDS, TurnCounter, Watchdog
from vitrail.errors import RankLost, VitrailError

_LAST_WORDS_SECONDS = 2.0
"""How long the main thread has to end by itself, with words of its own, when the run is over."""


class Heartbeat:
    """Says that this process lives, and listens to its predecessor.

    Args:
        store: of this attempt at the run; a connection that nothing else uses.
        size: number of processes.
        silence_seconds: how long one may be silent.
        watchdog: of this process; says what it works on, and when it is over.
    """

    def __init__(self, store: dist.Store, size: int, silence_seconds: float, watchdog: Watchdog) -> None:
        self._store, self._watchdog, self._rank = store, watchdog, watchdog.rank
        self._predecessor = (self._rank - 1) % size
        self._most_turns = silence_seconds / TURN_SECONDS
        self._first = identity_of(store, 0)
        self._turns, self._own, self._heard = 0, TurnCounter(), TurnCounter()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat; it ends with the watchdog."""
        self._watchdog.further_check = self._check_store
        self._thread.start()

    def _run(self) -> None:
        while not self._watchdog.over.wait(TURN_SECONDS):
            self._turns += 1
            try:
                self._store.set(f"beat/{self._rank}", json.dumps([self._turns, *self._watchdog.place]))
                error = read_reason(self._store, self._rank) or self._check_predecessor()
            except RuntimeError:
                error = RankLost("The launcher or the first process of this run is gone.", do=RESUME)
                error.is_shown_elsewhere = self._rank != 1
            if error is None:
                continue
            if not self._watchdog.over.wait(_LAST_WORDS_SECONDS):
                end_process(error)
            return

    def _check_predecessor(self) -> VitrailError | None:
        """End the run when the process before this one is silent, and that process too if it is on this machine."""
        process, key = identity_of(self._store, self._predecessor), f"beat/{self._predecessor}"
        said = self._store.get(key).decode() if self._store.check([key]) else '[0, "start", 0]'
        if process is None or self._heard.count(said) <= self._most_turns:
            return None
        _, phase, step = json.loads(said)
        error = RankLost(
            f"rank {self._predecessor} (process {process.pid} on {process.host}), last heard of in {phase} step {step},"
            f" was silent for {self._most_turns * TURN_SECONDS:g} s: it died, was stopped, or cannot be reached.",
            do=RESUME,
        )
        record_reason(self._store, self._rank, error)
        process.kill()
        return error

    def _check_store(self) -> RankLost | None:
        """What is wrong when the store has not answered this thread for too long."""
        if self._own.count(self._turns) * TURN_SECONDS <= self._most_turns * TURN_SECONDS + _LAST_WORDS_SECONDS:
            return None
        if self._rank and self._first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            self._first.kill()
        error = RankLost(
            "The process that all of this run speak through does not answer: it was stopped, or is cut off.", do=RESUME
        )
        error.is_shown_elsewhere = self._rank != 1
        return error
