"""How fast this machine multiplies matrices, and how many multiplications a model takes."""

import time

import torch
import torch.nn.functional as F

from vitrail.config import ViTConfig
from vitrail.training.onednn_linear import has_onednn_linear, onednn_linear

BACKWARD = 2  # gradients of the input and of the weight, each as large a product as the forward one


def matrix_peak(device: torch.device, dtype: torch.dtype = torch.float32, *, seconds: float = 1.0) -> float:
    """The fastest of many large square products, in floating-point operations a second; a product counts 2 n^3.

    On a CPU in fp32 torch's own product and oneDNN's take turns: which is faster depends on the processor.
    """
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    takes_turns = device.type == "cpu" and dtype is torch.float32 and has_onednn_linear()
    best, end = 0.0, time.perf_counter() + seconds
    F.linear(a, b)
    while True:
        for by_onednn in (False, True) if takes_turns else (False,):
            with onednn_linear(by_onednn):
                _wait(device)
                start = time.perf_counter()
                F.linear(a, b)
                _wait(device)
                best = max(best, 2 * side**3 / (time.perf_counter() - start))
        if time.perf_counter() > end:
            return best


def forward_operations(config: ViTConfig) -> int:
    """Floating-point operations of the matrix products of one image, forward: patches, layers, attention, classifier.

    Training takes 1 + BACKWARD times as many. A convolutional stem is not counted.
    """
    patches = config.grid[0] * config.grid[1]
    tokens, width = patches + config.num_prefix_tokens, config.hidden_size
    channels = config.stem_channels[-1] if config.stem_channels else config.num_channels
    patch = config.patch_size if isinstance(config.patch_size, tuple) else (config.patch_size, config.patch_size)
    mlp = (3 if config.activation == "swiglu" else 2) * width * config.intermediate_size
    layer = tokens * (4 * width**2 + mlp) + 2 * tokens**2 * width
    embedding = patches * channels * patch[0] * patch[1] * width
    return 2 * (embedding + config.num_hidden_layers * layer + width * config.num_labels)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
