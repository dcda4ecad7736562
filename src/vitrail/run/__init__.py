"""The run directory: where everything a run leaves behind lies, and the state a run goes on from."""

from vitrail.run.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from vitrail.run.directory import RunDir, read_config
from vitrail.run.environment import environment

__all__ = ["RunDir", "environment", "load_checkpoint", "newest_checkpoint", "read_config", "save_checkpoint"]
