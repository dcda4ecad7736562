"""The processes of a run, and the little they say to each other.

One process is the common case and costs nothing: every method then answers at once. Several are started by
`vitrail ... --nproc N` or by torchrun, which tell each its rank through the environment.
"""

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitrail.config import ParallelConfig
from vitrail.distributed import faults
from vitrail.distributed.heartbeat import Heartbeat
from vitrail.distributed.launch import PLACE, number_in
from vitrail.distributed.reason import RESUME, read_reason, record_reason
from vitrail.distributed.rendezvous import meet
from vitrail.distributed.watchdog import Watchdog
from vitrail.errors import ConfigError, RankLost, RunError, VitrailError

T = TypeVar("T")
# Nothing waits this long: the watchdog ends a run that stands still much earlier. This one would go by the clock, and
# end a job that was suspended for longer.
_GROUP_TIMEOUT = datetime.timedelta(days=30)
_STOP, _STOP_POLL_SECONDS = "stop", 0.5


class World:
    """What one process knows about all of them.

    Args:
        rank: of this process, 0 is the first.
        size: number of processes.
        local_rank: of this process on its machine.
        watchdog: of this process; None for one process.
        store: what the processes of this attempt can write to and read from; None for one process.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        watchdog: Watchdog | None = None,
        store: dist.Store | None = None,
    ) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._watchdog, self._store, self._stop_polled = watchdog, store, 0.0
        # Small words between processes go over the CPU, so that no GPU waits for them.
        self._control: Any = dist.new_group(backend="gloo", timeout=_GROUP_TIMEOUT) if size > 1 else None
        self._vote: tuple[Tensor, Any] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    @property
    def backend(self) -> str:
        """What carries gradients: gloo, nccl; none for one process."""
        return dist.get_backend() if self.size > 1 else "none"

    def share_of(self, count: int) -> slice:
        """The part of `count` things, in their order, that is this process's: sizes differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def share_size(self, count: int, rank: int) -> int:
        """How many of `count` things a process has."""
        return count * (rank + 1) // self.size - count * rank // self.size

    def report_progress(self, phase: str, step: int) -> None:
        """Note that work goes on, and on what."""
        if self._watchdog:
            self._watchdog.report(phase, step)

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """Allow more time than to a step, for the length of a `with` block: how long its work takes is not known."""
        if self._watchdog:
            self._watchdog.is_patient = True
        yield
        if self._watchdog:
            self._watchdog.is_patient = False

    def wait_for_all(self) -> None:
        """Wait until all processes are here: one of them may have had work of its own. All of them must call it."""
        self.gather(None)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes of an integer or float64 tensor, exact for integers. All of them must call it."""
        if self.size == 1:
            return values
        summed = values.cpu().clone()
        with self.patiently():
            dist.all_reduce(summed, group=self._control)
        return summed

    def run_on_first(self, work: Callable[[], T]) -> T:
        """Do something on the first process alone; all get its result, or raise its error. All of them must call it."""
        if self.size == 1:
            return work()
        with self.patiently():
            return self._run_on_first(work)

    def _run_on_first(self, work: Callable[[], T]) -> T:
        answer: list[Any] = [None]
        if self.is_first:
            try:
                answer = [("done", work())]
            except VitrailError as error:
                dist.broadcast_object_list([("failed", (str(error), error.exit_status))], group=self._control)
                raise
        dist.broadcast_object_list(answer, group=self._control)
        kind, value = answer[0]
        if kind == "failed":
            error = VitrailError(value[0])
            error.exit_status, error.is_shown_elsewhere = value[1], True
            raise error
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all processes in the order of their ranks, on every one. All of them must call it."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.patiently():
            dist.all_gather_object(values, value, group=self._control)
        return values

    def gather_on_first(self, value: T) -> list[T] | None:
        """The values of all processes in the order of their ranks, on the first one; None on the others.

        All of them must call it.
        """
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_first else None
        with self.patiently():
            dist.gather_object(value, values, group=self._control)
        return values

    def broadcast_weights(self, model: nn.Module, *, buffers_alone: bool = False) -> None:
        """Give every process the first one's weights and statistics. All of them must call it."""
        if self.size == 1:
            return
        tensors = dict(model.named_buffers())
        if not buffers_alone:
            tensors |= dict(model.named_parameters())
        with self.patiently(), torch.no_grad():
            for tensor in tensors.values():
                on_cpu = tensor.detach().cpu()
                dist.broadcast(on_cpu, src=0, group=self._control)
                tensor.copy_(on_cpu)

    def agree_on_stop(self, signal_number: int) -> int:
        """The signal that any process was told to stop with, the same answer on all; 0: none.

        What a process says is heard at the next call, so that nobody waits for the answer. All of them must call it
        equally often.
        """
        if self.size == 1:
            return signal_number
        heard = 0
        if self._vote is not None:
            said, work = self._vote
            work.wait()
            heard = int(said)
        said = torch.tensor(signal_number)
        self._vote = said, dist.all_reduce(said, op=dist.ReduceOp.MAX, group=self._control, async_op=True)
        return heard

    def heard_stop(self, signal_number: int) -> int:
        """The signal that this process, or any other, was asked to stop with; 0: none. Waits for nobody.

        Args:
            signal_number: what this process was asked to stop with; the others hear of it within a second.
        """
        if self._store is None:
            return signal_number
        if signal_number:
            self._store.set(_STOP, str(signal_number))
        elif time.monotonic() - self._stop_polled > _STOP_POLL_SECONDS:
            self._stop_polled = time.monotonic()
            if self._store.check([_STOP]):
                return int(self._store.get(_STOP))
        return signal_number


@contextlib.contextmanager
def join_processes(config: ParallelConfig, device: str) -> Iterator[World]:
    """Join the processes that were started together, for the length of a `with` block.

    When the block is left with an error the others end too, with the same exit status.

    Raises:
        RankLost: another process died or hangs.
        ConfigError: the environment of the launch is not whole.
    """
    size = number_in("WORLD_SIZE", 1)
    if size < 2:
        yield World()
        return
    missing = [name for name in PLACE if name not in os.environ]
    if missing:
        raise ConfigError(
            "WORLD_SIZE says that there are several processes, but this one does not know its place.",
            got=f"no {', '.join(missing)}",
            expected="the environment that torchrun makes",
            do="Start with --nproc N, or with torchrun; for one process: unset WORLD_SIZE",
        )
    rank, local_rank = number_in("RANK", 0), number_in("LOCAL_RANK", 0)
    on_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    watchdog, store = Watchdog(rank, config.timeout_seconds), None
    watchdog.start()

    def start_heartbeat(store: dist.Store) -> None:
        if config.silence_seconds:
            Heartbeat(store.clone(), size, config.silence_seconds, watchdog).start()  # type: ignore[attr-defined]

    try:
        store = meet(rank, size, start_heartbeat)
        faults.trigger("start", 0, rank)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda else "gloo", store=store, rank=rank, world_size=size, timeout=_GROUP_TIMEOUT
        )
        world = World(rank, size, local_rank, watchdog, store)
        yield world
        world.wait_for_all()  # the first to be done waits for the last: its heartbeat would be missed
    except BaseException as error:
        ending = error if store is None else _explain(error, store, rank)
        if store is not None:
            record_reason(store, rank, ending)
        raise ending from error
    finally:
        watchdog.stop()
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError, ValueError):
                dist.destroy_process_group()


def _explain(error: BaseException, store: dist.Store, rank: int) -> BaseException:
    """What happened, when the error is only that a partner of this process is gone."""
    is_partner_gone = isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and not isinstance(error, VitrailError) and "gloo" in str(error)
    )
    if not is_partner_gone:
        return error
    for _ in range(10):
        with contextlib.suppress(RuntimeError):
            if reason := read_reason(store, rank):
                return reason
        time.sleep(0.1)
    return RankLost(
        "A process of this run is gone.",
        got=str(error).splitlines()[0][:200],
        do=f"{RESUME} Memory that ran out is the usual reason.",
    )


def check_one_run_directory(world: World, visible: bool, path: object) -> None:
    """Raise RunError unless every process sees the run directory, as a run that is resumed needs."""
    missing = [rank for rank, seen in enumerate(world.gather(visible)) if not seen]
    if missing:
        raise RunError(
            f"{path}: not every process sees this run directory.",
            got=f"rank {missing[0]} does not",
            expected="a directory that all machines share",
            do="Put the run on a shared file system, or copy it to each machine.",
        )
