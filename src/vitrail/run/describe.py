"""What a run runs on, described: versions, hardware, commit, and what is deterministic about it."""

import os
import platform
import sys
from typing import Any

import torch

from vitrail.config import RunConfig
from vitrail.errors import shown
from vitrail.run.environment import Determinism, Environment, Origin, commit, cpu_name, versions_of

_MOST_DIFFERENCES = 20
_LIBRARIES = ("vitrail", "torch", "numpy", "pillow", "safetensors")


def describe_environment(
    config: RunConfig,
    device: torch.device,
    *,
    data: dict[str, dict[str, Any]] | None = None,
    init: Origin | None = None,
    teacher: dict[str, Any] | None = None,
    linear: dict[str, Any] | None = None,
    processes: int = 1,
    local_batch_norm: bool = False,
) -> Environment:
    """Describe the machine and the program.

    Args:
        local_batch_norm: whether each process normalises with statistics of its own images.
    """
    return Environment(
        versions={"python": platform.python_version(), **versions_of(_LIBRARIES)},
        commit=commit(),
        command=sys.argv[1:],
        platform=platform.platform(),
        cpu={"name": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        processes=processes,
        deterministic=_determinism(config, device, local_batch_norm),
        linear=linear,
        data=data or {},
        init=init,
        teacher=teacher,
    )


def describe_numerics(
    config: RunConfig, device: torch.device, processes: int, *, dtype: torch.dtype | None, linear: str
) -> dict[str, Any]:
    """What the last bits of a run depend on besides its settings; written into every checkpoint.

    Args:
        dtype: of autocast; None: fp32.
        linear: whose products train the linear layers on a CPU in fp32.
    """
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "processes": processes,
        "strategy": config.parallel.strategy if processes > 1 else "none",
        "compile": config.compute.compile,
        "linear": linear,
        "dtype": str(dtype or torch.float32).removeprefix("torch."),
    }


def differences(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why a run that goes on may differ in the last bits from one that was not interrupted."""
    if not stored:
        return ["the checkpoint does not say what it was made with"]
    return [
        f"{shown(name)}: {shown(value)} before, {shown(now.get(name))} now"
        for name, value in list(stored.items())[:_MOST_DIFFERENCES]
        if value != now.get(name)
    ]


def _determinism(config: RunConfig, device: torch.device, local_batch_norm: bool) -> Determinism:
    """Which parts repeat exactly, and why the others may not."""
    reasons: list[str] = []
    if device.type != "cpu":
        reasons.append(f"{device.type} kernels may add in another order")
    if config.compute.compile:
        reasons.append("torch.compile chooses kernels per machine")
    return Determinism(
        order_and_augmentation=True,
        weights=not reasons,
        same="the same device, torch version, number of threads and of processes, and kernels of the linear layers",
        reasons=reasons,
        other_number_of_processes=_other_number(config, local_batch_norm),
    )


def _other_number(config: RunConfig, local_batch_norm: bool) -> list[str]:
    """What changes when another number of processes computes the same run, beside the order of sums."""
    model = config.model
    changes = ["sums over a batch are added in another order: the last bits of weights"]
    if any((model.embedding_dropout, model.attention_dropout, model.projection_dropout, model.stochastic_depth)):
        changes.append("dropout and stochastic depth draw for each process")
    if local_batch_norm or model.stem_channels:
        changes.append("batch norms of the stem take their statistics from each process's own images")
    return changes
