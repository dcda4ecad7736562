"""The run directory: where everything a run leaves behind lies, and the state a run goes on from.

The names load on first use, so that what a run came to is read without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.run.checkpoint import (
        Checkpoint,
        load_checkpoint,
        newest_checkpoint,
        remove_unfinished,
        save_checkpoint,
    )
    from vitrail.run.describe import describe_environment, describe_numerics, differences
    from vitrail.run.directory import RunDir, check_resumable, next_free_run, read_config
    from vitrail.run.environment import Determinism, Environment, Origin
    from vitrail.run.predictions import Predictions, read_predictions
    from vitrail.run.result import Baseline, RunResult, Score

__all__ = [
    "Baseline",
    "Checkpoint",
    "Determinism",
    "Environment",
    "Origin",
    "Predictions",
    "RunDir",
    "RunResult",
    "Score",
    "check_resumable",
    "describe_environment",
    "describe_numerics",
    "differences",
    "load_checkpoint",
    "newest_checkpoint",
    "next_free_run",
    "read_config",
    "read_predictions",
    "remove_unfinished",
    "save_checkpoint",
]

_MODULES = {
    "checkpoint": ("Checkpoint", "load_checkpoint", "newest_checkpoint", "remove_unfinished", "save_checkpoint"),
    "describe": ("describe_environment", "describe_numerics", "differences"),
    "directory": ("RunDir", "check_resumable", "next_free_run", "read_config"),
    "environment": ("Determinism", "Environment", "Origin"),
    "predictions": ("Predictions", "read_predictions"),
    "result": ("Baseline", "RunResult", "Score"),
}
_HOMES = {name: f"vitrail.run.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitrail.run' has no attribute {name!r}")
