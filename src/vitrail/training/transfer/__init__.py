"""Training that starts from pretrained weights: the start, the probes that are the baseline, and what moves."""

from vitrail.training.transfer.pretrained import (
    initial_model,
    seconds_per_image,
    start_lines,
    with_image_size,
    with_weights,
)
from vitrail.training.transfer.probe_runs import affordable_baseline, affordable_count, probe_run
from vitrail.training.transfer.trainable import merge_lora, prepare, to_training

__all__ = [
    "affordable_baseline",
    "affordable_count",
    "initial_model",
    "merge_lora",
    "prepare",
    "probe_run",
    "seconds_per_image",
    "start_lines",
    "to_training",
    "with_image_size",
    "with_weights",
]
