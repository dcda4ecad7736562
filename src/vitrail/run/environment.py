"""What a run ran on: the types of environment.json; names of the processor, versions, commit. No torch."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Determinism:
    """What of a run a repetition repeats, and why the rest may not.

    Args:
        weights: whether they repeat to the last bit.
        same: what has to be the same for that.
        reasons: why they may not.
        other_number_of_processes: what changes when another number of processes computes the same run.
    """

    order_and_augmentation: bool
    weights: bool
    same: str
    reasons: list[str]
    other_number_of_processes: list[str]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The pretrained weights that a run starts from.

    Args:
        weights: as the user named them.
        provenance: what their card says about where they come from, and what became of every tensor.
    """

    weights: str
    provenance: dict[str, Any]

    @property
    def audit_lines(self) -> list[str]:
        """What became of the tensors, for people."""
        return self.provenance.get("audit_lines", [])

    @property
    def has_new_classifier(self) -> bool:
        """Whether rows of the classifier start at random."""
        audit = self.provenance.get("audit", {})
        names = [entry["name"] for entry in audit.get("reinitialised", ())]
        # Where some classes only have a row of their name, the others would start at random beside them.
        kept = [str(entry) for entry in audit.get("adapted", ()) if entry["name"] == "head.weight"]
        return "head.weight" in names or any("classes kept by name" in k and ", 0 new" not in k for k in kept)

    def to_json(self) -> dict[str, Any]:
        """As environment.json and model files hold it."""
        return {"weights": self.weights, **self.provenance}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Origin | None":
        """What `to_json` gave; None for an empty object: the run started from new weights."""
        rest = {name: value for name, value in values.items() if name != "weights"}
        return cls(weights=str(values.get("weights", "")), provenance=rest) if values else None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run ran on, on which data, and from which weights; environment.json.

    Args:
        processes: that share the run.
        linear: whose matrix products train the linear layers, and why; None for a probe.
        data: fingerprint, count and unreadable files of each split.
        init: None: new weights.
        teacher: whose answers the run learns from, as model files tell it; None: it has none.
    """

    versions: dict[str, str | None]
    commit: str | None
    command: list[str]
    platform: str
    cpu: dict[str, str | int | None]
    device: str
    processes: int
    deterministic: Determinism
    linear: dict[str, Any] | None
    data: dict[str, dict[str, Any]]
    init: Origin | None
    teacher: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The object of environment.json."""
        values = {**vars(self), "deterministic": vars(self.deterministic)}
        for name in ("linear", "teacher"):
            if values[name] is None:
                del values[name]
        return {**values, "init": self.init.to_json() if self.init else {}}


def commit() -> str | None:
    """The commit of the source tree the package runs from; None when it is installed without one."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def versions_of(libraries: Sequence[str]) -> dict[str, str | None]:
    """Versions of installed packages; None for one that is not there."""
    found: dict[str, str | None] = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
