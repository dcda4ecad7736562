"""How sure a model's answers are: one temperature, and when it had better answer "unknown". No torch."""

import math
from dataclasses import dataclass

from vitrail.errors import ConfigError

UNKNOWN = "unknown"
"""The answer to an image that is like none of the classes."""
MOST_TEMPERATURE = 20.0


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """When the answer is "unknown": by either of two scores, each of which refuses half of a budget of false alarms.

    Args:
        reject: the share of validation images that may be refused, in (0, 1).
        min_probability: least probability of the most probable class, in [0, 1].
        max_distance: largest Mahalanobis distance of the pooled features to the nearest class mean.
    Source: Hendrycks and Gimpel 2017, arXiv:1610.02136; Lee et al. 2018, arXiv:1807.03888.
    """

    reject: float
    min_probability: float
    max_distance: float

    def __post_init__(self) -> None:
        fits = 0 < self.reject < 1 and 0 <= self.min_probability <= 1 and 0 <= self.max_distance < math.inf
        if not fits:
            raise ConfigError("The thresholds of unknown are out of range.", got=self)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was found on images that the model was not trained on.

    Args:
        temperature: what logits are divided by before the softmax, in [1/20, 20]; 1: nothing.
        reason: why it is what it is.
        split: which images.
        num_images: how many.
        fingerprint: of their classes, names, labels and pixels; empty: unknown.
        nll_before, nll_after: negative log-likelihood out of fold, without and with it; None: not fitted.
        ece_before, ece_after: expected calibration error in 15 groups of equal width, without and with it.
        unknown: None: every image gets a class.
    """

    temperature: float
    reason: str
    split: str
    num_images: int
    fingerprint: str = ""
    nll_before: float | None = None
    nll_after: float | None = None
    ece_before: float | None = None
    ece_after: float | None = None
    unknown: Unknown | None = None

    def __post_init__(self) -> None:
        if not 1 / MOST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE:
            expected = f"a number from {1 / MOST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}"
            raise ConfigError("The temperature is out of range.", got=self.temperature, expected=expected)
