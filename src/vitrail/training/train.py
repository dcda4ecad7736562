"""Training, top to bottom: a `RunConfig` in, a run directory out. Here the set-up; the loop is in loop.py."""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from vitrail import distributed, fsio
from vitrail.config import RunConfig, to_json
from vitrail.config.settings import flat_settings
from vitrail.data import Source
from vitrail.distributed import World
from vitrail.errors import ConfigError, RunError
from vitrail.model import ViT
from vitrail.progress import Bar
from vitrail.run import Origin, RunDir, RunResult, check_resumable, describe_environment, next_free_run
from vitrail.run.lock import hold_lock
from vitrail.runtime.device import pick_device
from vitrail.terminal import say
from vitrail.tracking import Live, check_trackers
from vitrail.training import transfer
from vitrail.training.checkpointing import Checkpointer, needed_bytes, run_result
from vitrail.training.inputs import Inputs
from vitrail.training.linear_kernels import choose_linear_kernels
from vitrail.training.loop import run_loop, stop_if_asked
from vitrail.training.machine import check_can_compile, keep_freed_memory
from vitrail.training.optim import build_optimizers
from vitrail.training.plan import plan, probe_plan
from vitrail.training.precision import autocast_dtype, to_fp8
from vitrail.training.pretraining import MaskedInputs, ReconstructionStep
from vitrail.training.progress import StopRequest, stop_on_signal
from vitrail.training.reporting import Reporter
from vitrail.training.resuming import take_up
from vitrail.training.run import Run, Sets, State, fingerprints, load_sets
from vitrail.training.schedule import timetable
from vitrail.training.step import TrainStep, class_weights
from vitrail.training.teacher import load_teacher
from vitrail.training.teacher_answers import open_answers
from vitrail.training.whitening import whiten


def train(
    config: RunConfig,
    run: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = False,
    source: Source | None = None,
    track: Sequence[str] = (),
) -> RunResult:
    """Train a model, from scratch or from pretrained weights, and evaluate it.

    Started by torchrun, or by `vitrail train --nproc N`, several processes share the run; all get the same result.

    Args:
        config: the whole run, as from `vitrail.recipes.get`.
        run: the run directory; None: runs/NAME, with the recipe's name and the next free number.
        resume: go on with the run that `run` holds.
        progress: show a bar and a line for each epoch on standard error.
        source: the data set, where `vitrail.data.open_source` has opened it already.
        track: where else the log goes, of `vitrail.tracking.NAMES`.
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
            run_dir = RunDir(Path(path))
            return _train(config, run_dir, world, stack, resume, progress and world.is_first, source, track)
    finally:
        torch.set_num_threads(threads)


def _train(
    config: RunConfig,
    run_dir: RunDir,
    world: World,
    stack: contextlib.ExitStack,
    resume: bool,
    progress: bool,
    source: Source | None,
    track: Sequence[str],
) -> RunResult:
    """Train on one of the processes of a run."""
    check_trackers(track)
    device = _device(config, world)
    check_can_compile(config.compute, device)
    transfer.check_has_features(config)
    if device.type == "cpu":
        keep_freed_memory()
    world.run_on_first(lambda: _check_directory(config, run_dir, resume=resume))

    def lock() -> Path:
        return stack.enter_context(hold_lock(run_dir.path)).path

    lock_file = world.run_on_first(lock) if resume else None
    sets = load_sets(config, world, source, progress=progress)
    torch.manual_seed(config.seed)
    # A run that was killed before its first checkpoint has nothing else to start from either.
    has_checkpoint = resume and world.run_on_first(lambda: any(run_dir.checkpoints_dir.glob("step-*")))
    model, origin = _starting_model(config, sets, device, resume=has_checkpoint)
    if config.probe.method != "none":
        _check_can_probe(run_dir, world, resume=resume)
        for line in probe_plan(config, sets, model, device, run_dir.path) if progress else ():
            say(line, prefix="")
        with hold_lock(run_dir.path):
            return transfer.fit_probe(config, run_dir, sets, model, origin, progress=progress)
    run = build_run(config, run_dir, world, device, sets, model, origin, progress=progress)
    state, lines = State(), list[str]()
    if lock_file is None:
        lock_file = world.run_on_first(lock)
        world.run_on_first(lambda: run_dir.start(config, run.environment))
    checkpointer = Checkpointer(run, lock_file)
    stack.callback(checkpointer.close)
    if resume:
        run, state, lines = take_up(run, checkpointer)
    if world.is_first and track:
        track_live(run, state, track, stack)
    reporter = Reporter(run, state)
    for line in (*plan(run), *lines):
        reporter.bar.line(line)
    try:
        with stop_on_signal() as stop:
            if run.environment.init and state.step < run.timetable.total_steps:
                start_from_pretrained(run, state, checkpointer, reporter, stop)
            run_loop(run, state, checkpointer, reporter, stop)
    finally:
        reporter.bar.close()
    return world.run_on_first(lambda: run_result(run, state))


def _starting_model(config: RunConfig, sets: Sets, device: torch.device, *, resume: bool) -> tuple[ViT, Origin | None]:
    """The model before its first step, or before its checkpoint is read, on its device; and where it is from."""
    model, origin = transfer.initial_model(config, sets.preprocessing, sets.train.classes, resume=resume)
    if config.init.patches == "whitened" and not resume:
        whiten(model, sets.train, sets.preprocessing)
    transfer.prepare(model, config.optim)
    model.to(device)
    model.checkpoint_activations = config.compute.checkpoint_activations
    to_fp8(model, config.compute, device)
    return model, origin


def build_run(
    config: RunConfig,
    run_dir: RunDir,
    world: World,
    device: torch.device,
    sets: Sets,
    model: ViT,
    origin: Origin | None,
    *,
    progress: bool,
) -> Run:
    """Put together what a run consists of; nothing is written.

    Args:
        model: on its device, with what never trains frozen.
        origin: of its weights.
    """
    if config.optim.name == "muon" and config.parallel.strategy == "fsdp" and world.size > 1:
        raise ConfigError("Muon needs whole matrices.", got="parallel.strategy fsdp", expected="ddp, or adamw")
    if config.compute.cache_tokens and world.size > 1:
        raise ConfigError("Tokens are cached by one process.", got=f"{world.size} processes", expected=1)
    batch_size = world.share_size(config.data.batch_size, world.size - 1)
    kernels = world.run_on_first(lambda: choose_linear_kernels(config.compute, model, batch_size))
    part = transfer.LastBlocks(model, config.optim.train_last) if config.compute.cache_tokens else None
    forward = None if part else distributed.wrap_model(model, config.parallel, world, compiled=config.compute.compile)
    make_step, make_inputs = TrainStep, Inputs
    if config.is_pretraining:
        make_step, make_inputs = functools.partial(ReconstructionStep, pretrain=config.pretrain), MaskedInputs
    dtype = autocast_dtype(config.compute, device)
    train_step = make_step(
        model, build_optimizers(model, config.optim, len(sets.train), dtype=dtype), config.optim, config.compute,
        config.seed, world=world, forward=forward, part=part, linear=kernels.by,
    )  # fmt: skip
    train_step.class_weights = class_weights(config.optim, sets.train, device)
    train_step.distill = config.distill
    answers = None
    if config.distill.teacher:
        teacher = load_teacher(config, sets.preprocessing, sets.train, device)
        answers = open_answers(teacher, config, sets.preprocessing, sets.train, processes=world.size)
    return Run(
        config=config,
        run_dir=run_dir,
        world=world,
        device=device,
        sets=sets,
        train_step=train_step,
        inputs=make_inputs(config, sets.preprocessing, sets.train, world, answers),
        timetable=timetable(config, len(sets.train)),
        environment=describe_environment(
            config,
            device,
            data=fingerprints(sets),
            init=origin,
            teacher=answers.teacher.about if answers else None,
            linear=vars(kernels),
            processes=world.size,
            local_batch_norm=distributed.batch_norm_is_local(model, world),
        ),
        progress=progress,
    )


def track_live(run: Run, state: State, names: Sequence[str], stack: contextlib.ExitStack) -> None:
    """Let trackers follow the log from here on, until the stack is left."""
    settings, first_step = flat_settings(to_json(run.config)), state.step + 1 if state.step else 0
    live = Live(names, run.run_dir.path, settings, first_step, run.run_dir.read_metrics(), say)
    run.run_dir.metrics.listeners.append(live)
    stack.callback(live.close)


def start_from_pretrained(
    run: Run, state: State, checkpointer: Checkpointer, reporter: Reporter, stop: StopRequest
) -> None:
    """Say what is about to be trained, and compute what does not change; once in a run, measure what the frozen
    pretrained features give.
    """
    model, origin = run.train_step.model, run.environment.init
    assert origin
    spread = distributed.is_spread(model.state_dict())
    for line in transfer.start_lines(run.config, model, run.train_step.optimizers, origin):
        reporter.bar.line(line)
    if run.config.compute.cache_tokens:
        cache_tokens(run, state, checkpointer, reporter, stop)
    if (
        spread
        or not run.config.probe.baseline
        or state.step
        or run.world.run_on_first(run.run_dir.read_baseline) is not None
    ):
        return

    def measure() -> None:
        found, line = transfer.measure_baseline(
            run, lambda _: stop_if_asked(run, state, checkpointer, stop.signal_number)
        )
        reporter.bar.line(line)
        if found:
            values = dict(vars(found))
            seconds = values.pop("seconds")
            run.run_dir.log({"step": 0, "baseline": values})
            run.run_dir.log_time({"step": 0, "baseline_seconds": seconds})

    run.world.run_on_first(measure)
    run.world.broadcast_weights(model)
    if average := run.train_step.average:
        average.model.load_state_dict(model.state_dict())


def cache_tokens(run: Run, state: State, checkpointer: Checkpointer, reporter: Reporter, stop: StopRequest) -> None:
    """Compute what the frozen layers make of the training images, or find it, and train on that from here on."""
    step, sets = run.train_step, run.sets
    cache = transfer.TokenCache(
        run.config, step.model, sets.train, sets.preprocessing, dtype=step.dtype, linear=step.linear
    )
    reporter.bar.line(cache.line())
    if (found := cache.find()) is None:
        with Bar(len(run.sets.train), title="tokens", enabled=run.progress) as bar:

            def on_batch(count: int) -> None:
                bar.advance(count)
                stop_if_asked(run, state, checkpointer, stop.signal_number)

            found = cache.compute(on_batch)
    run.inputs.tokens = found


def _check_directory(config: RunConfig, run_dir: RunDir, *, resume: bool) -> None:
    """Raise RunError, ConfigError or SaveError when the run cannot be there."""
    if resume:
        run_dir.check_own()
        check_resumable(config, run_dir.read_config())
    else:
        run_dir.check_free()
    fsio.check_writable(run_dir.path, needed_bytes(config, run_dir.path))


def _check_can_probe(run_dir: RunDir, world: World, *, resume: bool) -> None:
    if world.size > 1:
        raise ConfigError("Probes are fitted by one process.", got=f"{world.size} processes", expected=1)
    if resume:
        raise RunError(f"{run_dir.path}: is finished: a probe is fitted in one go.", do="Start a new run.")


def _device(config: RunConfig, world: World) -> torch.device:
    device = pick_device(config.compute.device)
    if world.size > 1 and device.type == "cuda":
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return device
