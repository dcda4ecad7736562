"""Ending a process that gets no further: it hangs, or waits for another one that hangs, was stopped or is cut off.

A thread counts its own turns since the main thread last reported progress. Turns, not time: while the whole job is
suspended no turn is taken. (The time-outs of torch's process groups go by the clock, and end such a job.) A first step
may compile, and work that the first process does alone has no known length; both are given ten times as long.
"""

import os
import threading
from collections.abc import Callable

from vitrail.distributed.reason import RESUME, end_process
from vitrail.errors import RankLost

TURN_SECONDS = 0.5
PATIENCE = 10
"""How many times longer a first step, or a wait for work of one process, may take."""
_SLOWEST = 2
"""How many times longer a step may take than the slowest one so far."""


class TurnCounter:
    """Counts for how many calls in a row a value has been the same."""

    def __init__(self) -> None:
        self._value: object = None
        self.turns = 0

    def count(self, value: object) -> int:
        """Count a turn, in which the value was this one."""
        self.turns = self.turns + 1 if value == self._value else 0
        self._value = value
        return self.turns


class Watchdog:
    """Watches the main thread of this process, from a thread of its own.

    Args:
        rank: of this process.
        timeout_seconds: how long one step or batch may take.
    """

    def __init__(self, rank: int, timeout_seconds: float) -> None:
        self.rank, self.timeout_seconds = rank, timeout_seconds
        self.place, self.is_patient = ("start", 0), False
        self.over = threading.Event()
        self.further_check: Callable[[], RankLost | None] = lambda: None
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._reports, self._slowest_turns, self._turns = 0, 0, TurnCounter()
        self._had_patience = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self.over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def report(self, phase: str, step: int) -> None:
        """Note what the main thread begins to work on."""
        self.place = phase, step
        self._reports += 1

    def _run(self) -> None:
        while not self.over.wait(TURN_SECONDS):
            error = self._check_launcher() or self._check_progress() or self.further_check()
            if error is not None:
                end_process(error)

    def _check_launcher(self) -> RankLost | None:
        if self._launcher in (None, os.getppid()):
            return None
        return RankLost("The launcher of this run is gone.", do=RESUME)

    def _check_progress(self) -> RankLost | None:
        reports, before = self._reports, self._turns.turns
        turns = self._turns.count(reports)
        if reports == 0:
            return None  # how long the start takes depends on the data
        if turns == 0:
            if reports > 1 and not self._had_patience:
                self._slowest_turns = max(self._slowest_turns, before)
            self._had_patience = False
        self._had_patience |= self.is_patient
        most = max(self.timeout_seconds / TURN_SECONDS, _SLOWEST * self._slowest_turns)
        if turns <= most * (PATIENCE if self.is_patient or reports == 1 else 1):
            return None
        phase, step = self.place
        text = f"rank {self.rank} made no progress for {turns * TURN_SECONDS:g} s, in {phase} step {step}"
        return RankLost(f"{text}: the lines above say where its threads stand.", do=RESUME)
