"""The learning rate over a run, as a factor of its peak: a pure function of the step."""

import math

from vitrail.config import ScheduleConfig


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


def run_length(config: ScheduleConfig, steps_per_epoch: int) -> tuple[int, int]:
    """How often a small training set is passed over for each epoch that was asked for, and the steps of the run."""
    asked = config.epochs * steps_per_epoch
    stretch = max(1, math.ceil(config.min_steps / asked))
    return stretch, config.steps or asked * stretch


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
