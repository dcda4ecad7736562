"""Starting several processes on this machine, with torchrun's own engine."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from vitrail.errors import ConfigError, RankLost, shown

PLACE = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells a process of its place among WORLD_SIZE others."""


def is_launched() -> bool:
    """Whether this process was started by torchrun, or by `launch`."""
    return "TORCHELASTIC_RUN_ID" in os.environ or number_in("WORLD_SIZE", 1) > 1


def rank_in_launch() -> int:
    """This process's rank among those that were started together; 0 where the environment is not that of a launch."""
    if number_in("WORLD_SIZE", 1) < 2 or any(name not in os.environ for name in PLACE):
        return 0
    return number_in("RANK", 0)


def leave_launch() -> None:
    """Forget that this process is one of several, for it and those that it starts."""
    for name in ("WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        os.environ.pop(name, None)


def is_restarted() -> bool:
    """Whether torchrun started this process anew after a failure: the run goes on by itself."""
    return number_in("TORCHELASTIC_RESTART_COUNT", 0) > 0


def number_in(name: str, default: int) -> int:
    """A variable of the environment that a launcher sets. Raises ConfigError when it is no number."""
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ConfigError(
            f"{name} in the environment is set by torchrun, to a number.",
            got=shown(repr(value)),
            expected="a number >= 0, or no such variable",
            do=f"Unset it: unset {name}",
        )
    return int(value)


def launch(arguments: Sequence[str], nproc: int, *, max_restarts: int = 0, grace_seconds: int = 30) -> int:
    """Run `vitrail ARGUMENTS` in `nproc` processes and wait for them; all end when this one does.

    Args:
        arguments: of the command line, without --nproc.
        nproc: how many processes.
        max_restarts: times that all of them are started again after one failed; they resume.
        grace_seconds: what they get to save in when this process is asked to stop.
    Returns:
        The exit status: that of the process that failed first.
    Raises:
        RankLost: a signal killed one of them.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # what went wrong is told once, below
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # Threads of several processes share the cores; without this each would take all of them.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        monitor_interval=0.1,
        shutdown_timeout=grace_seconds,
        local_addr="localhost",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "vitrail", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        failures = sorted(error.failures.values(), key=lambda f: (f.timestamp, f.local_rank))
        told = [f.exitcode for f in failures if f.exitcode > 0]
        if failure.exitcode >= 0 or RankLost.exit_status in told:  # the others have said why
            return max(failure.exitcode, *told)
        name = signal.Signals(-failure.exitcode).name
        if failure.exitcode in (-signal.SIGTERM, -signal.SIGINT) and not told:
            return 128 - failure.exitcode
        raise RankLost(
            f"rank {rank} (process {failure.pid}) was killed by {name}.",
            expected="every process alive",
            do="What was saved is intact: go on with --resume. Memory that ran out is the usual reason for SIGKILL.",
        ) from error
    except SignalException as error:
        return 128 + error.sigval
    return 0
