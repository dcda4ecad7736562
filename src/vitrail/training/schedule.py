"""The learning rate over a run, as a factor of its peak: a pure function of the step."""

import math
from dataclasses import dataclass

from vitrail.config import RunConfig, ScheduleConfig


def lr_factor(step: int, total_steps: int, warmup_steps: int, config: ScheduleConfig) -> float:
    """Factor of the peak learning rate for one optimiser step.

    Args:
        step: steps already done, in [0, total_steps).
        total_steps: of the full schedule.
        warmup_steps: linear rise over these first steps; the first step has 1 / warmup_steps of the peak.
        config: shape and final fraction.
    Returns:
        A factor in [0, 1]: the rise, then config.shape from 1 down to config.final_fraction.
    Source: arXiv:2010.11929, appendix B.1 (linear warm-up, then linear or cosine decay); arXiv:1608.03983 (cosine).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.shape == "constant":
        return 1.0
    falling = 1 - done if config.shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.final_fraction + (1 - config.final_fraction) * falling


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """How many steps a run has, and what a step is of them.

    Args:
        num_examples: images of the training set.
        batch_size: images of a step over all processes; the last batch of an epoch can be smaller.
        passes_per_epoch: how often a small training set is passed over for each epoch that was asked for, so that
            there are enough steps (schedule.min-steps).
        schedule_steps: that the learning rate is made for.
        total_steps: after which the run ends, as schedule.max-steps may say.
    """

    num_examples: int
    batch_size: int
    passes_per_epoch: int
    schedule_steps: int
    total_steps: int
    warmup_steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a pass over the training set."""
        return math.ceil(self.num_examples / self.batch_size)

    @property
    def epochs(self) -> int:
        """Passes over the training set."""
        return math.ceil(self.schedule_steps / self.steps_per_epoch)

    def num_images(self, steps: int) -> int:
        """How many images so many steps see."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * self.num_examples + rest * self.batch_size

    def size_of(self, step: int) -> int:
        """Images of the batch that comes after so many steps."""
        return min(self.batch_size, self.num_examples - step % self.steps_per_epoch * self.batch_size)


def timetable(config: RunConfig, num_examples: int) -> Timetable:
    """How many steps a run has on a training set of so many images."""
    schedule, batch_size = config.schedule, config.data.batch_size
    asked = schedule.epochs * math.ceil(num_examples / batch_size)
    passes = max(1, math.ceil(schedule.min_steps / asked))
    schedule_steps = schedule.steps or asked * passes
    return Timetable(
        num_examples=num_examples,
        batch_size=batch_size,
        passes_per_epoch=passes,
        schedule_steps=schedule_steps,
        total_steps=min(schedule_steps, schedule.max_steps or schedule_steps),
        warmup_steps=round(schedule.warmup_fraction * schedule_steps),
    )


def input_scale(step: int, total_steps: int, config: ScheduleConfig) -> float:
    """Size of the training images at a step, as a fraction of the full size.

    Source: progressive resizing, as in arXiv:2104.00298, section 4, here without changing the augmentation.
    """
    for scale, end in zip(config.progressive_scales, config.progressive_until, strict=True):
        if step < end * total_steps:
            return scale
    return 1.0


def scaled_size(size: tuple[int, int], scale: float, stride: tuple[int, int]) -> tuple[int, int]:
    """Height and width times `scale`, rounded to whole tokens of `stride` pixels, at least one."""
    height, width = (max(1, round(side * scale / step)) * step for side, step in zip(size, stride, strict=True))
    return height, width
