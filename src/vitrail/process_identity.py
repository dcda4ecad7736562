"""Which process this is, so that another one can tell whether it still lives, and whether it may be killed."""

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, not to be confused with a later one of the same number.

    Args:
        pid: its number on its machine.
        host: name of the machine.
        machine: equal for two processes only if each knows the other by its number: hosts may have the same name, and
            containers count their processes anew.
        process_started: when it started, as `start_of` says it.
    """

    pid: int
    host: str
    machine: str
    process_started: str | None

    def kill(self) -> None:
        """Kill it if it lives on this machine. No gentler signal reaches a process that is stopped."""
        if self.machine == this_machine() and start_of(self.pid) == self.process_started:
            with contextlib.suppress(OSError):  # another was quicker
                os.kill(self.pid, signal.SIGKILL)


def this_process() -> ProcessIdentity:
    """The identity of this process."""
    return ProcessIdentity(os.getpid(), socket.gethostname(), this_machine(), start_of(os.getpid()))


def this_machine() -> str:
    """Names a boot of a machine and what its process numbers mean (containers number their own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} without /proc"


def start_of(pid: int) -> str | None:
    """When a process of this machine started, so that a later one with its number is told apart; None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"
