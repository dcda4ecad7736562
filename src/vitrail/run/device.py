"""Choosing the device and the precision, and saying so."""

import torch

from vitrail.config import ComputeConfig
from vitrail.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device that `name` means; auto takes cuda, else mps, else cpu.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ConfigError(
            f"compute.device {name!r} is not available here.",
            got=str(error).splitlines()[0],
            expected=f"one of {', '.join(here)}",
            do="Use --compute.device auto (train) or --device auto (eval, predict).",
        ) from error
    return device


def autocast_dtype(config: ComputeConfig, device: torch.device) -> torch.dtype | None:
    """The type of the forward pass under autocast; None: full fp32.

    On a CPU without matrix units for them, half-precision types are several times slower than fp32, so a CPU always
    computes in fp32.
    """
    if device.type == "cpu" or config.precision == "fp32":
        return None
    return torch.float16 if config.precision == "fp16" else torch.bfloat16
