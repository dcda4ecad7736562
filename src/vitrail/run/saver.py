"""Saving beside the training: the loop hands over a copy of its state and goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

Tensors = dict[str, dict[str, torch.Tensor]]


class Saver:
    """Does one save at a time, at once or in a thread, which ends with it.

    A thread that stayed would keep the OpenMP threads that its tensor operations started. There would then be more of
    them than cores, and libgomp hardly spins where that is so: training lost up to 40 % of its speed (docs/LOG.md).

    Args:
        asynchronous: return from `submit` before the save is done.
    """

    def __init__(self, *, asynchronous: bool) -> None:
        self._asynchronous = asynchronous
        self._pending: Future[None] | None = None

    def submit(self, save: Callable[[], None]) -> None:
        """Start a save after the one before is done.

        Raises:
            Whatever the save before this one raised; without a thread, whatever this one raises.
        """
        self.wait()
        if not self._asynchronous:
            return save()
        thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._pending = thread.submit(save)
        thread.shutdown(wait=False)

    def wait(self) -> None:
        """Wait for the save that is under way. Raises whatever it raised."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Let a save that is under way finish; what it raises is lost."""
        if self._pending is not None:
            wait([self._pending])


def copy_tensors(tensors: Tensors) -> Tensors:
    """A copy on the CPU that training does not change."""
    return {
        group: {name: t.detach().to("cpu", copy=True).contiguous() for name, t in named.items()}
        for group, named in tensors.items()
    }
