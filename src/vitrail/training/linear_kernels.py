"""Whose matrix products train the linear layers on a CPU: measured on the run's own shapes, once a machine.

`F.linear` calls MKL, as everyone's training does. oneDNN's kernels (vitrail.training.onednn_linear) are faster on some
processors and for some shapes, and slower on others; no name of a processor tells. Results differ in the last bits, so
what was found is kept in the user's cache folder, and the same run takes the same kernels again; where it cannot be
kept, F.linear computes.
"""

import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vitrail import fsio
from vitrail.config import ComputeConfig
from vitrail.config.checks import pair
from vitrail.errors import SaveError
from vitrail.locations import linear_kernels_cache
from vitrail.model import ViT
from vitrail.reading import read_json_object
from vitrail.run.environment import cpu_name
from vitrail.training.onednn_linear import has_onednn_linear, onednn_linear
from vitrail.training.precision import autocast_dtype

LinearBy = Literal["", "mkl", "onednn"]
LINEAR: tuple[LinearBy, ...] = ("mkl", "onednn")

WORTH_MEASURING = 1e9
"""Operations of a step's linear layers from which on there is something to win: about a hundredth of a second."""
CLEARLY = 0.97
"""oneDNN computes where it takes less than this part of MKL's time."""
_MAX_BYTES = 1 << 16
_VERSION = 1  # of the notes in the cache folder
_SECONDS, _MOST_SECONDS = 0.1, 2.0
_ROUNDS, _MOST_ROUNDS = 3, 20
_MOST_ROWS, _ROWS_A_THREAD = 2048, 128


@dataclass(frozen=True)
class LinearKernels:
    """Whose products train the linear layers.

    Args:
        by: mkl, onednn; empty on another device than a CPU, or in bf16.
        why: in a few words.
        mkl_seconds, onednn_seconds: of the linear layers of a step, as measured; 0: not measured.
    """

    by: LinearBy
    why: str
    mkl_seconds: float = 0.0
    onednn_seconds: float = 0.0


class Shape(NamedTuple):
    """A linear layer and what its gradient needs."""

    rows: int
    width_in: int
    width_out: int
    has_bias: bool
    moves_input: bool
    moves_weight: bool

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.width_in * self.width_out * (1 + self.moves_input + self.moves_weight)


def from_settings(compute: ComputeConfig, device: torch.device) -> LinearKernels | None:
    """What the settings decide; None: it has to be measured."""
    if device.type != "cpu":
        return LinearKernels("", "no CPU")
    if dtype := autocast_dtype(compute, device):
        return LinearKernels("", f"computed in {dtype}".replace("torch.", ""))
    if compute.cpu_linear == "mkl":
        return LinearKernels("mkl", "compute.cpu_linear")
    if compute.compile or compute.checkpoint_activations:
        return LinearKernels("mkl", "compiled or computed twice")
    if not has_onednn_linear():
        return LinearKernels("mkl", "this torch has no oneDNN")
    return LinearKernels("onednn", "compute.cpu_linear") if compute.cpu_linear == "onednn" else None


def choose_linear_kernels(compute: ComputeConfig, model: ViT, batch_size: int) -> LinearKernels:
    """Choose for a model that is about to train; neither it nor any random number is touched.

    Args:
        compute: of the run.
        model: on its device, its weights whole.
        batch_size: images of a step that this process computes.
    """
    known = from_settings(compute, next(model.parameters()).device)
    if known:
        return known
    shapes = linear_shapes(model, max(1, -(-batch_size // compute.accumulation_steps)))
    work = sum(shape.operations * count for shape, count in shapes.items()) * compute.accumulation_steps
    if work < WORTH_MEASURING:
        return LinearKernels("mkl", "too little work to measure")
    return _kept(linear_kernels_cache(), shapes)


def linear_shapes(model: ViT, num_images: int) -> Counter[Shape]:
    """Every linear layer that a forward pass of so many images calls, and how often; one image is computed."""
    image = torch.zeros(1, model.config.num_channels, *pair(model.config.image_size))
    was_training, seen = model.training, _Seen(num_images)
    model.eval()
    with seen, torch.enable_grad():
        model(image)
    model.train(was_training)
    return seen.shapes


class _Seen(TorchFunctionMode):
    """Notes the shapes of all linear layers that are called for one image, as they are for `num_images`."""

    def __init__(self, num_images: int) -> None:
        super().__init__()
        self.num_images = num_images
        self.shapes: Counter[Shape] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            self._note(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _note(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        rows = self.num_images * (input.numel() // input.shape[-1])
        out, width = weight.shape
        self.shapes[Shape(rows, width, out, bias is not None, input.requires_grad, weight.requires_grad)] += 1


def _kept(folder: Path, shapes: Counter[Shape]) -> LinearKernels:
    """What was found on this machine before, else what is measured now, if it can be kept."""
    machine = [cpu_name(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), torch.__version__]
    key = json.dumps([_VERSION, machine, sorted(shapes.items())])
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    if found := _read(path):
        return found
    measured = measure(shapes)
    note = (json.dumps(vars(measured), indent=2) + "\n").encode()
    try:
        if not fsio.create_exclusively(path, note):  # another process was faster: one answer for both
            if found := _read(path):
                return found
            fsio.write_bytes(path, note)  # it is damaged
    except SaveError:
        return LinearKernels("mkl", "the cache folder cannot be written", measured.mkl_seconds, measured.onednn_seconds)
    return measured


def _read(path: Path) -> LinearKernels | None:
    try:
        found = LinearKernels(**read_json_object(path, _MAX_BYTES))
    except (OSError, ValueError, TypeError):
        return None
    seconds = (found.mkl_seconds, found.onednn_seconds)
    right = type(found.why) is str and all(type(s) in (int, float) and 0 <= s < 1e9 for s in seconds)
    return found if right and found.by in LINEAR else None


def measure(shapes: Counter[Shape]) -> LinearKernels:
    """Time forward and backward passes of the layers by both, by turns: a tenth of a second, more of large ones."""
    rows = max(_MOST_ROWS, _ROWS_A_THREAD * torch.get_num_threads())
    inputs = {shape: _tensors(shape, min(rows, shape.rows)) for shape in shapes}
    best = {(shape, quick): float("inf") for shape in shapes for quick in (False, True)}
    started, number = time.perf_counter(), 0
    while number < _ROUNDS or (number < _MOST_ROUNDS and time.perf_counter() - started < _SECONDS):
        for (shape, quick), before in best.items():
            best[shape, quick] = min(before, _seconds(*inputs[shape], quick))
        number += 1
        if time.perf_counter() - started > _MOST_SECONDS:
            break
    mkl, onednn = (
        sum(best[shape, quick] * count * shape.rows / min(rows, shape.rows) for shape, count in shapes.items())
        for quick in (False, True)
    )
    by: LinearBy = "onednn" if onednn < CLEARLY * mkl else "mkl"
    return LinearKernels(by, "measured", round(mkl, 6), round(onednn, 6))


def _tensors(shape: Shape, rows: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Input, weight, bias and the gradient of the output."""
    input = torch.full((rows, shape.width_in), 0.5, requires_grad=shape.moves_input)
    weight = torch.full((shape.width_out, shape.width_in), 0.01, requires_grad=shape.moves_weight)
    bias = torch.zeros(shape.width_out, requires_grad=shape.moves_weight) if shape.has_bias else None
    return input, weight, bias, torch.full((rows, shape.width_out), 0.5)


def _seconds(input: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor, quick: bool) -> float:
    moved = [tensor for tensor in (input, weight, bias) if tensor is not None and tensor.requires_grad]
    started = time.perf_counter()
    with torch.enable_grad(), onednn_linear(quick):
        output = F.linear(input, weight, bias)
        if moved:
            torch.autograd.grad(output, moved, gradient)
    return time.perf_counter() - started
