"""Training, top to bottom: set-up, then the loop. A `RunConfig` in, a run directory out.

The position in a run is one integer, the number of steps done: which examples come next, how they are augmented and
what dropout does follow from it and the seed, so that going on after an interruption is a seek, not a replay.
"""

import math
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from vitrail import data, fsio, weights
from vitrail.augment import Augment, Mix
from vitrail.config import Preprocessing, RunConfig
from vitrail.config.vit import token_stride
from vitrail.data import Batch, ImageSet
from vitrail.engine import transfer
from vitrail.engine.evaluate import Evaluation, evaluate
from vitrail.engine.optim import build_optimizers, load_optimizer_tensors, optimizer_tensors
from vitrail.engine.schedule import input_scale, lr_factor, scaled_size
from vitrail.engine.setup import fingerprints, model_card, needed_bytes, skipped
from vitrail.engine.step import TrainStep
from vitrail.errors import Interrupted, RunError
from vitrail.model import ViT
from vitrail.run import (
    RunDir,
    RunResult,
    check_resumable,
    environment,
    load_checkpoint,
    newest_checkpoint,
    next_free_run,
    save_checkpoint,
)
from vitrail.run.device import autocast_dtype, pick_device
from vitrail.run.progress import Progress, StopRequest, stop_on_signal

LOGS_PER_EPOCH = 20


@dataclass
class _State:
    """What changes during a run besides tensors; all of it is saved with a checkpoint."""

    step: int = 0
    num_examples_seen: int = 0
    train_seconds: float = 0.0
    evaluated_step: int = 0
    stale: int = 0
    final: dict[str, float] = field(default_factory=dict[str, float])
    best: dict[str, float] = field(default_factory=dict[str, float])


def train(
    config: RunConfig, run: str | Path | None = None, *, resume: bool = False, progress: bool = False
) -> RunResult:
    """Train a model, from scratch or from pretrained weights, and evaluate it.

    Args:
        config: the whole run, as from `vitrail.recipes.get`.
        run: the run directory; None: runs/NAME, with the recipe's name and the next free number.
        resume: go on with the run that `run` holds.
        progress: show a bar and a line for each epoch on standard error.
    Raises:
        ConfigError, DataError, RunError: what was asked for cannot be done; nothing was written.
        SaveError: saving failed; what was saved before is intact.
        Interrupted: SIGINT or SIGTERM; the state is saved and `resume` goes on.
    """
    run_dir = RunDir(Path(run) if run else next_free_run(config.recipe or "run"))
    if resume:
        check_resumable(config, run_dir.read_config())
    else:
        run_dir.check_free()
    device = pick_device(config.compute.device)
    fsio.check_writable(run_dir.path, needed_bytes(config))

    splits = data.load(config.data, ("train", config.evaluation.split), progress=progress)
    train_set, held_out = splits["train"], splits[config.evaluation.split]
    preprocessing = data.preprocessing_for(config.data)
    torch.manual_seed(config.seed)
    model, origin = transfer.initial_model(config, preprocessing, train_set.classes, resume=resume)
    transfer.prepare(model, config.optim)
    model.to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.compute.num_threads or threads)
    try:
        if config.probe.method != "none":
            return transfer.probe_run(config, run_dir, train_set, held_out, preprocessing, model, origin, progress)
        loop = _Loop(config, run_dir, device, train_set, held_out, preprocessing, model, origin, progress)
        if resume:
            loop.resume()
        else:
            run_dir.start(config, loop.environment)
        return loop.run()
    finally:
        torch.set_num_threads(threads)


class _Loop:
    """The training loop and what it works on."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: RunDir,
        device: torch.device,
        train_set: ImageSet,
        held_out: ImageSet,
        preprocessing: Preprocessing,
        model: ViT,
        origin: dict[str, Any],
        progress: bool,
    ) -> None:
        self.config, self.run_dir, self.device, self.progress = config, run_dir, device, progress
        self.train_set, self.held_out, self.preprocessing = train_set, held_out, preprocessing
        self.optimizers = build_optimizers(model, config.optim)
        self.train_step = TrainStep(model, self.optimizers, config.optim, config.compute, config.seed)
        self.augment = Augment(config.augment, preprocessing, seed=config.seed)
        self.mix = Mix(config.augment, len(train_set.classes), seed=config.seed)
        self.num_examples = len(train_set.labels)
        self.steps_per_epoch = math.ceil(self.num_examples / config.data.batch_size)
        # A small training set is passed over `stretch` times for each epoch that was asked for.
        asked = config.schedule.epochs * self.steps_per_epoch
        self.stretch = max(1, math.ceil(config.schedule.min_steps / asked))
        self.schedule_steps = config.schedule.steps or asked * self.stretch
        self.epochs = math.ceil(self.schedule_steps / self.steps_per_epoch)
        self.total_steps = min(self.schedule_steps, config.schedule.max_steps or self.schedule_steps)
        self.warmup_steps = round(config.schedule.warmup_fraction * self.schedule_steps)
        known = environment(config, device)
        self.environment: dict[str, Any] = {**known, "data": fingerprints(train_set, held_out), "init": origin}
        self.state = _State()

    def run(self) -> RunResult:
        """Train until the last step, evaluating and saving on the way."""
        epochs, rest = divmod(self.total_steps, self.steps_per_epoch)
        total = epochs * self.num_examples + rest * self.config.data.batch_size
        bar = Progress(total, done=self.state.num_examples_seen, enabled=self.progress)
        for line in (self._plan(), *skipped(self.train_set.errors)):
            bar.line(line)
        try:
            with stop_on_signal() as stop:
                if self.environment["init"]:
                    self._plan_transfer(bar, stop, total)
                self._evaluate_if_due(bar, stop)
                while self.state.step < self.total_steps and not self._out_of_patience():
                    self._train_until_due(bar, stop)
                    self._stop_if_asked(stop)
                    self._evaluate_if_due(bar, stop)
                    self._save()
        finally:
            bar.close()
        return self._result()

    def _plan_transfer(self, bar: Progress, stop: StopRequest, num_images: int) -> None:
        """Say what is about to move; once in a run, measure what the pretrained features give without moving."""
        model, origin = self.train_step.model, self.environment["init"]
        seconds = transfer.seconds_an_image(model)
        for line in transfer.start_lines(self.config, model, self.optimizers, origin, num_images, seconds):
            bar.line(line)
        if not self.config.probe.baseline or self.state.step or self.run_dir.read_baseline():
            return
        data_sets = self.train_set, self.held_out, self.preprocessing
        found, line = transfer.affordable_baseline(
            self.config, model, origin, *data_sets, num_images, seconds, on_batch=lambda _: self._stop_if_asked(stop)
        )
        bar.line(line)
        if found:
            self.run_dir.log({"step": 0, "baseline": found})
        if average := self.train_step.average:
            average.model.load_state_dict(model.state_dict())

    def _train_until_due(self, bar: Progress, stop: StopRequest) -> None:
        """Train to the end of the epoch, the next save, the last step or a signal, whatever comes first."""
        state, batch_size = self.state, self.config.data.batch_size
        epoch, first = divmod(state.step, self.steps_per_epoch)
        every, order = self.config.checkpoint.every_steps, data.epoch_order(self.config.seed, epoch, self.num_examples)
        log_every = max(1, self.steps_per_epoch // LOGS_PER_EPOCH)
        transfer.to_training(self.train_step.model, self.config.optim, state.step / self.schedule_steps)
        started, images, loss = time.perf_counter(), 0, torch.zeros(())
        for batch in data.batches(self.train_set, order, batch_size, device=self.device, start=first):
            if self.config.optim.freeze == "gradual":
                transfer.to_training(self.train_step.model, self.config.optim, state.step / self.schedule_steps)
            loss = self._step(batch, epoch, state.step % self.steps_per_epoch)
            state.step += 1
            images += len(batch.labels)
            bar.advance(len(batch.labels))
            last = state.step == self.total_steps
            if state.step % log_every == 0 or last:
                self._log_loss(epoch, float(loss), images / (time.perf_counter() - started))
            if bar.wants_note():
                bar.note(f"epoch {epoch + 1}/{self.epochs} loss {float(loss):.3f}")
            if stop or last or (every and state.step % every == 0):
                break
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - started
        state.train_seconds += seconds
        state.num_examples_seen += images
        self._check_finite(float(loss), "loss")
        if state.step % (self.steps_per_epoch * self.stretch) == 0:
            bar.line(f"epoch {epoch + 1}/{self.epochs}  {seconds:.1f} s, {images / seconds:.0f} img/s")

    def _step(self, batch: Batch, epoch: int, batch_number: int) -> torch.Tensor:
        images, targets = self.augment(batch.images, batch.ids, epoch), batch.labels
        if self.config.augment.mixup or self.config.augment.cutmix:
            images, targets = self.mix(images, targets, epoch, batch_number)
        scale = input_scale(self.state.step, self.schedule_steps, self.config.schedule)
        if scale < 1:
            size = scaled_size(self.preprocessing.image_size, scale, token_stride(self.config.model))
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        factor = lr_factor(self.state.step, self.schedule_steps, self.warmup_steps, self.config.schedule)
        return self.train_step(images, targets, self.state.step, factor)

    def _log_loss(self, epoch: int, loss: float, rate: float) -> None:
        self._check_finite(loss, "loss")
        lr = self.optimizers[0].param_groups[0]["lr"]
        self.run_dir.log(
            {"step": self.state.step, "epoch": epoch + 1, "loss": loss, "lr": lr, "images_per_second": round(rate, 1)}
        )

    def _check_finite(self, value: float, what: str) -> None:
        """Raise RunError rather than go on, or save, after the weights have become worthless."""
        if not math.isfinite(value):
            raise RunError(
                f"The {what} is {value} at step {self.state.step}.",
                expected="a finite number",
                do="Start again with a lower --optim.lr, or with --optim.clip-norm 1.",
            )

    def _evaluate_if_due(self, bar: Progress, stop: StopRequest) -> None:
        """Evaluate after every n-th epoch and after the last step; keep the best and the last model."""
        state, every = self.state, self.config.evaluation.every_epochs * self.stretch
        at_end = state.step == self.total_steps
        epoch, rest = divmod(state.step, self.steps_per_epoch)
        due = at_end or (every and rest == 0 and epoch and epoch % every == 0)
        if not due or state.evaluated_step == state.step:
            return
        started = time.perf_counter()
        result = evaluate(
            self.train_step.evaluated,
            self.held_out,
            self.preprocessing,
            batch_size=self.config.evaluation.batch_size,
            on_batch=lambda: self._stop_if_asked(stop),
        )
        seconds = time.perf_counter() - started
        self._check_finite(result.loss, "evaluation loss")
        score = {"epoch": epoch + (rest > 0), "accuracy": result.accuracy, "loss": result.loss}
        times = {"train_seconds": round(state.train_seconds, 3), "evaluation_seconds": round(seconds, 3)}
        self.run_dir.log({"step": state.step, **score, "split": result.split, **times})
        state.final, state.evaluated_step = score, state.step
        if not state.best or (score["accuracy"], -score["loss"]) > (state.best["accuracy"], -state.best["loss"]):
            state.best, state.stale = score, 0
            self._write_model(self.run_dir.best_path, result)
            self.run_dir.write_evaluation(result.to_json())
        else:
            state.stale += 1
        self._write_model(self.run_dir.last_path, result)
        bar.line(
            f"epoch {score['epoch']}/{self.epochs}  {result.split} accuracy {result.accuracy:.4f}  "
            f"loss {result.loss:.4f}  trained {state.train_seconds:.1f} s, evaluated {seconds:.1f} s"
        )

    def _out_of_patience(self) -> bool:
        return 0 < self.config.evaluation.patience <= self.state.stale

    def _write_model(self, path: Path, result: Evaluation) -> None:
        model, classes = transfer.merged(self.train_step.evaluated), self.train_set.classes
        step, known = self.state.step, self.environment
        card = model_card(self.config, model, classes, self.preprocessing, result, step, known)
        weights.save(path, model, card)

    def _stop_if_asked(self, stop: StopRequest) -> None:
        if stop:
            self._save()
            raise Interrupted(
                f"Stopped by a signal after step {self.state.step} of {self.total_steps}; the state is saved.",
                signal_number=stop.signal_number,
                do=f"Go on with: vitrail train --run {shlex.quote(str(self.run_dir.path))} --resume",
            )

    def _save(self) -> None:
        step = self.train_step
        tensors = {"model": step.model.state_dict(), "optim": optimizer_tensors(self.optimizers)}
        if step.average:
            tensors["ema"] = step.average.model.state_dict()
        state = {**vars(self.state), "scaler": step.scaler.state_dict()}
        save_checkpoint(self.run_dir.checkpoints_dir, self.state.step, tensors, state, keep=self.config.checkpoint.keep)

    def resume(self) -> None:
        """Take up the newest checkpoint of the run directory."""
        self._check_same_data()
        self.environment["init"] = self.run_dir.read_environment().get("init", {})
        if (newest := newest_checkpoint(self.run_dir.checkpoints_dir)) is None:
            return self.run_dir.cut_metrics(0)
        tensors, state = load_checkpoint(newest)
        step = self.train_step
        step.model.load_state_dict(tensors["model"])
        load_optimizer_tensors(self.optimizers, tensors["optim"])
        if step.average:
            step.average.model.load_state_dict(tensors["ema"])
        if scaler := state.pop("scaler"):
            step.scaler.load_state_dict(scaler)
        self.state = _State(**state)
        return self.run_dir.cut_metrics(self.state.step)

    def _check_same_data(self) -> None:
        """Raise RunError when the data are not those that the run was started with."""
        stored, found = self.run_dir.read_environment()["data"], self.environment["data"]
        for split, described in found.items():
            if stored.get(split, {}).get("fingerprint") != described["fingerprint"]:
                raise RunError(
                    f"{self.config.data.spec}: the {split} split is not the one that this run was started with.",
                    got=f"{described['num_examples']} examples, fingerprint {described['fingerprint'][:16]}",
                    expected=f"fingerprint {stored.get(split, {}).get('fingerprint', 'of no such split')[:16]}",
                    do="Put the data back as they were, or start a new run.",
                )

    def _plan(self) -> str:
        config, model = self.config, self.train_step.model.config
        parameters = sum(p.numel() for p in self.train_step.model.parameters())
        chosen = "chosen and " if config.evaluation.every_epochs and config.evaluation.split == "test" else ""
        used = str(autocast_dtype(config.compute, self.device) or "fp32").removeprefix("torch.")
        return (
            f"{model.kind}, {parameters / 1e6:.2f} M parameters, {len(self.train_set.classes)} classes; "
            f"{self.num_examples} training images, {self.total_steps} steps of {config.data.batch_size}; "
            f"{chosen}measured on {len(self.held_out.labels)} images of the {config.evaluation.split} split; "
            f"{self.device}, {used}; {self.run_dir.path}"
        )

    def _result(self) -> RunResult:
        state = self.state
        return RunResult(
            run=self.run_dir.path,
            model=self.run_dir.best_path,
            epochs=self.epochs,
            steps=state.step,
            num_examples_seen=state.num_examples_seen,
            train_seconds=state.train_seconds,
            images_per_second=state.num_examples_seen / state.train_seconds if state.train_seconds else 0.0,
            final=state.final,
            best=state.best,
            evaluation=self.run_dir.read_evaluation(),
            baseline=self.run_dir.read_baseline(),
        )
