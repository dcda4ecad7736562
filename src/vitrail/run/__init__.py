"""The run directory: where everything a run leaves behind lies, and the state a run goes on from."""

from vitrail.run.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, remove_unfinished, save_checkpoint
from vitrail.run.directory import RunDir, check_resumable, next_free_run, read_config
from vitrail.run.environment import describe_numerics, differences, environment
from vitrail.run.result import RunResult

__all__ = [
    "Checkpoint",
    "RunDir",
    "RunResult",
    "check_resumable",
    "differences",
    "environment",
    "load_checkpoint",
    "describe_numerics",
    "newest_checkpoint",
    "next_free_run",
    "read_config",
    "remove_unfinished",
    "save_checkpoint",
]
