"""A checkpoint: everything a run needs to go on, as safetensors and JSON in one directory. No pickle.

A directory appears under its final name complete or not at all, and MANIFEST.json holds the SHA-256 of each file.
"""

import hashlib
import json
import re
import uuid
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from vitrail import fsio
from vitrail.errors import RunError

_STEP_DIR = re.compile(r"step-(\d{7,})$")


def save_checkpoint(
    directory: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any], *, keep: int
) -> Path:
    """Write `directory/step-NNNNNNN` and remove all but the newest `keep`.

    Args:
        directory: the run's checkpoints folder.
        step: optimiser steps done.
        tensors: file name without suffix to named tensors.
        state: JSON values.
        keep: checkpoints that stay, at least 1.
    Raises:
        SaveError: it cannot be written; the earlier checkpoints are intact.
    """
    final = directory / f"step-{step:07d}"
    if not final.exists():
        temporary = directory / f"{final.name}.tmp-{uuid.uuid4().hex[:8]}"
        files = {f"{name}.safetensors": safetensors.torch.save(group) for name, group in tensors.items()}
        files["state.json"] = json.dumps(state, indent=2, allow_nan=False).encode()
        manifest = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
        }
        try:
            for name, data in files.items():
                fsio.write_bytes(temporary / name, data)
            fsio.write_json(temporary / "MANIFEST.json", {"format_version": 1, "step": step, "files": manifest})
            fsio.rename_dir(temporary, final)
        except BaseException:
            if temporary.exists():
                fsio.remove(temporary)
            raise
    for old in _checkpoints(directory)[:-keep]:
        fsio.remove(old)
    return final


def newest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint with the highest step; None for a run that ended before its first one."""
    found = _checkpoints(directory)
    return found[-1] if found else None


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Read a checkpoint, each file checked against its SHA-256.

    Returns:
        Tensors by file name without suffix, and the state.
    Raises:
        RunError: a file is missing or differs from what was written.
    """
    try:
        manifest = json.loads((path / "MANIFEST.json").read_bytes())["files"]
        contents = {name: (path / name).read_bytes() for name in manifest}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path}: the checkpoint is incomplete.", got=error) from error
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != manifest[name]["sha256"]:
            raise RunError(
                f"{path / name}: damaged.",
                got="another SHA-256 than was written",
                do="Delete this checkpoint's folder and resume from an older one.",
            )
    tensors = {Path(n).stem: safetensors.torch.load(data) for n, data in contents.items() if n.endswith(".safetensors")}
    return tensors, json.loads(contents["state.json"])


def _checkpoints(directory: Path) -> list[Path]:
    """Finished checkpoints, oldest step first."""
    found = [(int(match[1]), path) for path in directory.glob("step-*") if (match := _STEP_DIR.match(path.name))]
    return [path for _, path in sorted(found)]
