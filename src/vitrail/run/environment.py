"""What a run ran on: versions, hardware, commit, and what is deterministic about it."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from vitrail.config import RunConfig

_LIBRARIES = ("vitrail", "torch", "numpy", "pillow", "safetensors")


def environment(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Describe the machine and the program, as JSON values."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        "commit": commit(),
        "command": sys.argv[1:],
        "platform": platform.platform(),
        "cpu": {"name": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "deterministic": _determinism(config, device),
    }


def commit() -> str | None:
    """The commit of the source tree the package runs from; None when it is installed without one."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _determinism(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Which parts repeat exactly, and why the others may not."""
    reasons: list[str] = []
    if device.type != "cpu":
        reasons.append(f"{device.type} kernels may add in another order")
    if config.compute.compile:
        reasons.append("torch.compile chooses kernels per machine")
    return {
        "order_and_augmentation": True,
        "weights": not reasons,
        "same": "the same device, torch version and number of threads",
        "reasons": reasons,
    }
