"""What a run keeps: its state, saved beside the training and taken up again, exactly or with the reasons why not."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from vitrail import distributed, fsio
from vitrail.config import RunConfig, from_json
from vitrail.distributed import World
from vitrail.errors import ConfigError, RunError, SaveError, shown
from vitrail.run import (
    Checkpoint,
    RunDir,
    RunResult,
    describe_numerics,
    differences,
    load_checkpoint,
    newest_checkpoint,
    remove_unfinished,
    save_checkpoint,
)
from vitrail.run.lock import RunLock
from vitrail.run.saver import Saver, copy_tensors
from vitrail.terminal import say
from vitrail.training.linear_kernels import LINEAR, LinearBy
from vitrail.training.optim import load_optimizer_tensors, optimizer_tensors, wrong_optimizer_tensor
from vitrail.training.step import TrainStep


@dataclass
class State:
    """What changes during a run besides tensors; all of it is saved with a checkpoint."""

    step: int = 0
    num_examples_seen: int = 0
    train_seconds: float = 0.0
    evaluated_step: int = -1
    best_step: int = 0
    stale: int = 0
    skipped_in_a_row: int = 0
    final: dict[str, float] = field(default_factory=dict[str, float])
    best: dict[str, float] = field(default_factory=dict[str, float])


class Checkpointer:
    """Saves the state of a run and takes it up again.

    Args:
        config: of the run.
        run_dir: where.
        world: the processes of the run; the first one writes.
        lock: the right to write there; None on the others.
        linear: whose products train the linear layers.
    """

    def __init__(
        self,
        config: RunConfig,
        run_dir: RunDir,
        world: World,
        lock: RunLock | None,
        device: torch.device,
        linear: LinearBy = "",
    ) -> None:
        self.config, self.run_dir, self.world, self.lock = config, run_dir, world, lock
        self.about = describe_numerics(config, device, world.size, linear)
        self.saver = Saver(asynchronous=config.checkpoint.asynchronous)
        self._saved = (-1, -1)
        self._failed: Callable[[], None] | None = None

    def save(self, train_step: TrainStep, state: State, *, wait: bool = False) -> None:
        """Save the state, unless it was saved already. All processes must call it.

        Args:
            wait: until it is on the disk.
        Raises:
            SaveError: it, or the one before it, could not be written; earlier checkpoints are intact. With
                checkpoint.on_error=retry only where `wait` asks for it and a second attempt fails too.
            RunError: another process has taken the run over, or weights are not finite.
        """
        with self.world.patiently():
            if self._saved != (state.step, state.evaluated_step):
                self._submit(train_step, state)
            if wait:
                self._wait()

    def _submit(self, train_step: TrainStep, state: State) -> None:
        tensors = {
            "model": distributed.gather_tensors(train_step.model.state_dict()),
            "optim": distributed.gather_tensors(optimizer_tensors(train_step.optimizers)),
        }
        if train_step.average:
            tensors["ema"] = distributed.gather_tensors(train_step.average.tensors)
        self._saved = state.step, state.evaluated_step  # on all processes, which have to agree on when to gather
        if self.lock is None:
            return
        self.lock.check()
        values = {**vars(state), "scaler": train_step.scaler.state_dict()}
        step, kept = state.step, copy_tensors(tensors)
        best_step = state.best_step if self.config.checkpoint.keep_best else None

        def write() -> None:
            for log in (self.run_dir.metrics, self.run_dir.timing):
                log.flush_to_disk()
            wanted, about = self.config.checkpoint, self.about
            folder = self.run_dir.checkpoints_dir
            save_checkpoint(folder, step, kept, values, keep=wanted.keep, about=about, best_step=best_step)

        with self._tolerated("training goes on and saves again later."):
            self.saver.wait()  # the save before this one may have failed; this one begins in any case
        self._failed = None
        with self._tolerated("training goes on and saves again later."):
            self.saver.submit(lambda: self._noted(write))

    def _noted(self, write: Callable[[], None]) -> None:
        """Save, and remember what could not be saved."""
        try:
            write()
        except SaveError:
            self._failed = write
            raise

    def _wait(self) -> None:
        """Wait for the save that is under way; no other one follows, so one that failed is tried once more."""
        with self._tolerated("it is tried once more."):
            self.saver.wait()
        if self._failed:
            self._failed()
            self._failed = None

    @contextlib.contextmanager
    def _tolerated(self, then: str) -> Iterator[None]:
        """Tell of a save that failed instead of stopping, where checkpoint.on_error says so."""
        try:
            yield
        except SaveError as error:
            if self.config.checkpoint.on_error == "stop":
                raise
            say(error)
            say(then)

    def restore(self, train_step: TrainStep) -> tuple[State | None, list[str]]:
        """Take up the newest whole checkpoint of the run directory. All processes must call it.

        Returns:
            The state, None where the run ended before its first checkpoint; and what is to be told about it.
        Raises:
            RunError: every checkpoint is damaged, or not every process sees the run directory.
        """
        distributed.check_one_run_directory(self.world, self.run_dir.exists(), self.run_dir.path)
        directory = self.run_dir.checkpoints_dir

        def look() -> tuple[str, list[str]]:
            remove_unfinished(directory)
            newest, refused = newest_checkpoint(directory)
            for line in refused:  # out of the way of rotation, and still there to be looked at
                name = line.split()[0]
                fsio.rename(directory / name, directory / f"refused-{name}")
            return (newest.name if newest else ""), refused

        name, lines = self.world.run_on_first(look)
        if not name:
            self._cut_logs(-1)  # what was measured before the first step is measured again
            return None, [*lines, "no checkpoint yet: the run starts again from its first step"]
        checkpoint = load_checkpoint(directory / name)
        self._put_back(train_step, checkpoint)
        state = self._state(train_step, checkpoint)
        self._saved = state.step, state.evaluated_step
        self._repeat_products(train_step, checkpoint)
        reasons = [*differences(checkpoint.about, self.about)]
        if self.config.compute.compile:
            reasons.append("torch.compile may choose other kernels")
        exact = "exactly as if it had not been interrupted" if not reasons else f"not bit-exact: {'; '.join(reasons)}"
        lines += [f"{name} verified (SHA-256): the run goes on from step {state.step}, {exact}"]
        self._cut_logs(state.step)
        if self.lock is not None:
            self.run_dir.note_resumed({"step": state.step, "exact": not reasons, "reasons": reasons, **self.about})
        return state, lines

    def _state(self, train_step: TrainStep, checkpoint: Checkpoint) -> State:
        """What the state holds besides tensors. Raises RunError where it is not what a run of this kind writes."""
        values = dict(checkpoint.state)
        scaler, mine = values.pop("scaler", {}), train_step.scaler.state_dict()
        try:
            checked = from_json(State, values, allow_missing=True)
            scores = [score for score in (checked.final, checked.best) if score]
            counts = (checked.evaluated_step + 1, checked.best_step, checked.stale, checked.skipped_in_a_row)
            right = (
                all(score.keys() == {"epoch", "accuracy", "loss"} for score in scores)
                and min(*counts, checked.step, checked.num_examples_seen, checked.train_seconds) >= 0
                and max(checked.evaluated_step, checked.best_step) <= checked.step
                and (bool(checked.best) or (not checked.final and checked.evaluated_step <= 0))
                and isinstance(scaler, dict)
                and (not scaler or not mine or scaler.keys() == mine.keys())  # fp16 on another device has none
                and all(type(value) in (int, float) and 0 <= value < 1e38 for value in scaler.values())
            )
        except ConfigError as error:
            raise RunError(f"{checkpoint.path / 'state.json'}: is not that of a run.", got=error) from error
        if not right:
            raise RunError(f"{checkpoint.path / 'state.json'}: its numbers contradict each other.")
        if scaler and mine:
            train_step.scaler.load_state_dict(scaler)
        return State(**values)

    def _repeat_products(self, train_step: TrainStep, checkpoint: Checkpoint) -> None:
        """Multiply as before the interruption where nothing but that choice differs."""
        if self.config.compute.cpu_linear != "auto":
            return
        for before in LINEAR:
            about = {**self.about, "linear": before}
            if before == checkpoint.about.get("linear") and not differences(checkpoint.about, about):
                self.about, train_step.linear = about, before

    def _put_back(self, train_step: TrainStep, checkpoint: Checkpoint) -> None:
        """Check every tensor, then copy; a checkpoint that is not of this run changes nothing."""
        tensors, mine = checkpoint.tensors, {"model": train_step.model.state_dict()}
        if train_step.average:
            mine["ema"] = train_step.average.tensors
        if tensors.keys() != {*mine, "optim"}:
            found = ", ".join(sorted(tensors))
            raise RunError(f"{checkpoint.path}: has other parts than this run.", got=found)
        for group, named in mine.items():
            _check_alike(named, tensors[group], checkpoint, group)
        if (wrong := wrong_optimizer_tensor(train_step.optimizers, tensors["optim"])) is not None:
            raise RunError(f"{checkpoint.path}: tensor {shown(wrong)} of the optim is not that of this run.")
        for group, named in mine.items():
            for name, tensor in tensors[group].items():
                distributed.copy_whole(named[name], tensor)
        load_optimizer_tensors(train_step.optimizers, tensors["optim"])

    def _cut_logs(self, step: int) -> None:
        if self.lock is not None:
            self.run_dir.cut_metrics(step)

    def close(self) -> None:
        """Let a save that is under way finish."""
        self.saver.close()


def run_result(run_dir: RunDir, state: State, epochs: int, deterministic: dict[str, Any]) -> RunResult:
    """What a run came to that has reached its end."""
    return RunResult(
        run=run_dir.path,
        model=run_dir.best_path,
        epochs=epochs,
        steps=state.step,
        num_examples_seen=state.num_examples_seen,
        train_seconds=state.train_seconds,
        images_per_second=state.num_examples_seen / state.train_seconds if state.train_seconds else 0.0,
        final=state.final,
        best=state.best,
        evaluation=run_dir.read_evaluation(),
        baseline=run_dir.read_baseline(),
        deterministic=deterministic,
    )


def _check_alike(
    mine: dict[str, torch.Tensor], stored: dict[str, torch.Tensor], checkpoint: Checkpoint, group: str
) -> None:
    """Raise RunError for a stored tensor that is missing, over, or of another shape or type than ours."""
    for name in sorted(mine.keys() | stored.keys()):
        ours, theirs = (
            f"{tuple(t[name].shape)} {t[name].dtype}".replace("torch.", "") if name in t else "nothing"
            for t in (mine, stored)
        )
        if ours != theirs:
            raise RunError(
                f"{checkpoint.path}: tensor {shown(name)} of the {group} is not that of this run.",
                got=theirs,
                expected=ours,
            )
