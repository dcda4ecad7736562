"""What the processes of a fork server are made to do."""

from pathlib import Path
from typing import Any

import torch

from vitrail import fsio
from vitrail.run import save_checkpoint
from vitrail.selftest.faulty_files import Dying
from vitrail.selftest.tiny import tiny_run
from vitrail.training import train


def train_tiny(run: str, resume: bool = False, sections: dict[str, dict[str, Any]] | None = None) -> None:
    """A run of the digits with a tiny model; one that was begun goes on where `resume` says so."""
    torch.set_num_threads(1)
    path = Path(run)
    train(tiny_run(**(sections or {})), path, resume=resume and (path / "config.json").exists())


def train_and_die(run: str, at: int, after: bool, sections: dict[str, dict[str, Any]], resume: bool = False) -> None:
    """The same; the process is gone at one operation of the file system. Without dying: writes how many there are."""
    torch.set_num_threads(1)
    dying = Dying(at, after)
    with fsio.use_file_system(dying):
        train(tiny_run(**sections), Path(run), resume=resume)
    fsio.write_bytes(Path(run).parent / "operations", str(dying.count).encode())


def state_of(step: int) -> dict[str, torch.Tensor]:
    """Weights that differ for each step."""
    return {"w": torch.randn(50, 70, generator=torch.Generator().manual_seed(step))}


def save_and_die(directory: str, at: int, after: bool) -> None:
    """Save a checkpoint, and another one in its place; the process is gone at one operation of the second."""
    path = Path(directory)
    save_checkpoint(path, 5, {"model": state_of(5)}, {"step": 5}, keep=1)
    dying = Dying(at, after)
    with fsio.use_file_system(dying):
        save_checkpoint(path, 10, {"model": state_of(10)}, {"step": 10}, keep=1)
    fsio.write_bytes(path / "operations", str(dying.count).encode())
