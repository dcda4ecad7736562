"""What a vitrail model file says about itself, read without torch: only the header of the file is looked at.

In: a file, a run directory, or builtin:NAME. Out: a `Card`. docs/model-file.md describes the layout of the header.
"""

import json
import math
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

import safetensors

from vitrail.config import Preprocessing, ViTConfig, from_json
from vitrail.errors import ConfigError, WeightsError, shown

# What the logits are, in the words of transformers.
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
# Why the classifier of a file was left out.
HEAD_OF_PRE_LOGITS = "head that reads the pre-logits layer, which is not used"
HEAD_OF_POOLER = "head that may read the pooler, which is not used"
OTHER_HEAD = "head of another form than one linear layer; fine-tuning starts a new one"
HEADS_LEFT_OUT = frozenset({HEAD_OF_PRE_LOGITS, HEAD_OF_POOLER, OTHER_HEAD})
FORMAT_VERSION = 2
BEST_MODEL = "best.safetensors"
_BUILTIN = "builtin:"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model file says about its weights.

    Args:
        geometry: the model's shape and function.
        classes: names in the order of the logits; empty: unnamed, as in many files of other libraries.
        preprocessing: from an image file to the model's input.
        recipe: the whole configuration of the run, as JSON values; empty when the weights come from elsewhere.
        metrics: what was measured, on which split.
        provenance: where the weights come from: package version, commit, data fingerprint.
        problem_type: what the logits are: one class an image, several, or numbers.
    """

    geometry: ViTConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    recipe: dict[str, Any] = field(default_factory=dict[str, Any])
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    problem_type: ProblemType = "single_label_classification"

    @property
    def is_yes_or_no(self) -> bool:
        """Whether each logit stands for itself, as a sigmoid reads it: several classes an image, or a single logit."""
        return self.problem_type == "multi_label_classification" or self.geometry.num_labels == 1

    def __post_init__(self) -> None:
        if self.classes and self.geometry.num_labels not in (0, len(self.classes)):
            raise ConfigError(
                "The classes do not match the classifier.",
                got=f"{len(self.classes)} class names",
                expected=f"{self.geometry.num_labels}, one for each logit",
            )
        if self.problem_type not in get_args(ProblemType):
            raise ConfigError(
                "problem_type is not known.", got=shown(self.problem_type), expected=", ".join(get_args(ProblemType))
            )


def head_left_out(card: Card) -> str | None:
    """Which tensors of a classifier were not taken from the file, and why; None: there were none."""
    audit = cast(dict[str, list[dict[str, str]]], card.provenance.get("audit") or {})
    heads = [entry for entry in audit.get("dropped", ()) if entry["reason"] in HEADS_LEFT_OUT]
    if not heads:
        return None
    more = f" and {len(heads) - 3} more" if len(heads) > 3 else ""
    return f"{', '.join(shown(entry['name']) for entry in heads[:3])}{more}: {heads[0]['reason']}"


def builtin_names() -> list[str]:
    """Names of the weights that come with the package, for `builtin:NAME`."""
    folder = resources.files("vitrail.weights") / "builtin"
    return sorted(f.name.removesuffix(".safetensors") for f in folder.iterdir() if f.name.endswith(".safetensors"))


def is_own(source: str | Path) -> Path | None:
    """The model file when `source` is a vitrail file, a run directory or builtin:NAME; None for anything else.

    Raises:
        WeightsError: there are no such weights in the package.
    """
    text = str(source)
    if not text:  # as a path it would be the working directory
        raise WeightsError("The name of the weights is empty.", expected="a file, a folder, builtin:NAME or a hub id")
    if text.startswith(_BUILTIN):
        name = text.removeprefix(_BUILTIN)
        if name not in builtin_names():
            raise WeightsError(
                f"There are no weights {text}.", expected=", ".join(_BUILTIN + n for n in builtin_names())
            )
        return Path(str(resources.files("vitrail.weights") / "builtin" / f"{name}.safetensors"))
    path = Path(source)
    if path.is_dir() and ((path / BEST_MODEL).is_file() or (path / "environment.json").is_file()):
        return model_path(path)
    return path if path.is_file() and has_card(path) else None


def model_path(source: str | Path) -> Path:
    """The model file that `source` means: itself, or the best one of a run directory."""
    path = Path(source)
    if path.is_dir():
        path = path / BEST_MODEL
    if not path.is_file():
        raise WeightsError(
            f"{source}: there is no model here.",
            expected=f"a vitrail .safetensors file, or a run directory with {BEST_MODEL}",
            do="Train one with: vitrail train digits",
        )
    return path


def has_card(path: Path) -> bool:
    """Whether a file is safetensors with vitrail's description."""
    try:
        with safetensors.safe_open(path, "np") as file:
            return "vitrail" in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def read_card(path: str | Path) -> Card:
    """Read what a model file says about itself, without its weights.

    Raises:
        WeightsError: it is not a vitrail model file of a known version.
    """
    path = model_path(path)
    try:
        with safetensors.safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged, or not a safetensors file.", got=error) from error
    if "vitrail" not in metadata:
        raise WeightsError(
            f"{path}: safetensors without vitrail's description.",
            expected="a file written by vitrail",
            do="Look at it with: vitrail inspect FILE",
        )
    try:
        described = json.loads(metadata["vitrail"])
        version = described.pop("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise WeightsError(
                f"{path}: written in a newer format.",
                got=f"format version {version}",
                expected=f"at most {FORMAT_VERSION}",
                do="Install a newer vitrail.",
            )
        return Card(
            geometry=from_json(ViTConfig, described["geometry"], "geometry", allow_missing=True),
            classes=tuple(str(name) for name in described["classes"]),
            preprocessing=from_json(Preprocessing, described["preprocessing"], "preprocessing", allow_missing=True),
            recipe=described["recipe"],
            metrics=described["metrics"],
            provenance=described["provenance"],
            problem_type=described.get("problem_type", "single_label_classification"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: its description is damaged.", got=error) from error


def stored_parameters(path: str | Path) -> int:
    """Numbers in a vitrail file, which holds the trained parameters alone."""
    with safetensors.safe_open(path, "np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  (no mapping)
