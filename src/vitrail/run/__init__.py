"""The run directory: where everything a run leaves behind lies, and the state a run goes on from."""

from vitrail.run.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, remove_unfinished, save_checkpoint
from vitrail.run.directory import RunDir, check_resumable, next_free_run, read_config
from vitrail.run.environment import (
    Determinism,
    Environment,
    Origin,
    describe_environment,
    describe_numerics,
    differences,
)
from vitrail.run.result import Baseline, RunResult, Score

__all__ = [
    "Baseline",
    "Determinism",
    "Environment",
    "Origin",
    "Score",
    "describe_environment",
    "Checkpoint",
    "RunDir",
    "RunResult",
    "check_resumable",
    "differences",
    "load_checkpoint",
    "describe_numerics",
    "newest_checkpoint",
    "next_free_run",
    "read_config",
    "remove_unfinished",
    "save_checkpoint",
]
