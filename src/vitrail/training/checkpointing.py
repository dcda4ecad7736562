"""What a run keeps: its state, saved beside the training and taken up again, exactly or with the reasons why not."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from vitrail import distributed, fsio
from vitrail.config import RunConfig, ViTConfig, from_json
from vitrail.errors import ConfigError, DataError, RunError, SaveError, shell_word, shown
from vitrail.model import ViT
from vitrail.run import (
    Checkpoint,
    RunResult,
    describe_numerics,
    differences,
    load_checkpoint,
    newest_checkpoint,
    remove_unfinished,
    save_checkpoint,
)
from vitrail.run.lock import check_lock
from vitrail.run.saver import Saver, copy_tensors
from vitrail.terminal import say
from vitrail.training.linear_kernels import LINEAR
from vitrail.training.optim import load_optimizer_tensors, optimizer_tensors, wrong_optimizer_tensor
from vitrail.training.run import Run, State


class Checkpointer:
    """Saves the state of a run and takes it up again.

    Args:
        run: the first of its processes writes.
        lock_file: of the run directory, which the first process holds.
    """

    def __init__(self, run: Run, lock_file: Path) -> None:
        self.config, self.run_dir, self.world, self.lock_file = run.config, run.run_dir, run.world, lock_file
        self.train_step = run.train_step
        self.about = describe_numerics(
            run.config, run.device, run.world.size, dtype=run.train_step.dtype, linear=run.train_step.linear
        )
        self.saver = Saver(asynchronous=run.config.checkpoint.asynchronous)
        self._saved = (-1, -1)
        self._failed: Callable[[], None] | None = None

    def save(self, state: State, *, wait: bool = False) -> None:
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
                self._submit(state)
            if wait:
                self._wait()

    def _submit(self, state: State) -> None:
        train_step = self.train_step
        tensors = {
            "model": distributed.gather_tensors(train_step.model.state_dict()),
            "optim": distributed.gather_tensors(optimizer_tensors(train_step.optimizers)),
        }
        if train_step.average:
            tensors["ema"] = distributed.gather_tensors(train_step.average.tensors)
        self._saved = state.step, state.evaluated_step  # on all processes, which have to agree on when to gather
        if not self.world.is_first:
            return
        check_lock(self.lock_file)
        scores = {name: vars(score) if score else {} for name, score in (("final", state.final), ("best", state.best))}
        values = {**vars(state), **scores, "scaler": train_step.scaler.state_dict()}
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

    def restore(self) -> tuple[State | None, list[str]]:
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
        self._put_back(checkpoint)
        state = self._state(checkpoint)
        self._saved = state.step, state.evaluated_step
        self._repeat_linear_kernels(checkpoint)
        reasons = [*differences(checkpoint.about, self.about)]
        if self.config.compute.compile:
            reasons.append("torch.compile may choose other kernels")
        exact = "bit-exactly" if not reasons else f"not bit-exact: {'; '.join(reasons)}"
        lines += [f"{name} verified (SHA-256): the run goes on from step {state.step}, {exact}"]
        self._cut_logs(state.step)
        if self.world.is_first:
            self.run_dir.note_resumed({"step": state.step, "exact": not reasons, "reasons": reasons, **self.about})
        return state, lines

    def _state(self, checkpoint: Checkpoint) -> State:
        """What the state holds besides tensors. Raises RunError where it is not what a run of this kind writes."""
        values = dict(checkpoint.state)
        scaler, mine = values.pop("scaler", {}), self.train_step.scaler.state_dict()
        values |= {name: None for name in ("final", "best") if values.get(name) == {}}
        try:
            state = from_json(State, values, allow_missing=True)
            counts = (state.evaluated_step + 1, state.best_step, state.stale, state.skipped_in_a_row)
            right = (
                min(*counts, state.step, state.num_examples_seen, state.train_seconds) >= 0
                and max(state.evaluated_step, state.best_step) <= state.step
                and (bool(state.best) or (not state.final and state.evaluated_step <= 0))
                and isinstance(scaler, dict)
                and (not scaler or not mine or scaler.keys() == mine.keys())  # fp16 on another device has none
                and all(type(value) in (int, float) and 0 <= value < 1e38 for value in scaler.values())
            )
        except ConfigError as error:
            raise RunError(f"{checkpoint.path / 'state.json'}: is not that of a run.", got=error) from error
        if not right:
            raise RunError(f"{checkpoint.path / 'state.json'}: its numbers contradict each other.")
        if scaler and mine:
            self.train_step.scaler.load_state_dict(scaler)
        return state

    def _repeat_linear_kernels(self, checkpoint: Checkpoint) -> None:
        """Multiply as before the interruption where nothing but that choice differs."""
        if self.config.compute.cpu_linear != "auto":
            return
        for before in LINEAR:
            about = {**self.about, "linear": before}
            if before == checkpoint.about.get("linear") and not differences(checkpoint.about, about):
                self.about, self.train_step.linear = about, before

    def _put_back(self, checkpoint: Checkpoint) -> None:
        """Check every tensor, then copy; a checkpoint that is not of this run changes nothing."""
        train_step = self.train_step
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
        if self.world.is_first:
            self.run_dir.cut_metrics(step)

    def close(self) -> None:
        """Let a save that is under way finish."""
        self.saver.close()


def run_result(run: Run, state: State) -> RunResult:
    """What a run came to that has reached its end."""
    assert state.final
    assert state.best
    return RunResult(
        run=run.run_dir.path,
        model=run.run_dir.best_path,
        epochs=run.timetable.epochs,
        steps=state.step,
        num_examples_seen=state.num_examples_seen,
        train_seconds=state.train_seconds,
        images_per_second=state.num_examples_seen / state.train_seconds if state.train_seconds else 0.0,
        final=state.final,
        best=state.best,
        evaluation=run.run_dir.read_reconstruction() if run.config.is_pretraining else run.run_dir.read_evaluation(),
        baseline=run.run_dir.read_baseline(),
        deterministic=run.environment.deterministic,
        teacher=run.environment.teacher,
    )


def needed_bytes(config: RunConfig, path: Path) -> int:
    """Room for two model files and all checkpoints of weights, two moments and an average, less what is there."""
    with torch.device("meta"):
        model = ViT(ViTConfig.of(config.model, config.data.image_size))
    weights_bytes = 4 * sum(p.numel() for p in model.parameters())
    there = sum(f.lstat().st_size for f in path.rglob("*.safetensors")) if path.is_dir() else 0
    checkpoints = config.checkpoint.keep + config.checkpoint.keep_best + 1
    return max(weights_bytes * (2 + 4 * checkpoints) - there, weights_bytes)


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


def with_state_saved(error: DataError, run: Run, state: State, checkpointer: Checkpointer) -> DataError:
    """Save where the run stands, and say how it goes on when its data are there again."""
    if run.world.size > 1 or not state.step:  # of several processes this one alone may have failed
        return error
    checkpointer.save(state, wait=True)
    resume = f"vitrail train --run {shell_word(run.run_dir.path)} --resume"
    return DataError(f"{error} The state after step {state.step} is saved.", do=f"Go on with: {resume}")
