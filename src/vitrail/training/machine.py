"""What is asked of the machine before training: a compiler, an allocator that keeps memory."""

import ctypes
import importlib.util
import shutil
import sys

import torch

from vitrail.config import ComputeConfig
from vitrail.errors import ConfigError

# mallopt(3) of glibc: parameters, and values that keep freed memory in the process.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more
_COMPILERS = ("g++", "clang++", "c++", "cl")


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
