"""The device that computes."""

import torch

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
