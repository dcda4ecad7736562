"""The run directory: where everything a run leaves behind lies, and the state a run goes on from."""

from vitrail.run.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from vitrail.run.directory import RunDir, check_resumable, next_free_run, read_config
from vitrail.run.environment import environment
from vitrail.run.result import RunResult

__all__ = [
    "RunDir",
    "RunResult",
    "check_resumable",
    "environment",
    "load_checkpoint",
    "newest_checkpoint",
    "next_free_run",
    "read_config",
    "save_checkpoint",
]
