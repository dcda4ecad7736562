"""Training that starts from pretrained weights: the start, the probes that are the baseline, and what moves."""

from vitrail.training.transfer.pretrained import (
    check_has_features,
    initial_model,
    seconds_per_image,
    start_lines,
    with_image_size,
    with_weights,
)
from vitrail.training.transfer.probe_runs import affordable_count, fit_probe, measure_baseline
from vitrail.training.transfer.tokens import CachedTokens, LastBlocks, TokenCache
from vitrail.training.transfer.trainable import merge_lora, prepare, to_training

__all__ = [
    "CachedTokens",
    "LastBlocks",
    "TokenCache",
    "affordable_count",
    "check_has_features",
    "fit_probe",
    "initial_model",
    "measure_baseline",
    "merge_lora",
    "prepare",
    "seconds_per_image",
    "start_lines",
    "to_training",
    "with_image_size",
    "with_weights",
]
