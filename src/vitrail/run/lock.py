"""One writer a run directory, also on file systems that cannot lock, and after the death of the writer.

Locks are files `.lock-N` in the run directory, N counting up. The holder is whoever made the highest one, and it says
in it who it is. Taking over means creating the next number, which the file system lets one process do; the file stays
when the run is over, marked as released, so that a number is never used twice. A holder counts as gone when its
process is (on the same machine), or when it has not touched its file for a minute (on another one).
"""

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vitrail import fsio
from vitrail.errors import RunError, SaveError, shown
from vitrail.process_identity import start_of, this_machine, this_process
from vitrail.reading import read_json_object

HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0
_MAX_BYTES = 1 << 16
_LOCK_FILE = re.compile(r"\.lock-(\d{1,18})$")


class RunLock:
    """The right to write a run directory. Use `hold_lock`.

    Args:
        directory: of the run.
        path: the lock file that this process made.
    """

    def __init__(self, directory: Path, path: Path) -> None:
        self.directory, self.path = directory, path
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Raise RunError as `check_lock` does."""
        check_lock(self.path)

    def release(self) -> None:
        """Let others write; saves nothing else."""
        self._over.set()
        self._heart.join()
        with contextlib.suppress(SaveError):
            if _highest(self.directory) == self.path:
                fsio.write_json(self.path, {"released": True})

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(SaveError):
                fsio.touch(self.path)


@contextlib.contextmanager
def hold_lock(directory: Path) -> Iterator[RunLock]:
    """Hold the lock of a run directory for the length of a `with` block. The directory is created when missing.

    Raises:
        RunError: another process that is alive writes there.
        SaveError: the lock file cannot be written.
    """
    lock = RunLock(directory, _acquired(directory))
    try:
        yield lock
    finally:
        lock.release()


def check_lock(path: Path) -> None:
    """Raise RunError when another process has taken over, as after this one slept for longer than the lease.

    Args:
        path: the lock file that this process, or the first of its run, made.
    """
    directory = path.parent
    if (highest := _highest(directory)) is None or highest != path:
        raise RunError(
            f"{directory}: another process has taken this run over.",
            got="none" if highest is None else f"{highest.name}: {_who(_content(highest))}",
            expected=f"{path.name}, of this process",
            do="Let the other one finish, or stop it and resume.",
        )


def is_held(directory: Path) -> bool | None:
    """Whether a process that is alive writes a run directory; None: the last one died without giving the lock back, or
    nothing can be found out.
    """
    highest = _highest(directory)
    holder = _content(highest) if highest else {}
    if highest is None or not holder:
        return False
    try:
        return None if _gone(highest, holder) else True
    except SaveError:
        return None


def is_lock_file(name: str) -> bool:
    """Whether a file of a run directory is a lock of this kind."""
    return _LOCK_FILE.match(name) is not None


def _acquired(directory: Path) -> Path:
    """Make the next lock file. Raises RunError while its holder is alive."""
    content = json.dumps(asdict(this_process())).encode()
    while True:
        highest = _highest(directory)
        if highest is not None and (holder := _content(highest)) and not _gone(highest, holder):
            raise RunError(
                f"{directory}: another process is writing this run.",
                got=_who(holder),
                expected="one writer",
                do="Wait for it or stop it; its run can be resumed. Or choose another directory with --run.",
            )
        mine = directory / f".lock-{_number(highest) + 1}"
        if not is_lock_file(mine.name):
            raise RunError(f"{mine}: locks cannot be counted beyond this.", do="Delete the .lock files of this run.")
        if not fsio.create_exclusively(mine, content):
            continue
        if _highest(directory) != mine:  # this one came late: numbers had been made and removed in between
            fsio.remove(mine)
            continue
        for old in _locks(directory)[:-1]:
            with contextlib.suppress(SaveError):
                fsio.remove(old)
        return mine


def _locks(directory: Path) -> list[Path]:
    found = [path for path in directory.glob(".lock-*") if is_lock_file(path.name)]
    return sorted(found, key=_number)


def _highest(directory: Path) -> Path | None:
    found = _locks(directory)
    return found[-1] if found else None


def _number(path: Path | None) -> int:
    match = _LOCK_FILE.match(path.name) if path else None
    return int(match[1]) if match else 0


def _content(path: Path) -> dict[str, Any]:
    """Who holds a lock; empty when it was released, removed or cannot be read."""
    try:
        content = read_json_object(path, _MAX_BYTES)
    except (OSError, ValueError):
        return {}
    return {} if content.get("released") else content


def _who(holder: dict[str, Any]) -> str:
    return f"process {shown(holder.get('pid'))} on {shown(holder.get('host'))}"


def _gone(path: Path, holder: dict[str, Any]) -> bool:
    if holder.get("machine") == this_machine():
        pid: Any = holder.get("pid")
        known = type(pid) is int and 0 < pid < 2**31
        return not known or start_of(pid) != holder.get("process_started")
    return _silent_for(path) > LEASE_SECONDS


def _silent_for(path: Path) -> float:
    """Seconds since the holder touched its file, by the clock of the file system: hosts may disagree about the time."""
    probe = path.with_name(f"{path.name}.probe-{os.getpid()}")
    try:
        fsio.write_bytes(probe, b"")
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return LEASE_SECONDS + 1
    finally:
        with contextlib.suppress(SaveError):
            fsio.remove(probe)
