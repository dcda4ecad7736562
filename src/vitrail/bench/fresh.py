"""Work in a process of its own: for what the first call costs, and for peak memory, which never falls again."""

import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def in_fresh_process(code: str, *arguments: str, timeout_s: float = 600.0) -> tuple[dict[str, Any], float]:
    """Run Python code in a new interpreter with this one's import path.

    Args:
        code: prints one JSON object as its last line on standard output; sees `arguments` as sys.argv[1:].
        timeout_s: after which it is given up.
    Returns:
        The object, and the seconds from start to end of the process.
    Raises:
        RuntimeError: it failed; the message has the end of what it said.
    """
    start = time.perf_counter()
    prelude = f"import sys; sys.path[:] = {sys.path!r}\n"
    command = [sys.executable, "-c", prelude + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    passed = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]), passed


def peak_memory_mib() -> float:
    """The most memory that this process ever held, in MiB, without its children.

    On Linux from /proc: what `getrusage` says begins with the size of the process that started this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / (1 << 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
