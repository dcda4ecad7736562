"""The training loop: steps, evaluations and saves until the last step, the same on every process of a run.

The position in a run is one integer, the number of steps done: which examples come next, how they are augmented and
what dropout does follow from it and the seed, so that going on after an interruption is a seek, not a replay, and the
number of processes does not matter.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail import data, distributed
from vitrail.data import Batch
from vitrail.errors import DataError, Interrupted, shell_word
from vitrail.run import Score
from vitrail.terminal import say
from vitrail.training import nonfinite, transfer
from vitrail.training.calibration import calibrate_file, calibration_line
from vitrail.training.checkpointing import Checkpointer, with_state_saved
from vitrail.training.evaluate import EvaluationStopped
from vitrail.training.final_test import measure_best
from vitrail.training.inputs import StepInput
from vitrail.training.keeping import keep_models, measure, note_score
from vitrail.training.progress import StopRequest
from vitrail.training.reporting import Reporter
from vitrail.training.run import Run, State
from vitrail.training.schedule import input_scale, lr_factor
from vitrail.weights.calibration import Calibration

LOGS_PER_EPOCH = 20


def run_loop(run: Run, state: State, checkpointer: Checkpointer, reporter: Reporter, stop: StopRequest) -> None:
    """Train until the last step, evaluating and saving on the way.

    Args:
        state: where the run stands; it is moved on.
        stop: what a signal asked for.
    Raises:
        Interrupted: a process was asked to stop; the state is saved.
        RunError, DataError: the weights became worthless; the data are gone.
    """
    evaluate_if_due(run, state, checkpointer, reporter, stop)
    reporter.bar.restart()
    while state.step < run.timetable.total_steps and not out_of_patience(run, state):
        try:
            signal_number = train_until_due(run, state, reporter, stop)
        except DataError as error:  # a server or a disk is gone
            raise with_state_saved(error, run, state, checkpointer) from error
        stop_if_asked(run, state, checkpointer, signal_number)
        evaluate_if_due(run, state, checkpointer, reporter, stop)
        checkpointer.save(state)
    if out_of_patience(run, state):
        reporter.bar.line(f"no better result in {state.stale} evaluations: the run ends (evaluation.patience)")
    checkpointer.save(state, wait=True)
    calibrate_best(run, reporter)
    measure_on_test_set(run, state, checkpointer, reporter, stop)


def train_until_due(run: Run, state: State, reporter: Reporter, stop: StopRequest) -> int:
    """Train to the end of the epoch, the next save, the last step or a signal, whatever comes first.

    Returns:
        The signal that a process was asked to stop with; 0: none.
    """
    times, every, signal_number = run.timetable, run.config.checkpoint.every_steps, 0
    run.world.wait_for_all()  # the first one may still write
    epoch, first = divmod(state.step, times.steps_per_epoch)
    transfer.to_training(run.train_step.model, run.config.optim, state.step / times.schedule_steps)
    clock = _Clock(waits := data.Timed(run.inputs.batches(epoch, first, run.device)))
    for batch in waits:
        unfreeze_if_due(run, state)
        run.world.report_progress("train", state.step + 1)
        distributed.faults.trigger("train", state.step + 1, run.world.rank)
        done = take_step(run, state, batch)
        state.step += 1
        clock.step(done.size)
        for hook in AFTER_EACH_STEP:
            hook(run, state, reporter, done, clock)
        signal_number = run.world.agree_on_stop(stop.signal_number)
        if signal_number or state.step == times.total_steps or (every and state.step % every == 0):
            break
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    state.train_seconds += clock.total_seconds()
    state.num_examples_seen += clock.images
    return signal_number


# ---- a step ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A step that was taken.

    Args:
        batch: what it was taken on; epoch: of it, from 0; given: the input that became of it.
        size: images of the batch over all processes; scale: of the input's sides.
        loss: this process's addend of the mean loss, on the device.
        skipped: why it changed nothing, as `TrainStep` says; empty: it did.
    """

    batch: Batch
    epoch: int
    given: StepInput
    size: int
    scale: float
    loss: Tensor
    skipped: str


class _Clock:
    """The time and the images since training last began."""

    def __init__(self, waits: "data.Timed[Batch]") -> None:
        self.waits, self.images = waits, 0
        self._began = self._last = time.perf_counter()
        self.step_seconds = 0.0

    def step(self, size: int) -> None:
        """A step is done."""
        now = time.perf_counter()
        self.images, self.step_seconds, self._last = self.images + size, now - self._last, now

    def total_seconds(self) -> float:
        return time.perf_counter() - self._began


def take_step(run: Run, state: State, batch: Batch) -> Done:
    """Make the input of a batch and take a step."""
    times, schedule = run.timetable, run.config.schedule
    epoch, batch_number = divmod(state.step, times.steps_per_epoch)
    size, scale = times.size_of(state.step), input_scale(state.step, times.schedule_steps, schedule)
    given = run.inputs(batch, epoch, batch_number, size, scale)
    factor = lr_factor(state.step, times.schedule_steps, times.warmup_steps, schedule)
    loss = run.train_step(
        given.images, given.targets, state.step, factor, batch_size=size, num_own=given.num_own,
        teacher_logits=given.teacher_logits,
    )  # fmt: skip
    return Done(batch, epoch, given, size, scale, loss, run.train_step.skipped)


def unfreeze_if_due(run: Run, state: State) -> None:
    """Train more layers when it is time; processes then average more gradients."""
    config, model = run.config, run.train_step.model
    if config.optim.freeze != "gradual":
        return
    before = [parameter.requires_grad for parameter in model.parameters()]
    transfer.to_training(model, config.optim, state.step / run.timetable.schedule_steps)
    if run.world.size > 1 and before != [parameter.requires_grad for parameter in model.parameters()]:
        wrapped = distributed.wrap_model(model, config.parallel, run.world, compiled=config.compute.compile)
        run.train_step.rewrap(wrapped)


def report_step(run: Run, state: State, reporter: Reporter, done: Done, clock: _Clock) -> None:
    """Move the bar on."""
    reporter.stepped(state.step, done.scale, done.size, clock.step_seconds, None if done.skipped else done.loss)


def name_unreadable(run: Run, state: State, reporter: Reporter, done: Done, clock: _Clock) -> None:
    """Name the images of a batch that could not be read, each once."""
    for error in (error for error in done.batch.errors.values() if error.name not in reporter.named):
        reporter.named.add(error.name)
        (reporter.bar.line if run.world.is_first else say)(f"counts nothing in training: {error}")
        if run.world.is_first:
            run.run_dir.log_time({"step": state.step, "unreadable": error.name, "error": error.reason})


def check_skipped(run: Run, state: State, reporter: Reporter, done: Done, clock: _Clock) -> None:
    """Name what made a step worthless; stop the run after too many in a row. All processes agree."""
    if done.skipped != "not finite":
        state.skipped_in_a_row = 0 if not done.skipped else state.skipped_in_a_row
        return
    state.skipped_in_a_row += 1
    where = run.train_step.where_not_finite(*done.given.tensors, step=state.step - 1)
    ids = done.batch.ids[: len(done.given.images)].tolist()
    found, text = nonfinite.gather_reports(run.world, where, ids)
    reporter.bar.line(f"step {state.step} skipped, its gradient is not finite: {text}")
    if run.world.is_first:
        run.run_dir.log({"step": state.step, "epoch": done.epoch + 1, "skipped": found})
    if state.skipped_in_a_row >= run.config.compute.max_skipped_steps:
        raise nonfinite.too_many(state.skipped_in_a_row, state.step, text, found[0]["ids"] if found else ids)


def log_loss(run: Run, state: State, reporter: Reporter, done: Done, clock: _Clock) -> None:
    """Log the mean loss of the whole batch every n steps and after the last one. All processes must call it."""
    times = run.timetable
    due = state.step % max(1, times.steps_per_epoch // LOGS_PER_EPOCH) == 0 or state.step == times.total_steps
    if not due or done.skipped:
        return
    loss = float(done.loss) if run.world.size == 1 else float(run.world.sum(done.loss.double()))
    nonfinite.check_finite(loss, "loss", state.step)
    if run.world.is_first:
        lr = run.train_step.optimizers[0].param_groups[0]["lr"]
        run.run_dir.log({"step": state.step, "epoch": done.epoch + 1, "loss": loss, "lr": lr})
        speed, wait = round(clock.images / clock.total_seconds(), 1), round(clock.waits.waited, 4)
        run.run_dir.log_time({"step": state.step, "images_per_second": speed, "data_wait": wait})


def show_loss(run: Run, state: State, reporter: Reporter, done: Done, clock: _Clock) -> None:
    """Show the loss beside the bar, not more often than it is read: each look waits for the device."""
    if reporter.bar.wants_note():
        said = f"epoch {done.epoch + 1}/{run.timetable.epochs} loss {float(done.loss) * run.world.size:.3f}"
        reporter.bar.note(f"{said}, data wait {clock.waits.waited:.1%}")


AFTER_EACH_STEP: tuple[Callable[[Run, State, Reporter, Done, _Clock], None], ...] = (
    report_step,
    name_unreadable,
    check_skipped,
    log_loss,
    show_loss,
)


# ---- evaluation --------------------------------------------------------------------------------------------------


def evaluate_if_due(run: Run, state: State, checkpointer: Checkpointer, reporter: Reporter, stop: StopRequest) -> None:
    """Evaluate after every n-th epoch and after the last step; keep the best and the last model.

    What is chosen on the val split starts with the pretrained weights themselves: worse than these is never kept.
    """
    times, evaluation = run.timetable, run.config.evaluation
    every, (epoch, rest) = evaluation.every_epochs * times.passes_per_epoch, divmod(state.step, times.steps_per_epoch)
    has_start = bool(run.environment.init) and evaluation.split == "val"
    due = state.step == times.total_steps or (every and rest == 0 and (epoch or has_start) and epoch % every == 0)
    if not due or state.evaluated_step == state.step:
        if epoch and rest == 0 and epoch % times.passes_per_epoch == 0 and not due:
            reporter.epoch(epoch)
        return
    started, model = time.perf_counter(), run.train_step.evaluated
    if run.world.size > 1:
        run.world.broadcast_weights(model, buffers_alone=True)
    with _saving_when_stopped(run, state, checkpointer, stop):
        found = measure(run, model, lambda: _heard_stop(run, state, stop))
    seconds = time.perf_counter() - started
    nonfinite.check_finite(found.loss, "evaluation loss", state.step)
    score = Score(epoch=epoch + (rest > 0), accuracy=found.accuracy, loss=found.loss)
    better = note_score(state, score, is_early=2 * state.step < times.schedule_steps)
    if run.world.is_first:
        with run.world.patiently():
            keep_models(run, state, model, found, score, better, seconds)
    reporter.estimate.evaluation_seconds = seconds
    took = f" (took {seconds:.1f} s)" if seconds >= 0.05 else ""
    reporter.epoch(score.epoch, f"{found.split} {found.summary}{took}")


def out_of_patience(run: Run, state: State) -> bool:
    """Whether enough evaluations in a row brought nothing better (evaluation.patience)."""
    return 0 < run.config.evaluation.patience <= state.stale


def calibrate_best(run: Run, reporter: Reporter) -> None:
    """Fit the confidence of the best model to its answers for the val split; test images may not be used for that."""
    held_out = run.sets.held_out.split

    def fit() -> Calibration | None:
        return calibrate_file(run.run_dir.best_path, run.run_dir.predictions_path(held_out))

    if held_out == "val" and not run.config.is_pretraining and (found := run.world.run_on_first(fit)):
        reporter.bar.line(calibration_line(found))


def measure_on_test_set(
    run: Run, state: State, checkpointer: Checkpointer, reporter: Reporter, stop: StopRequest
) -> None:
    """Measure the best model, chosen on the val split, once on the test split."""
    if run.sets.test is None:
        return
    with _saving_when_stopped(run, state, checkpointer, stop):
        found = measure_best(
            run.run_dir, run.world, transfer.merge_lora(run.train_step.evaluated), run.sets.test,
            run.sets.preprocessing, batch_size=run.config.evaluation.batch_size,
            on_batch=lambda: _heard_stop(run, state, stop),
        )  # fmt: skip
    if found:
        scores = f"accuracy {found.accuracy:.4f}  loss {found.loss:.4f}"
        reporter.bar.line(f"the best model, once on the test split: {scores}")


# ---- being stopped -----------------------------------------------------------------------------------------------


def stop_if_asked(run: Run, state: State, checkpointer: Checkpointer, signal_number: int) -> None:
    """Save and raise Interrupted where a process was asked to stop; 0: none was."""
    if signal_number:
        checkpointer.save(state, wait=True)
        raise Interrupted(
            f"Stopped by a signal after step {state.step} of {run.timetable.total_steps}; the state is saved.",
            signal_number=signal_number,
            do=f"Go on with: vitrail train --run {shell_word(run.run_dir.path)} --resume",
        )


@contextlib.contextmanager
def _saving_when_stopped(run: Run, state: State, checkpointer: Checkpointer, stop: StopRequest) -> Iterator[None]:
    """Save and end the run where an evaluation was told to stop."""
    try:
        yield
    except EvaluationStopped:
        stop_if_asked(run, state, checkpointer, max(run.world.gather(_heard_stop(run, state, stop))))
        raise


def _heard_stop(run: Run, state: State, stop: StopRequest) -> int:
    """The signal that this process was asked to stop with, or that another one spread."""
    run.world.report_progress("evaluate", state.step)
    distributed.faults.trigger("evaluate", state.step, run.world.rank)
    return run.world.heard_stop(stop.signal_number)
