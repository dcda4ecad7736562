"""A checkpoint: everything a run needs to go on, as safetensors and JSON in one directory. No pickle.

    step-0000500/        model.safetensors  optim.safetensors  ema.safetensors  state.json  MANIFEST.json

A directory appears under its final name complete or not at all. MANIFEST.json has size and SHA-256 of each file, what
the state was made with, and a hash of itself; a checkpoint counts only as long as all of it holds. Its layout is
described in docs/checkpoints.md.
"""

import contextlib
import hashlib
import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from vitrail import fsio
from vitrail.errors import RunError, SaveError, WeightsError, shown
from vitrail.reading import DAMAGE, read_json_object, read_regular
from vitrail.schema import ANYTHING, TEXT, Schema, by_name, checked, record, whole
from vitrail.tensor_file import tensor_file
from vitrail.tensor_header import read_header

FORMAT_VERSION = 2
MANIFEST = "MANIFEST.json"
# The number after the step: a second checkpoint of it, as before and after an evaluation.
_STEP_DIR = re.compile(r"step-(\d{7,18})(?:-(\d{1,18}))?$")
_FILE_NAME = re.compile(r"[a-z]{1,20}\.(safetensors|json)")
_MOST_FILES = 16
_MOST_TENSORS = 30_000  # an optimiser has up to three for each of a model's
_MAX_JSON_BYTES = 25 << 20
_COUNT = whole(0, 2**63)
_MANIFEST: Schema = {
    "format_version": whole(1, FORMAT_VERSION),
    "files": by_name(record(bytes=_COUNT, sha256=TEXT), _MOST_FILES),
    "about": by_name(ANYTHING),
}
_UNFINISHED = re.compile(r"step-[\d-]{7,}\.(tmp|del)-[0-9a-f]+$")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds."""

    path: Path
    tensors: dict[str, dict[str, torch.Tensor]]
    """File name without suffix to named tensors."""
    state: dict[str, Any]
    """JSON values."""
    about: dict[str, Any]
    """What the state was made with: versions, threads, processes, device; empty in format version 1."""


def save_checkpoint(
    directory: Path,
    step: int,
    tensors: dict[str, dict[str, torch.Tensor]],
    state: dict[str, Any],
    *,
    keep: int,
    about: dict[str, Any] | None = None,
    best_step: int | None = None,
) -> Path:
    """Write `directory/step-NNNNNNN`, then remove all but the newest `keep`, and the one of the best step.

    A whole checkpoint of this step and state is left as it is; one of another state gets a successor with a number
    behind the step; a damaged one is replaced. What is removed is removed after the new one has been read back.

    Args:
        directory: the run's checkpoints folder.
        step: optimiser steps done.
        tensors: file name without suffix to named tensors, on the CPU.
        state: JSON values.
        keep: checkpoints that stay, at least 1.
        about: what the state was made with.
        best_step: whose newest checkpoint stays as well; None: none does.
    Raises:
        SaveError: it cannot be written; the earlier checkpoints are intact.
        RunError: a tensor of the model or of the average is not finite.
    """
    _check_own(directory)
    for group in ("model", "ema"):
        for name, tensor in tensors.get(group, {}).items():
            if tensor.is_floating_point() and not _finite(tensor):
                raise RunError(f"The {group} tensor {name} is not finite at step {step}: not saved.")
    values = (json.dumps(state, indent=2, allow_nan=False) + "\n").encode()
    final, attempt = directory / f"step-{step:07d}", 0
    while final.exists() and not damage_of(final) and read_regular(final / "state.json", _MAX_JSON_BYTES) != values:
        attempt += 1
        final = directory / f"step-{step:07d}-{attempt}"
    if final.exists() and damage_of(final):
        fsio.remove_dir(final)
    if not final.exists():
        described = {"format_version": FORMAT_VERSION, "step": step, "about": about or {}}
        files = {f"{name}.safetensors": tensor_file(group) for name, group in tensors.items()}
        files["state.json"] = [values]
        sizes = {name: sum(memoryview(piece).nbytes for piece in pieces) for name, pieces in files.items()}

        def manifest(digests: dict[str, str]) -> bytes:
            listed = {name: {"bytes": sizes[name], "sha256": digest} for name, digest in digests.items()}
            body = {**described, "files": listed}
            return (json.dumps({**body, "sha256": _hash(body)}, indent=2, allow_nan=False) + "\n").encode()

        fsio.write_new_dir(final, files, (MANIFEST, manifest))
    found = _checkpoints(directory)
    of_best = [path for path in found if best_step is not None and _step_of(path) == best_step][-1:]
    for old in found[: found.index(final) + 1][:-keep]:
        if old not in of_best:
            fsio.remove_dir(old)
    return final


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite: NaN and infinity show in the least and the greatest, in one pass."""
    return not tensor.numel() or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def newest_checkpoint(directory: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint with the highest step that is whole.

    Returns:
        Its path, None for a run that ended before its first one; and a line for each newer one that is damaged.
    Raises:
        RunError: there are checkpoints and all of them are damaged.
    """
    refused: list[str] = []
    for path in reversed(_checkpoints(directory)):
        if not (damage := damage_of(path)):
            return path, refused
        refused.append(f"{path.name} refused: {damage}")
    if refused:
        raise RunError(
            f"{directory}: every checkpoint is damaged.",
            got="; ".join(refused),
            expected="at least one whole checkpoint to go on from",
            do="Put one back from a copy, or start a new run.",
        )
    return None, refused


def damage_of(path: Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty when all of it is as it was written."""
    try:
        if path.is_symlink():
            return "a link to another folder"
        manifest = _read_manifest(path)
        for name, known in manifest["files"].items():
            status = (path / name).lstat()
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                return f"{name} is no regular file"
            if size != known["bytes"]:
                return f"{name} has {size} bytes instead of {known['bytes']}"
            if fsio.sha256_of(path / name) != known["sha256"]:
                return f"{name} has another SHA-256 than was written"
    except OSError as error:
        return f"{shown(Path(error.filename or path).name)}: {error.strerror}"
    except _Damaged as error:
        return error.what
    return ""


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, each file checked against its SHA-256.

    Raises:
        RunError: a file is missing or differs from what was written, or the format is newer than this version.
    """
    if damage := damage_of(path):
        raise RunError(
            f"{path}: damaged.",
            got=damage,
            do="Delete this checkpoint's folder and resume from an older one.",
        )
    manifest = _read_manifest(path)
    names = [name for name in manifest["files"] if name.endswith(".safetensors")]
    tensors = {Path(name).stem: _read_tensors(path / name) for name in names}
    try:
        state = read_json_object(path / "state.json", _MAX_JSON_BYTES, finite=True)
    except (OSError, ValueError) as error:
        raise RunError(f"{path / 'state.json'}: cannot be read.", got=error) from error
    if _stated_step(state) not in (None, _step_of(path)):
        raise RunError(
            f"{path}: its name and what it holds disagree.",
            got=f"state.json of step {shown(state['step'])}",
            expected=f"step {_step_of(path)}",
            do="Delete this checkpoint's folder and resume from an older one.",
        )
    return Checkpoint(path, tensors, state, manifest.get("about", {}))


def remove_unfinished(directory: Path) -> None:
    """Delete what a killed save or deletion left behind. Only the holder of the run's lock may call it."""
    _check_own(directory)
    for path in directory.glob("step-*"):
        if _UNFINISHED.match(path.name):
            with contextlib.suppress(SaveError):
                fsio.remove(path)


def _check_own(directory: Path) -> None:
    """Raise RunError where the folder of the checkpoints is a link: nothing is written or deleted behind it."""
    if directory.is_symlink():
        raise RunError(
            f"{directory}: is a link to another folder.",
            expected="a folder of the run itself",
            do="Move the folder here; the whole run directory may be a link.",
        )


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file. Raises RunError."""
    try:
        read_header(path, _MOST_TENSORS)  # before the library takes memory for what it says
        return safetensors.torch.load_file(path)
    except (*DAMAGE, WeightsError, safetensors.SafetensorError) as error:
        raise RunError(f"{path}: holds no tensors that can be read.", got=error) from error


def _stated_step(values: dict[str, Any]) -> int | None:
    """The step that a JSON object names, None where it names none, -1 where that is no number of steps."""
    step = values.get("step")
    return step if step is None or _COUNT.fits(step) else -1


class _Damaged(RunError):
    """A manifest that cannot be trusted; `what` says it in one line."""


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, its own hash checked. Raises OSError, _Damaged, or RunError for a newer format."""
    try:
        manifest = read_json_object(path / MANIFEST, _MAX_JSON_BYTES, finite=True)
    except ValueError as error:
        raise _Damaged(f"{MANIFEST} cannot be read") from error
    version: Any = manifest.get("format_version")
    if _COUNT.fits(version) and version > FORMAT_VERSION:
        raise RunError(
            f"{path}: written in a newer format.",
            got=f"format version {version}",
            expected=f"at most {FORMAT_VERSION}",
            do="Install a newer vitrail.",
        )
    known = checked({"about": {}, **manifest}, _MANIFEST, MANIFEST, _Damaged, needed=True)
    named = all(_FILE_NAME.fullmatch(name) for name in known["files"]) and "state.json" in known["files"]
    if not named or (version > 1 and manifest.pop("sha256", None) != _hash(manifest)):
        raise _Damaged(f"{MANIFEST} is not as it was written")
    if _stated_step(manifest) not in (None, _step_of(path)):
        raise _Damaged(f"{MANIFEST} is of step {shown(manifest['step'])}, not of {path.name}")
    return manifest


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _step_of(path: Path) -> int:
    match = _STEP_DIR.match(path.name)
    return int(match[1]) if match else -1


def _checkpoints(directory: Path) -> list[Path]:
    """Finished checkpoints, oldest step first."""
    found = [
        (int(match[1]), int(match[2] or 0), path)
        for path in directory.glob("step-*")
        if (match := _STEP_DIR.match(path.name)) and not path.is_symlink()
    ]
    return [path for *_, path in sorted(found)]
