"""Where the time of training goes: a clock that is told what just ended, and whole steps under it."""

import time
from collections.abc import Iterator

import numpy as np
import torch

from vitrail import data
from vitrail.augment import Augment
from vitrail.config import Preprocessing, RunConfig
from vitrail.data import Batch, ImageSet
from vitrail.model import ViT
from vitrail.training.linear_kernels import choose_linear_kernels
from vitrail.training.optim import build_optimizers
from vitrail.training.precision import autocast_dtype
from vitrail.training.step import TrainStep

PHASES = ("data wait", "transfer", "augment", "forward", "backward", "optimiser")


class Clock:
    """Seconds by phase. Waiting for a GPU at the end of each phase costs its overlap, so the sum is an upper bound."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.restart()

    def restart(self) -> None:
        """Forget what passed since the last mark."""
        self._last = time.perf_counter()

    def mark(self, phase: str, *, wait: bool = True) -> None:
        """Say that a phase has ended; `wait` until the device has done its work."""
        if wait and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now

    def fractions(self) -> dict[str, float]:
        """The share of each phase; they sum to 1."""
        total = sum(self.seconds.values())
        return {phase: seconds / total for phase, seconds in self.seconds.items()}


class Training:
    """Whole training steps of a run, from decoded images to moved weights; `step()` says how many images it took.

    Args:
        config: of the run.
        model: on its device.
        image_set: decoded images.
        preprocessing: of the model.
    """

    def __init__(self, config: RunConfig, model: ViT, image_set: ImageSet, preprocessing: Preprocessing) -> None:
        self.config, self.image_set, self.number, self.epoch = config, image_set, 0, -1
        self.device = next(model.parameters()).device
        self.augment = Augment(config.augment, preprocessing, seed=config.seed)
        dtype = autocast_dtype(config.compute, self.device)
        optimizers = build_optimizers(model.train(), config.optim, dtype=dtype)
        linear = choose_linear_kernels(config.compute, model, min(config.data.batch_size, len(image_set))).by
        self.train_step = TrainStep(model, optimizers, config.optim, config.compute, seed=config.seed, linear=linear)
        self.clock: Clock | None = None
        self._batches = self._whole_batches()

    def time_phases(self) -> Clock:
        """Count the time of each phase from now on."""
        self.clock = Clock(self.device)
        self.train_step.mark = self.clock.mark
        return self.clock

    def step(self) -> int:
        """Take one step and wait for it."""
        if self.clock:
            self.clock.restart()
        batch = next(self._batches)
        if self.clock:
            self.clock.mark("data wait", wait=False)
            self.clock.mark("transfer")
        images = self.augment(batch.images, batch.ids, self.epoch)
        if self.clock:
            self.clock.mark("augment")
        self.train_step(images, batch.labels, self.number, 1.0)
        self.number += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return len(batch.labels)

    def _whole_batches(self) -> Iterator[Batch]:
        size = min(self.config.data.batch_size, len(self.image_set))
        while True:
            self.epoch += 1
            order = data.epoch_order(self.config.seed, self.epoch, len(self.image_set))
            yield from data.batches(self.image_set, order[: len(order) // size * size], size, device=self.device)


def random_images(count: int, num_labels: int, preprocessing: Preprocessing) -> ImageSet:
    """Images of random pixels, as a data set would give them."""
    rng, classes = np.random.default_rng(0), tuple(map(str, range(num_labels)))
    shape = (count, preprocessing.num_channels, *preprocessing.decode_size)
    ids, names = np.arange(count), [f"random:{i}" for i in range(count)]
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    return ImageSet("train", classes, pixels, rng.integers(0, num_labels, count), ids, names, (), "")
