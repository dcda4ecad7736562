"""Programs that run a model: torch, ONNX Runtime, OpenVINO; each a function from images to logits."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.config.checks import pair
from vitrail.errors import ConfigError, install_hint
from vitrail.model import ViT
from vitrail.runtime.integers import PRODUCT, exact_settings
from vitrail.runtime.integers import session as open_session
from vitrail.runtime.libraries import openvino
from vitrail.runtime.merging import merged_logits

Engine = Literal["torch", "onnx", "openvino"]
Runtime = Callable[[Float[Tensor, "B C H W"]], Float[Tensor, "B L"]]
"""Normalised fp32 images, any number of them, to fp32 logits on the same device."""

Arithmetic = Callable[[], contextlib.AbstractContextManager[object]]

_NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
_PACKAGES: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


def missing(engine: str) -> tuple[str, ...]:
    """Packages that an engine needs and that are not installed."""
    return tuple(name for name in _PACKAGES.get(engine, ()) if importlib.util.find_spec(name) is None)


def check_installed(engine: str, asked: str) -> None:
    """Raise ConfigError unless everything is there that the engine needs.

    Args:
        asked: the option that asks for it, as messages name it.
    """
    if absent := missing(engine):
        raise ConfigError(
            f"{asked} runs in {_NAMES[engine]}, and what that needs is not installed.",
            got=f"no {' and no '.join(absent)}",
            do=install_hint(*absent),
        )


def torch_runtime(
    model: ViT, image_size: tuple[int, int], merge: int = 0, arithmetic: Arithmetic = contextlib.nullcontext
) -> Runtime:
    """The model itself, or with `merge` tokens fewer after each layer.

    Args:
        arithmetic: makes the context in which it is computed: `torch.autocast`, or `tf32`.
    """
    interpolate = image_size != pair(model.config.image_size)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with arithmetic():
            if not merge:
                return model(images, interpolate_pos_encoding=interpolate)["logits"].float()
            return merged_logits(model, images, merge, interpolate=interpolate).float()

    return run


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Let CUDA multiply fp32 matrices with 10 bits of fraction, for the length of a `with` block."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def start(engine: str, file: bytes) -> Runtime:
    """Start ONNX Runtime or OpenVINO on a translated model, on the CPU with as many threads as torch has.

    Raises:
        ConfigError: the engine is not installed, or its products of integers are wrong on this processor.
    """
    check_installed(engine, f"--engine {engine}")
    return _onnx_runtime(file) if engine == "onnx" else _openvino(file)


def _onnx_runtime(file: bytes) -> Runtime:
    settings = exact_settings() if PRODUCT.encode() in file else ()
    session = open_session(file, settings, torch.get_num_threads())

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"pixel_values": images.contiguous().numpy()})[0])

    return run


def _openvino(file: bytes) -> Runtime:
    core = openvino().Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # its own choice is bf16 where the processor has it
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(file), "CPU", settings)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled(images.contiguous().numpy())[0].copy())

    return cast(Runtime, run)
