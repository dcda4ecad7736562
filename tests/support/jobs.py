"""What the processes of a fork server are made to do."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vitrail
from vitrail import data, fsio, weights
from vitrail.config import ParallelConfig
from vitrail.distributed import join_processes
from vitrail.model import ViT
from vitrail.run import lock
from vitrail.selftest.faulty_files import Dying
from vitrail.selftest.jobs import train_and_die, train_tiny
from vitrail.training import evaluate
from vitrail.training.run import Run, State

__all__ = ["train_and_die", "train_tiny"]  # jobs of the package that tests name beside those here


def train_and_stop(run: str, at_step: int, resume: bool, sections: dict[str, dict[str, Any]]) -> None:
    """The same, asked to stop by a signal in one of its steps."""
    from vitrail.training import loop

    step = loop.take_step

    def signalled(run: Run, state: State, batch: data.Batch) -> loop.Done:
        if state.step + 1 == at_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, state, batch)

    loop.take_step = signalled
    train_tiny(run, resume=resume, sections=sections)


def log_batches(run: str, sections: dict[str, dict[str, Any]], log: str) -> None:
    """Train, and write down which images each rank had in which step, and what became of them."""
    from vitrail.training import loop

    torch.set_num_threads(1)
    step = loop.take_step

    def noted(run: Run, state: State, batch: data.Batch) -> loop.Done:
        done = step(run, state, batch)
        own = run.world.share_of(done.size)
        count = own.stop - own.start
        record = {"step": state.step, "rank": run.world.rank, "ids": batch.ids[:count].tolist()}
        images = done.given.images[:count].double().flatten(1).sum(1).tolist()
        with open(f"{log}.{run.world.rank}", "a") as file:
            file.write(json.dumps({**record, "images": images}) + "\n")
        return done

    loop.take_step = noted
    train_tiny(run, sections=sections)


def evaluate_shards(cases: list[tuple[int, int]], out: str) -> None:
    """Evaluate splits of several lengths over the processes; rank 0 writes what came out."""
    torch.set_num_threads(1)
    with join_processes(ParallelConfig(), "cpu") as world:
        found: list[dict[str, Any]] = []
        for number, (count, batch_size) in enumerate(cases):
            model, image_set, steps = tiny_evaluation(count)
            result = evaluate(model, image_set, steps, batch_size=batch_size, world=world, with_mirror=True)
            found.append(result.to_json())
            if result.predictions:
                result.predictions.save(Path(out).with_name(f"{number}.safetensors"))
        if world.is_first:
            Path(out).write_text(json.dumps(found))


def tiny_evaluation(count: int) -> tuple[ViT, data.ImageSet, vitrail.Preprocessing]:
    """A random tiny model, and so many random images to evaluate it on."""
    generator = np.random.default_rng(count)
    steps = vitrail.Preprocessing(image_size=(4, 4), decode_size=(4, 4), channels="L", mean=(0.5,), std=(0.5,))
    torch.manual_seed(0)
    geometry = vitrail.ViTConfig(
        image_size=4, patch_size=2, num_channels=1, num_labels=3, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=1,
    )  # fmt: skip
    image_set = data.ImageSet(
        split="test", classes=("a", "b", "c"), images=generator.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8),
        labels=generator.integers(0, 3, count), ids=np.arange(count), names=[str(i) for i in range(count)], errors=(),
        fingerprint="",
    )  # fmt: skip
    return ViT(geometry), image_set, steps


def hold_lock(directory: str, log: str) -> None:
    """Try to write a run directory; note when, if this process may."""
    from vitrail.errors import RunError

    path = Path(directory)
    try:
        with lock.hold_lock(path):
            entry = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(entry, f"in {os.getpid()}\n".encode())
            _pause(0.002)
            os.write(entry, f"out {os.getpid()}\n".encode())
    except RunError:
        pass


def _pause(seconds: float) -> None:
    import time

    time.sleep(seconds)


def save_model_and_checkpoint(directory: str, at: int, after: bool) -> None:
    """Replace a model file and add a checkpoint to a run directory that has one; die at an operation of it."""
    from tests.support.checkpoints import STATE, model_and_card, tensors
    from vitrail.run import save_checkpoint

    dying = Dying(at, after)
    with fsio.use_file_system(dying):
        weights.save(Path(directory) / "best.safetensors", *model_and_card(2))
        save_checkpoint(Path(directory) / "checkpoints", 10, tensors(10), STATE | {"step": 10}, keep=1)
    (Path(directory) / "operations").write_text(str(dying.count))


def train_with_fault(run: str, fault: str, sections: dict[str, dict[str, Any]], resume: bool = False) -> None:
    """The same, with VITRAIL_FAULT set; the moment at which the fault begins goes to a file beside the run."""
    import time

    from vitrail.distributed import faults

    reached = faults.trigger

    def noted(phase: str, step: int, rank: int) -> None:
        if fault.startswith(f"{phase}:{step}:{rank}:"):
            Path(f"{run}.fault").write_text(str(time.time()))
        reached(phase, step, rank)

    os.environ["VITRAIL_FAULT"] = fault
    faults.trigger = noted  # type: ignore[assignment]
    train_tiny(run, resume=resume, sections=sections)


def train_slowly(run: str, sections: dict[str, dict[str, Any]]) -> None:
    """The same, two steps a second; each process says in a file which one it is."""
    from vitrail.distributed import faults

    def pause(phase: str, step: int, rank: int) -> None:
        if (phase, step) == ("train", 2):
            mine = Path(f"{run}.process{rank}")
            mine.with_name(f"{mine.name}.new").write_text(str(os.getpid()))
            mine.with_name(f"{mine.name}.new").rename(mine)
        if step > 1:
            _pause(0.4)

    faults.trigger = pause
    train_tiny(run, sections=sections)


def join_slowly(slow_rank: int, seconds: float) -> None:
    """Meet, where one process takes a while until its first heartbeat; then say who is there."""
    from vitrail.distributed.heartbeat import Heartbeat

    start = Heartbeat.start

    def start_slowly(self: Heartbeat) -> None:
        if self._rank == slow_rank:
            _pause(seconds)
        start(self)

    Heartbeat.start = start_slowly  # type: ignore[method-assign]
    with join_processes(ParallelConfig(silence_seconds=1.0, timeout_seconds=1.0), "cpu") as world:
        assert world.gather(world.rank) == list(range(world.size))


def train_with_nan(
    run: str, rank: int, layer: str, step: int, backward: bool, sections: dict[str, dict[str, Any]]
) -> None:
    """The same; on one rank a layer's output, or its gradient, is NaN in one step."""
    from vitrail.training import loop

    call, spoilers = loop.take_step, []

    def spoilt(run: Run, state: State, batch: data.Batch) -> loop.Done:
        if run.world.rank != rank or state.step + 1 != step:
            return call(run, state, batch)

        def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            if not backward:
                return output * torch.nan
            output.register_hook(lambda grad: grad * torch.nan)
            return None

        # Stays for the second computation, which names the layer.
        spoilers.append(dict(run.train_step.model.named_modules())[layer].register_forward_hook(hook))
        return call(run, state, batch)

    def mended(*_: object) -> None:
        while spoilers:
            spoilers.pop().remove()

    loop.take_step = spoilt
    loop.AFTER_EACH_STEP = (*loop.AFTER_EACH_STEP, mended)
    train_tiny(run, sections=sections)


def predict_and_die(words: list[str], at: int, after: bool) -> None:
    """`vitrail predict -o`; the process is gone at one operation of the file system. -1: writes how many there are."""
    from vitrail.cli import main

    torch.set_num_threads(1)
    dying = Dying(at, after)
    with fsio.use_file_system(dying):
        status = main(["predict", *words])
    if status:
        raise SystemExit(status)
    if at < 0:
        (Path(words[words.index("-o") + 1]) / "operations").write_text(str(dying.count))
