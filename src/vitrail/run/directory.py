"""The layout of a run directory, an interface between the engine, which writes it, and everything that reads it.

config.json          every setting of the run
environment.json     versions, hardware, commit, data fingerprint
metrics.jsonl        one object a step interval or evaluation: what a repetition repeats
timing.jsonl         the same moments by the clock
checkpoints/step-0000500/
best.safetensors  last.safetensors
evaluation.json
reconstruction.json  in place of it, where a run learns without labels
predictions-val.safetensors  predictions-test.safetensors
evaluations.jsonl    one object each time somebody measured the best model
report.html  report.json
"""

import functools
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail import fsio
from vitrail.config import RunConfig, from_json, to_json
from vitrail.config.checks import require_name
from vitrail.config.settings import flat_settings
from vitrail.errors import ConfigError, RunError, nearest, shown
from vitrail.reading import read_json_object
from vitrail.run.environment import Environment
from vitrail.run.lock import is_lock_file
from vitrail.run.metrics import LineLog
from vitrail.run.result import Baseline
from vitrail.schema import ANYTHING, TEXT, Schema, by_name, checked, many, number, record, whole

# A resumed run may change these: they say where, how fast and how long it runs, not what a step computes.
_CHANGEABLE = (
    "schedule.max_steps",
    "schedule.epochs",  # a run can be made longer: vitrail.training.loop
    "schedule.steps",
    "compute.device",
    "compute.compile",
    "compute.num_threads",
    "evaluation.batch_size",
    "data.root",
    "data.ram_budget_mib",
    "data.cache_gib",
    "data.ahead_mib",
    "distill.teacher",  # where it lies; that it is the same one: vitrail.training.resuming
    "distill.cache",
    "checkpoint.",
    "parallel.",
)


# Temporary names of fsio for the files that a start writes, and for what it tries out.
_UNFINISHED = re.compile(
    r"\.((config\.json|environment\.json|\.lock-\d+)\.tmp-[0-9a-f]{8}|probe-[0-9a-f]{8}|lock-\d+\.probe-\d+)$"
)

_FILES = ("config.json", "environment.json", "metrics.jsonl", "timing.jsonl", "evaluation.json", "evaluations.jsonl",
          "reconstruction.json", "checkpoints", "best.safetensors", "last.safetensors", "report.html", "report.json",
          *(f"predictions-{split}.safetensors" for split in ("train", "val", "test", "all")))  # fmt: skip
_COUNT = whole(0, 2**63)
_FRACTION, _FINITE = number(0, 1), number(-math.inf, math.inf, "a finite number")
_EVALUATION: Schema = {
    **dict.fromkeys(("num_correct", "num_examples"), _COUNT),
    "split": TEXT,
    "accuracy": _FRACTION,
    "loss": _FINITE,
}
_RECONSTRUCTION: Schema = {
    "num_examples": _COUNT,
    "split": TEXT,
    **dict.fromkeys(("loss", "mean_colour_loss"), _FINITE),
}
_LINE: Schema = {
    **dict.fromkeys(("loss", "lr"), _FINITE),
    "accuracy": _FRACTION,
    "baseline": by_name(ANYTHING),
    "epoch": _COUNT,
    "split": TEXT,
}
_BASELINE: Schema = {"split": TEXT, "num_examples": _COUNT, "linear": _FRACTION, "knn": _FRACTION}
_ENVIRONMENT: Schema = {
    "data": by_name(record(fingerprint=TEXT)),
    "init": {"audit_lines": many(TEXT)},
    "teacher": {"label": TEXT, "sha256": TEXT},
    "resumed": many(by_name(ANYTHING)),
}


@dataclass(frozen=True)
class RunDir:
    """A run directory by its path; nothing is touched until a method says so."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_path(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def last_path(self) -> Path:
        return self.path / "last.safetensors"

    def predictions_path(self, split: str) -> Path:
        """What the best model answered for each image of a split: `vitrail.run.read_predictions` reads it."""
        return self.path / f"predictions-{split}.safetensors"

    @functools.cached_property
    def metrics(self) -> LineLog:
        """What a repetition of the run repeats to the last digit."""
        return LineLog(self.metrics_path)

    @functools.cached_property
    def timing(self) -> LineLog:
        """What a clock said."""
        return LineLog(self.path / "timing.jsonl")

    @functools.cached_property
    def evaluations(self) -> LineLog:
        """Each measurement of the best model after training: a test set that is asked often wears out."""
        return LineLog(self.path / "evaluations.jsonl")

    def exists(self) -> bool:
        """A run was started here."""
        return self.config_path.exists()

    def check_free(self) -> None:
        """Raise RunError unless a new run can begin here: the directory is new, empty, or a killed start's."""
        if self.exists():
            raise RunError(
                f"{self.path}: holds a run already.",
                do="Go on with --resume, or choose another directory with --run.",
            )
        there = self.path.exists()
        if there and (not self.path.is_dir() or any(not _left_by_a_start(f) for f in self.path.iterdir())):
            raise RunError(
                f"{self.path}: is not free for a run.",
                got="a folder with other files in it" if self.path.is_dir() else "a file",
                expected="a new or empty directory",
                do="Choose another directory with --run.",
            )

    def check_own(self) -> None:
        """Raise RunError where something that a run writes or deletes is a link, or of another kind than it should be.

        The run directory itself may be a link, as to a larger disk; what lies in it may not lead out of it.
        """
        try:
            found = [entry for entry in os.scandir(self.path) if _is_of_a_run(entry.name)]
            if self.checkpoints_dir.is_dir() and not self.checkpoints_dir.is_symlink():
                found += os.scandir(self.checkpoints_dir)
            for entry in found:
                is_folder = entry.name.startswith(("checkpoints", "step-", "refused-step-"))
                right = entry.is_dir(follow_symlinks=False) if is_folder else entry.is_file(follow_symlinks=False)
                if not right:
                    raise RunError(
                        f"{shown(entry.path, 400)}: does not belong to a run.",
                        got="a link" if entry.is_symlink() else "a file of another kind",
                        expected=f"a {'folder' if is_folder else 'regular file'} of the run itself",
                        do="Put a copy in its place; the whole run directory may be a link.",
                    )
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read.", got=error.strerror) from error

    def start(self, config: RunConfig, environment: Environment) -> None:
        """Begin a new run here. Raises RunError as `check_free` does."""
        self.check_free()
        json.dumps([to_json(config), environment.to_json()], allow_nan=False)
        for file in self.path.glob(".*"):
            if _UNFINISHED.match(file.name):  # of a start that was killed
                fsio.remove(file)
        fsio.make_dir(self.checkpoints_dir)
        fsio.write_json(self.path / "environment.json", environment.to_json())
        fsio.write_json(self.config_path, to_json(config))

    def read_config(self) -> RunConfig:
        """The settings of the run that was started here. Raises RunError when there is none."""
        return read_config(self.config_path)

    def write_config(self, config: RunConfig) -> None:
        """Replace the settings of a run that is made longer. Raises SaveError."""
        fsio.write_json(self.config_path, to_json(config))

    def log(self, record: dict[str, Any]) -> None:
        """Append one object to metrics.jsonl. Raises SaveError."""
        self.metrics.append(record)

    def log_time(self, record: dict[str, Any]) -> None:
        """Append one object to timing.jsonl. Raises SaveError."""
        self.timing.append(record)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every object of metrics.jsonl, in order; a last line that was torn by a kill is left out.

        Raises:
            RunError: it cannot be read, or a line has a field of another kind than a run writes.
        """
        lines = self.metrics.read()
        for index, line in enumerate(lines, 1):
            checked(line, _LINE, f"{self.metrics_path}, line {index}", RunError)
        return lines

    def cut_metrics(self, step: int) -> None:
        """Drop what was logged after `step`: a resumed run writes it again. Raises SaveError."""
        self.metrics.cut(step)
        self.timing.cut(step)

    def read_baseline(self) -> Baseline | None:
        """What the probes reached before training; None where they were not measured."""
        found = next((line["baseline"] for line in self.read_metrics() if "baseline" in line), {})
        if not found:
            return None
        checked(found, _BASELINE, f"{self.metrics_path}: baseline", RunError, needed=True)
        times = (line["baseline_seconds"] for line in self.timing.read() if "baseline_seconds" in line)
        took = {"seconds": next(times, 0.0)}
        took = checked(took, {"seconds": _FINITE}, f"{self.timing.path}: baseline", RunError)
        try:
            return from_json(Baseline, {**found, **took})
        except ConfigError as error:
            raise RunError(f"{self.metrics_path}: baseline: is not that of a run.", got=error) from error

    def read_evaluation(self) -> dict[str, Any]:
        """What evaluation.json holds. Raises RunError when it is missing or damaged."""
        found = self._read("evaluation.json")
        for name, part in (("", found), *([(": test", found["test"])] if "test" in found else ())):
            checked(part, _EVALUATION, f"{self.path / 'evaluation.json'}{name}", RunError, needed=True)
        return found

    def read_reconstruction(self) -> dict[str, Any]:
        """What reconstruction.json holds. Raises RunError when it is missing or damaged."""
        found = self._read("reconstruction.json")
        return checked(found, _RECONSTRUCTION, str(self.path / "reconstruction.json"), RunError, needed=True)

    def read_environment(self) -> dict[str, Any]:
        """What environment.json holds. Raises RunError when it is missing or damaged."""
        found = self._read("environment.json")
        checked(found, _ENVIRONMENT, str(self.path / "environment.json"), RunError)
        return {"data": {}, "init": {}, **found}

    def note_resumed(self, entry: dict[str, Any]) -> None:
        """Add to environment.json that the run went on, from where and on what."""
        known = self.read_environment()
        known["resumed"] = [*known.get("resumed", []), entry]
        fsio.write_json(self.path / "environment.json", known)

    def write_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Write evaluation.json."""
        fsio.write_json(self.path / "evaluation.json", evaluation)

    def write_reconstruction(self, reconstruction: dict[str, Any]) -> None:
        """Write reconstruction.json."""
        fsio.write_json(self.path / "reconstruction.json", reconstruction)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return read_json_object(path, finite=True)
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read.", got=error) from error


def _is_of_a_run(name: str) -> bool:
    return name in _FILES or is_lock_file(name)


def _left_by_a_start(file: Path) -> bool:
    """Whether a run that was killed before it had a config.json may have left this behind."""
    if is_lock_file(file.name) or _UNFINISHED.match(file.name) or file.name == "environment.json":
        return True
    return file.name == "checkpoints" and file.is_dir() and not any(file.iterdir())


def read_config(path: Path) -> RunConfig:
    """Read a config.json.

    Raises:
        RunError: it is missing or no JSON.
        ConfigError: a field is unknown, missing or out of range.
    """
    try:
        values: object = read_json_object(path)
    except OSError as error:
        near = _near_run(path.parent)
        raise RunError(
            f"{path}: cannot be read, so there is no run to go on with or to repeat.",
            got=error.strerror,
            expected="the config.json of an earlier run, which is written before the first step",
            do=f"Did you mean {near}?" if near else "A run that was stopped before that is simply started again.",
        ) from error
    except ValueError as error:
        raise RunError(f"{path}: is not JSON.", got=error) from error
    for name in ("data", "model", "optim", "schedule"):  # of every version; newer fields have defaults
        if name not in values:
            raise ConfigError(f"{path}: lacks the field {name}.", expected="the config.json of an earlier run")
    return from_json(RunConfig, values, allow_missing=True)


def _near_run(path: Path) -> str:
    """The run beside a folder that is not there whose name is most like it; empty when none is near."""
    if path.exists():
        return ""
    try:
        beside = [entry.name for entry in path.parent.iterdir() if (entry / "config.json").exists()]
    except OSError:
        return ""
    near = nearest(path.name, beside)
    return shown(path.parent / near) if near else ""


def next_free_run(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on when that is taken."""
    require_name("recipe", name)
    path, number = Path("runs") / name, 1
    while os.path.lexists(path):
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def check_resumable(asked: RunConfig, stored: RunConfig) -> None:
    """Raise ConfigError when a run would go on with settings that change what it computes."""
    ours, theirs = flat_settings(to_json(asked)), flat_settings(to_json(stored))
    for name, value in ours.items():
        if value != theirs[name] and not name.startswith(_CHANGEABLE):
            raise ConfigError(
                f"{name.replace('_', '-')} differs from the run that is to be resumed.",
                got=value,
                expected=theirs[name],
                do="Resume without changing it, or start a new run.",
            )
