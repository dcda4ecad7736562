"""Training, top to bottom: a `RunConfig` in, a run directory out. Here the set-up; the loop is in loop.py."""

import contextlib
from pathlib import Path
from typing import Any

import torch

from vitrail import data, distributed, fsio
from vitrail.config import RunConfig
from vitrail.data import ImageSet
from vitrail.distributed import World
from vitrail.errors import ConfigError, RunError
from vitrail.run import RunDir, RunResult, check_resumable, next_free_run
from vitrail.run.lock import RunLock, hold_lock
from vitrail.runtime.device import pick_device
from vitrail.terminal import say
from vitrail.training import transfer
from vitrail.training.checkpointing import Checkpointer
from vitrail.training.loop import Loop
from vitrail.training.machine import check_can_compile, keep_freed_memory
from vitrail.training.precision import to_fp8
from vitrail.training.setup import check_has_features, needed_bytes, plan, skipped


def train(
    config: RunConfig, run: str | Path | None = None, *, resume: bool = False, progress: bool = False
) -> RunResult:
    """Train a model, from scratch or from pretrained weights, and evaluate it.

    Started by torchrun, or by `vitrail train --nproc N`, several processes share the run; all get the same result.

    Args:
        config: the whole run, as from `vitrail.recipes.get`.
        run: the run directory; None: runs/NAME, with the recipe's name and the next free number.
        resume: go on with the run that `run` holds.
        progress: show a bar and a line for each epoch on standard error.
    Raises:
        ConfigError, DataError, RunError: what was asked for cannot be done; nothing was written.
        SaveError: saving failed; what was saved before is intact.
        Interrupted: SIGINT or SIGTERM; the state is saved and `resume` goes on.
        RankLost: another process of the run died or hangs; `resume` goes on.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(config.compute.num_threads or threads)
    try:
        with (
            distributed.join_processes(config.parallel, config.compute.device) as world,
            contextlib.ExitStack() as stack,
        ):
            path = world.run_on_first(lambda: str(run or next_free_run(config.recipe or "run")))
            resume = resume or (distributed.is_restarted() and RunDir(Path(path)).exists())
            return _train(config, RunDir(Path(path)), world, stack, resume, progress and world.is_first)
    finally:
        torch.set_num_threads(threads)


def _train(
    config: RunConfig, run_dir: RunDir, world: World, stack: contextlib.ExitStack, resume: bool, progress: bool
) -> RunResult:
    """Train on one of the processes of a run."""
    locks: list[RunLock] = []
    device = _device(config, world)
    check_can_compile(config.compute, device)
    if device.type == "cpu":
        keep_freed_memory()

    def check() -> None:
        if resume:
            run_dir.check_own()
            check_resumable(config, run_dir.read_config())
            locks.append(stack.enter_context(hold_lock(run_dir.path)))
        else:
            run_dir.check_free()
        fsio.check_writable(run_dir.path, needed_bytes(config, run_dir.path))

    def start(described: dict[str, Any]) -> None:
        locks.append(stack.enter_context(hold_lock(run_dir.path)))
        run_dir.start(config, described)

    check_has_features(config)
    world.run_on_first(check)
    splits = _load(config, world, progress)
    train_set, held_out = splits["train"], splits[config.evaluation.split]
    preprocessing = data.preprocessing_for(config.data)
    sets, test_set = (train_set, held_out, preprocessing), splits["test"] if config.evaluation.test_best else None
    torch.manual_seed(config.seed)
    # A run that was killed before its first checkpoint has nothing else to start from either.
    taken_up = resume and world.run_on_first(lambda: any(run_dir.checkpoints_dir.glob("step-*")))
    model, origin = transfer.initial_model(config, preprocessing, train_set.classes, resume=taken_up)
    transfer.prepare(model, config.optim)
    model.to(device)
    model.checkpoint_activations = config.compute.checkpoint_activations
    to_fp8(model, config.compute, device)
    if config.probe.method != "none":
        if world.size > 1:
            raise ConfigError("Probes are fitted by one process.", got=f"{world.size} processes", expected=1)
        if resume:
            raise RunError(f"{run_dir.path}: is finished: a probe is fitted in one go.", do="Start a new run.")
        told = plan(config, model, train_set, held_out, test_set, 0, device, run_dir.path, world)
        for line in (*told, *train_set.notes, *skipped(train_set.errors)) if progress else ():
            say(line, prefix="")
        with hold_lock(run_dir.path):
            return transfer.probe_run(config, run_dir, *sets, model, origin, progress, test_set)
    loop = Loop(config, run_dir, world, device, *sets, model, origin, progress, test_set)
    if not resume:
        world.run_on_first(lambda: start(loop.environment))
    saving = Checkpointer(config, run_dir, world, locks[0] if locks else None, device, loop.train_step.linear)
    stack.callback(saving.close)
    return loop.run(saving, resume=resume)


def _device(config: RunConfig, world: World) -> torch.device:
    device = pick_device(config.compute.device)
    if world.size > 1 and device.type == "cuda":
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return device


def _load(config: RunConfig, world: World, progress: bool) -> dict[str, ImageSet]:
    """The data; where several processes share a machine the first loads before the others, who find what it left."""
    splits: dict[str, ImageSet] = {}
    for turn in (True, False):
        if (world.local_rank == 0) == turn:
            wanted = ("train", config.evaluation.split, *(("test",) if config.evaluation.test_best else ()))
            splits = data.load(config.data, wanted, progress=progress)
        world.gather(None)
    return splits
