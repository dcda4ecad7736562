"""Faults on purpose, for drills: VITRAIL_FAULT="PHASE:STEP:RANK:ACTION" in the environment; nothing without it.

PHASE is start (with STEP 0: the processes have just met), train or evaluate, ACTION is kill, stop, hang, term or exit.
`vitrail train digits --nproc 2` with VITRAIL_FAULT=train:7:1:kill shows what a run does when its second process is
killed before its seventh step.
"""

import os
import signal
import time

from vitrail.terminal import say

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
_happened: set[str] = set()  # an evaluation comes by the same step with every batch


def trigger(phase: str, step: int, rank: int) -> None:
    """Let the fault happen that the environment asks for at this point: once, in the first attempt of a run."""
    wanted = os.environ.get("VITRAIL_FAULT")
    if not wanted or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        return
    *place, action = wanted.split(":")
    if place != [phase, str(step), str(rank)] or wanted in _happened:
        return
    _happened.add(wanted)
    say(f"VITRAIL_FAULT: {action} on rank {rank}, {phase} step {step}")
    if action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[action])
    elif action == "hang":
        time.sleep(10_000)
    else:
        raise RuntimeError("VITRAIL_FAULT")
