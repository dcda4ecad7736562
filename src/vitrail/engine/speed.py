"""What is asked of the machine before training: a compiler, matrix units for fp8, an allocator that keeps memory."""

import ctypes
import importlib.util
import shutil
import sys

import torch
from torch import nn

from vitrail.config import ComputeConfig
from vitrail.errors import ConfigError, install_hint
from vitrail.model import ViT

# mallopt(3) of glibc: parameters, and values that keep freed memory in the process.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more
_COMPILERS = ("g++", "clang++", "c++", "cl")
FP8_CAPABILITY = (8, 9)  # the first with matrix units for fp8: Ada; Hopper is (9, 0)


def keep_freed_memory() -> bool:
    """Let the C library keep what was freed, instead of handing it back and taking it again in every step.

    By default glibc returns large buffers to the system, and each step then waits for pages to be mapped and zeroed.
    The process keeps its peak either way. It holds for the whole process, until it ends.

    Returns:
        Whether this C library can be told (glibc on Linux).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    asked = ((_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20))
    return all([mallopt(name, value) == 1 for name, value in asked])


def check_can_compile(compute: ComputeConfig, device: torch.device) -> None:
    """Raise ConfigError when compute.compile is asked for and there is nothing here to compile with."""
    if not compute.compile:
        return
    if device.type == "cpu" and not any(shutil.which(name) for name in _COMPILERS):
        missing = f"a C++ compiler: none of {', '.join(_COMPILERS)} is on the path"
    elif device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing = "triton, which is not installed"
    else:
        return
    raise ConfigError(
        f"compute.compile needs {missing}.",
        got="compute.compile true",
        do="Install it, or train without: --compute.compile False. The result is the same, the step slower on a GPU.",
    )


def to_fp8(model: ViT, compute: ComputeConfig, device: torch.device) -> None:
    """Let the matrix products of the encoder's linear layers be of fp8 numbers, scaled a tensor at a time.

    The weights and their names stay what they are; patch embedding and classifier are not touched. Does nothing
    unless compute.precision is fp8.

    Raises:
        ConfigError: this device has no matrix units for fp8, or torchao is not installed.
    Source: arXiv:2209.05433 (the formats); pytorch/ao:torchao/float8.
    """
    if compute.precision != "fp8":
        return
    capability: tuple[int, int] = (0, 0)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
    if tuple(capability) < FP8_CAPABILITY:
        named = f"{torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
        raise ConfigError(
            "compute.precision fp8 needs a GPU with matrix units for it.",
            got=named,
            expected="a GPU of the Ada, Hopper or Blackwell generation",
            do="Use --compute.precision bf16.",
        )
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError(
            "compute.precision fp8 needs torchao.",
            got="no package torchao",
            do=f"{install_hint('torchao')}, or use --compute.precision bf16.",
        )
    from torchao.float8 import convert_to_float8_training  # type: ignore[import-not-found]

    def is_wanted(module: nn.Module, name: str) -> bool:
        fits = isinstance(module, nn.Linear) and module.in_features % 16 == 0 and module.out_features % 16 == 0
        return fits and name.startswith("blocks.")

    convert_to_float8_training(model, module_filter_fn=is_wanted)
