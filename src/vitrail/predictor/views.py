"""Which views of an image an answer is made of: the image alone, or its mirror image as well. No torch.

The logits of both are averaged. Their softmax is then the normalised geometric mean of the probabilities, at any
temperature.

Source: KellerJordan/cifar10-airbench:airbench94_muon.py, `infer_mirror`
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from vitrail.errors import ConfigError
from vitrail.predictor.answers import Outputs

Views = Literal["single", "mirror"]
"""single: the image as it is. mirror: the mean over the image and its mirror image."""
Pixels = UInt8[np.ndarray, "B C h w"]


def check_views(views: str) -> None:
    """Raise ConfigError for a word that is no `Views`."""
    if views not in get_args(Views):
        raise ConfigError("--views has a wrong value.", got=views, expected=" or ".join(get_args(Views)))


def mean_over_mirror(
    run: Callable[[Pixels], Outputs], pixels: Pixels, *, temperature: float, is_yes_or_no: bool
) -> Outputs:
    """The outputs for images whose logits are averaged with those of their mirror images.

    Whether an image is unknown stays a matter of the image alone: the thresholds were chosen for one view.

    Args:
        run: the outputs for one view.
        temperature: that `run` divides logits by.
        is_yes_or_no: each class has a probability of its own.
    """
    alone, mirrored = run(pixels), run(np.ascontiguousarray(pixels[..., ::-1]))
    logits = (alone.logits + mirrored.logits) / 2
    probabilities = (_sigmoid if is_yes_or_no else _softmax)(logits / np.float32(temperature))
    return Outputs(probabilities, logits, alone.distances, confidence=alone.probabilities.max(1))


def _sigmoid(logits: Float32[np.ndarray, "B L"]) -> Float32[np.ndarray, "B L"]:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def _softmax(logits: Float32[np.ndarray, "B L"]) -> Float32[np.ndarray, "B L"]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
