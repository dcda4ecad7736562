"""The training loop: steps, evaluations and saves until the last step, the same on every process of a run.

The position in a run is one integer, the number of steps done: which examples come next, how they are augmented and
what dropout does follow from it and the seed, so that going on after an interruption is a seek, not a replay, and the
number of processes does not matter.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import torch

from vitrail import data, distributed, weights
from vitrail.config import Preprocessing, RunConfig
from vitrail.data import Batch, ImageSet
from vitrail.distributed import World
from vitrail.errors import ConfigError, Interrupted, shell_word
from vitrail.model import ViT
from vitrail.run import RunDir, RunResult, environment
from vitrail.training import nonfinite, transfer
from vitrail.training.checkpointing import Checkpointer, State, run_result
from vitrail.training.evaluate import Evaluation, EvaluationStopped, evaluate
from vitrail.training.final_test import measure_best
from vitrail.training.inputs import Inputs
from vitrail.training.linear_kernels import choose_linear_kernels
from vitrail.training.optim import build_optimizers
from vitrail.training.progress import Progress, StopRequest, stop_on_signal
from vitrail.training.reporting import Reporter, estimate_of, sizes_line, stages
from vitrail.training.schedule import input_scale, lr_factor, run_length
from vitrail.training.setup import (
    check_not_shorter,
    check_same_data,
    class_weights,
    fingerprints,
    finished_line,
    longer_line,
    model_card,
    plan,
    skipped,
)
from vitrail.training.step import TrainStep

LOGS_PER_EPOCH = 20


class Loop:
    """The training loop and what it works on."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: RunDir,
        world: World,
        device: torch.device,
        train_set: ImageSet,
        held_out: ImageSet,
        preprocessing: Preprocessing,
        model: ViT,
        origin: dict[str, Any],
        progress: bool,
        test_set: ImageSet | None = None,
    ) -> None:
        self.test_set = test_set
        self.config, self.run_dir, self.world, self.device = config, run_dir, world, device
        self.progress, self.train_set, self.held_out, self.preprocessing = progress, train_set, held_out, preprocessing
        batch = world.share_size(config.data.batch_size, world.size - 1)
        products = world.run_on_first(lambda: choose_linear_kernels(config.compute, model, batch))
        forward = distributed.wrap_model(model, config.parallel, world, compiled=config.compute.compile)
        if config.optim.name == "muon" and distributed.is_spread(model.state_dict()):
            raise ConfigError("Muon needs whole matrices.", got="parallel.strategy fsdp", expected="ddp, or adamw")
        self.optimizers = build_optimizers(model, config.optim, len(train_set.labels))
        self.train_step = TrainStep(
            model, self.optimizers, config.optim, config.compute, config.seed,
            world=world, forward=forward, linear=products.by,
        )  # fmt: skip
        self.train_step.class_weights = class_weights(config.optim, train_set, device)
        self.inputs = Inputs(config, preprocessing, len(train_set.classes), world)
        self.num_examples = len(train_set.labels)
        self.steps_per_epoch = math.ceil(self.num_examples / config.data.batch_size)
        self.stretch, self.schedule_steps = run_length(config.schedule, self.steps_per_epoch)
        self.epochs = math.ceil(self.schedule_steps / self.steps_per_epoch)
        self.total_steps = min(self.schedule_steps, config.schedule.max_steps or self.schedule_steps)
        self.warmup_steps = round(config.schedule.warmup_fraction * self.schedule_steps)
        local = distributed.batch_norm_is_local(model, world)
        known = environment(config, device, processes=world.size, local_batch_norm=local)
        described = fingerprints(*filter(None, (train_set, held_out, test_set)))
        known |= {"linear": vars(products), "data": described}
        self.environment: dict[str, Any] = {**known, "init": origin}
        self.state = State()

    def run(self, saving: Checkpointer, *, resume: bool) -> RunResult:
        """Train until the last step, evaluating and saving on the way."""
        self.saving = saving
        told = self._resume() if resume else []
        bar = Progress(self._images(self.total_steps), done=self.state.num_examples_seen, enabled=self.progress)
        every = self.config.evaluation.every_epochs * self.stretch * self.steps_per_epoch
        estimate = estimate_of(
            self.config, self.train_step.model, len(self.held_out), self.schedule_steps, self.total_steps, every,
            linear=self.train_step.linear if self.progress else None,
        )  # fmt: skip
        self.telling = Reporter(bar, estimate, self.epochs, self.world, self.state.step)
        for line in (*self._plan(), *told, *self.train_set.notes, *skipped(self.train_set.errors)):
            bar.line(line)
        try:
            with stop_on_signal() as stop:
                if self.environment["init"] and self.state.step < self.total_steps:
                    self._plan_transfer(bar, stop)
                self._evaluate_if_due(stop)
                bar.restart()
                while self.state.step < self.total_steps and not self._out_of_patience():
                    agreed = self._train_until_due(bar, stop)
                    self._stop_if_asked(agreed)
                    self._evaluate_if_due(stop)
                    self.saving.save(self.train_step, self.state)
                if self._out_of_patience():
                    bar.line(f"no better accuracy in {self.state.stale} evaluations: the run ends (patience)")
                self.saving.save(self.train_step, self.state, wait=True)
                if self.test_set is not None:
                    self._measure_best(self.test_set, bar, stop)
        finally:
            bar.close()
        return self.world.run_on_first(
            lambda: run_result(self.run_dir, self.state, self.epochs, self.environment["deterministic"])
        )

    def _images(self, steps: int) -> int:
        """How many images so many steps see; the last batch of an epoch can be smaller."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * self.num_examples + rest * self.config.data.batch_size

    def _plan_transfer(self, bar: Progress, stop: StopRequest) -> None:
        """Say what is about to move; once in a run, measure what the pretrained features give without moving."""
        model, origin = self.train_step.model, self.environment["init"]
        spread = distributed.is_spread(model.state_dict())
        for line in transfer.start_lines(self.config, model, self.optimizers, origin):
            bar.line(line)
        if (
            spread
            or not self.config.probe.baseline
            or self.state.step
            or self.world.run_on_first(self.run_dir.read_baseline)
        ):
            return
        data_sets = self.train_set, self.held_out, self.preprocessing

        def measure() -> None:
            found, line = transfer.affordable_baseline(
                self.config, model, origin, *data_sets, self._images(self.schedule_steps),
                on_batch=lambda _: self._stop_if_asked(stop.signal_number),
            )  # fmt: skip
            bar.line(line)
            if found:
                self.run_dir.log({"step": 0, "baseline": {k: v for k, v in found.items() if k != "seconds"}})
                self.run_dir.log_time({"step": 0, "baseline_seconds": found["seconds"]})

        self.world.run_on_first(measure)
        self.world.broadcast_weights(model)
        if average := self.train_step.average:
            average.model.load_state_dict(model.state_dict())

    def _train_until_due(self, bar: Progress, stop: StopRequest) -> int:
        """Train to the end of the epoch, the next save, the last step or a signal, whatever comes first.

        Returns:
            The signal that a process was asked to stop with; 0: none.
        """
        state, batch_size, agreed = self.state, self.config.data.batch_size, 0
        self.world.wait_for_all()  # the first one may still write
        epoch, first = divmod(state.step, self.steps_per_epoch)
        every, order = self.config.checkpoint.every_steps, self.inputs.order(epoch, self.train_set.labels)
        log_every = max(1, self.steps_per_epoch // LOGS_PER_EPOCH)
        transfer.to_training(self.train_step.model, self.config.optim, state.step / self.schedule_steps)
        started, images, loss = time.perf_counter(), 0, torch.zeros(())
        before = started
        pick = self.inputs.pick(epoch)
        waits = data.Timed(data.batches(self.train_set, order, batch_size, device=self.device, start=first, pick=pick))
        for batch in waits:
            if self.config.optim.freeze == "gradual":
                self._thaw()
            size = min(batch_size, self.num_examples - state.step % self.steps_per_epoch * batch_size)
            self.world.report_progress("train", state.step + 1)
            distributed.faults.trigger("train", state.step + 1, self.world.rank)
            loss = self._step(batch, epoch, state.step % self.steps_per_epoch, size)
            state.step += 1
            images += size
            before, since = time.perf_counter(), before
            scale = input_scale(state.step - 1, self.schedule_steps, self.config.schedule)
            self.telling.stepped(state.step, scale, size, before - since, None if self.train_step.skipped else loss)
            last = state.step == self.total_steps
            self._note_skipped(batch, epoch, bar)
            if (state.step % log_every == 0 or last) and not self.train_step.skipped:
                self._log_loss(epoch, loss, images / (time.perf_counter() - started), waits.waited)
            if bar.wants_note():
                said = f"epoch {epoch + 1}/{self.epochs} loss {float(loss) * self.world.size:.3f}"
                bar.note(f"{said}, data wait {waits.waited:.1%}")
            agreed = self.world.agree_on_stop(stop.signal_number)
            if agreed or last or (every and state.step % every == 0):
                break
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - started
        state.train_seconds += seconds
        state.num_examples_seen += images
        return agreed

    def _thaw(self) -> None:
        """Let more layers move when it is time; processes then average more gradients."""
        model = self.train_step.model
        before = [parameter.requires_grad for parameter in model.parameters()]
        transfer.to_training(model, self.config.optim, self.state.step / self.schedule_steps)
        if self.world.size > 1 and before != [parameter.requires_grad for parameter in model.parameters()]:
            config = self.config
            wrapped = distributed.wrap_model(model, config.parallel, self.world, compiled=config.compute.compile)
            self.train_step.rewrap(wrapped)

    def _step(self, batch: Batch, epoch: int, batch_number: int, size: int) -> torch.Tensor:
        scale = input_scale(self.state.step, self.schedule_steps, self.config.schedule)
        images, targets, num_own = self.inputs(batch, epoch, batch_number, size, scale)
        factor = lr_factor(self.state.step, self.schedule_steps, self.warmup_steps, self.config.schedule)
        self._last_input = images, targets
        return self.train_step(images, targets, self.state.step, factor, batch_size=size, num_own=num_own)

    def _note_skipped(self, batch: Batch, epoch: int, bar: Progress) -> None:
        """Name what made a step worthless; stop the run after too many in a row. All processes agree."""
        state = self.state
        if self.train_step.skipped != "not finite":
            state.skipped_in_a_row = 0 if not self.train_step.skipped else state.skipped_in_a_row
            return
        state.skipped_in_a_row += 1
        where = self.train_step.where_not_finite(*self._last_input, state.step - 1)
        ids = batch.ids[: len(self._last_input[0])].tolist()
        found, text = nonfinite.gather_reports(self.world, where, ids)
        bar.line(f"step {state.step} skipped, its gradient is not finite: {text}")
        if self.world.is_first:
            self.run_dir.log({"step": state.step, "epoch": epoch + 1, "skipped": found})
        if state.skipped_in_a_row >= self.config.compute.max_skipped_steps:
            raise nonfinite.too_many(state.skipped_in_a_row, state.step, text, found[0]["ids"] if found else ids)

    def _log_loss(self, epoch: int, addend: torch.Tensor, rate: float, waited: float) -> None:
        """Log the mean loss of the whole batch. All processes must call it."""
        loss = float(addend) if self.world.size == 1 else float(self.world.sum(addend.double()))
        nonfinite.check_finite(loss, "loss", self.state.step)
        lr = self.optimizers[0].param_groups[0]["lr"]
        if self.world.is_first:
            self.run_dir.log({"step": self.state.step, "epoch": epoch + 1, "loss": loss, "lr": lr})
            times = {"images_per_second": round(rate, 1), "data_wait": round(waited, 4)}
            self.run_dir.log_time({"step": self.state.step, **times})

    def _evaluate_if_due(self, stop: StopRequest) -> None:
        """Evaluate after every n-th epoch and after the last step; keep the best and the last model.

        What is chosen on the val split starts with the pretrained weights themselves: worse than these is never kept.
        """
        state, every = self.state, self.config.evaluation.every_epochs * self.stretch
        at_end = state.step == self.total_steps
        epoch, rest = divmod(state.step, self.steps_per_epoch)
        has_start = bool(self.environment["init"]) and self.config.evaluation.split == "val"
        due = at_end or (every and rest == 0 and (epoch or has_start) and epoch % every == 0)
        if not due or state.evaluated_step == state.step:
            if epoch and state.step % (self.steps_per_epoch * self.stretch) == 0 and not due:
                self.telling.epoch(epoch)
            return
        started = time.perf_counter()
        if self.world.size > 1:
            self.world.broadcast_weights(self.train_step.evaluated, buffers_alone=True)
        model = self.train_step.evaluated
        with self._stopping(stop):
            result = evaluate(
                model, self.held_out, self.preprocessing, batch_size=self.config.evaluation.batch_size,
                on_batch=lambda: self._heard_stop(stop), world=self.world,
            )  # fmt: skip
        seconds = time.perf_counter() - started
        nonfinite.check_finite(result.loss, "evaluation loss", state.step)
        score = {"epoch": epoch + (rest > 0), "accuracy": result.accuracy, "loss": result.loss}
        better = not state.best or (score["accuracy"], -score["loss"]) > (state.best["accuracy"], -state.best["loss"])
        state.final, state.evaluated_step = score, state.step
        # While the learning rate is high, accuracy says little about where the run will end.
        is_early = 2 * state.step < self.schedule_steps
        state.stale = 0 if better or is_early else state.stale + 1
        if better:
            state.best, state.best_step = score, state.step
        if self.world.is_first:
            with self.world.patiently():
                self._keep(model, result, score, better, seconds)
        self.telling.estimate.evaluation_seconds = seconds
        found = f"{result.split} accuracy {result.accuracy:.4f}, loss {result.loss:.4f} (took {seconds:.1f} s)"
        self.telling.epoch(score["epoch"], found)

    def _measure_best(self, test_set: ImageSet, bar: Progress, stop: StopRequest) -> None:
        with self._stopping(stop):
            found = measure_best(
                self.run_dir, self.world, transfer.merge_lora(self.train_step.evaluated), test_set, self.preprocessing,
                batch_size=self.config.evaluation.batch_size, on_batch=lambda: self._heard_stop(stop),
            )  # fmt: skip
        if found:
            bar.line(f"the best model, once on the test split: accuracy {found.accuracy:.4f}  loss {found.loss:.4f}")

    @contextlib.contextmanager
    def _stopping(self, stop: StopRequest) -> Iterator[None]:
        """Save and end the run where an evaluation was told to stop."""
        try:
            yield
        except EvaluationStopped:
            self._stop_if_asked(max(self.world.gather(self._heard_stop(stop))))
            raise

    def _heard_stop(self, stop: StopRequest) -> int:
        """The signal that this process was asked to stop with, or that another one spread."""
        self.world.report_progress("evaluate", self.state.step)
        distributed.faults.trigger("evaluate", self.state.step, self.world.rank)
        return self.world.heard_stop(stop.signal_number)

    def _keep(self, model: ViT, result: Evaluation, score: dict[str, float], better: bool, seconds: float) -> None:
        """Log an evaluation and write the models that it was of; the best one first."""
        times = {"train_seconds": round(self.state.train_seconds, 3), "evaluation_seconds": round(seconds, 3)}
        self.run_dir.log({"step": self.state.step, **score, "split": result.split})
        self.run_dir.log_time({"step": self.state.step, **times})
        merged, classes = transfer.merge_lora(model), self.train_set.classes
        card = model_card(self.config, merged, classes, self.preprocessing, result, self.state.step, self.environment)
        if better:
            weights.save(self.run_dir.best_path, merged, card)
            self.run_dir.write_evaluation(result.to_json())
        weights.save(self.run_dir.last_path, merged, card)

    def _out_of_patience(self) -> bool:
        return 0 < self.config.evaluation.patience <= self.state.stale

    def _stop_if_asked(self, signal_number: int) -> None:
        if signal_number:
            self.saving.save(self.train_step, self.state, wait=True)
            raise Interrupted(
                f"Stopped by a signal after step {self.state.step} of {self.total_steps}; the state is saved.",
                signal_number=signal_number,
                do=f"Go on with: vitrail train --run {shell_word(self.run_dir.path)} --resume",
            )

    def _resume(self) -> list[str]:
        """Take up the newest whole checkpoint of the run directory; what is to be told about it."""
        stored = self.world.run_on_first(self.run_dir.read_environment)
        check_same_data(self.config.data.spec, stored["data"], self.environment["data"])
        self.environment["init"] = stored.get("init", {})
        before = self.world.run_on_first(self.run_dir.read_config)
        _, length = run_length(before.schedule, self.steps_per_epoch)
        check_not_shorter(length, self.schedule_steps)
        state, told = self.saving.restore(self.train_step)
        self.state = state or State()
        if self.schedule_steps > length:
            self.state.stale = 0  # more was asked for
            self.world.run_on_first(lambda: self.run_dir.write_config(self.config))
            told.append(longer_line(length, self.schedule_steps, self.state.step))
        elif self.state.step >= self.total_steps or self._out_of_patience():
            told = [finished_line(self.state.step, self.schedule_steps, self.config.schedule, self.epochs)]
        return told

    def _plan(self) -> Iterator[str]:
        sets, where = (self.train_set, self.held_out, self.test_set), (self.device, self.run_dir.path, self.world)
        model, linear = self.train_step.model, self.train_step.linear
        yield from plan(self.config, model, *sets, self.total_steps, *where, linear=linear)
        if self.stretch > 1:
            schedule = self.config.schedule
            yield (
                f"epochs         {self.epochs} instead of {schedule.epochs}: so few images are passed over until there "
                f"are {schedule.min_steps} steps (schedule.min-steps)"
            )
        if len(grows := stages(self.config, self.schedule_steps, self.total_steps)) > 1:
            yield sizes_line(self.config, grows)
