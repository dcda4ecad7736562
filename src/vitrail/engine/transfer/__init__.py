"""Training that starts from pretrained weights: the start, the probes that are the baseline, and what moves."""

from vitrail.engine.transfer.probing import affordable_baseline, affordable_count, probe_run
from vitrail.engine.transfer.start import initial_model, seconds_an_image, start_lines, with_image_size, with_weights
from vitrail.engine.transfer.trainable import merged, prepare, to_training

__all__ = [
    "affordable_baseline",
    "affordable_count",
    "initial_model",
    "merged",
    "prepare",
    "probe_run",
    "seconds_an_image",
    "start_lines",
    "to_training",
    "with_image_size",
    "with_weights",
]
