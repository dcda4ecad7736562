"""What a vitrail model file says about itself, read without torch: only the header of the file is looked at.

In: a file, a run directory, or builtin:NAME. Out: a `Card`. docs/model-file.md describes the layout of the header.
"""

import math
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vitrail.config import Preprocessing, ViTConfig, from_json
from vitrail.config.strict_json import typed
from vitrail.errors import ConfigError, WeightsError, shell_word, shown
from vitrail.reading import DAMAGE, open_regular, parsed_json
from vitrail.schema import ANYTHING, FLAG, TEXT, Schema, by_name, checked, many, record, whole
from vitrail.tensor_header import HEADER_SHA256, Header, header_sha256, is_safetensors, read_header
from vitrail.weights.calibration import Calibration

# What the logits are, in the words of transformers.
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
# Why the classifier of a file was left out.
HEAD_OF_PRE_LOGITS = "head that reads the pre-logits layer, which is not used"
HEAD_OF_POOLER = "head that may read the pooler, which is not used"
OTHER_HEAD = "head of another form than one linear layer; fine-tuning starts a new one"
HEADS_LEFT_OUT = frozenset({HEAD_OF_PRE_LOGITS, HEAD_OF_POOLER, OTHER_HEAD})
FORMAT_VERSION = 3
BEST_MODEL = "best.safetensors"
UNKNOWN_TENSORS = "unknown."
"""Begins the names of the tensors that are no weights: `vitrail.weights.mahalanobis`."""
_BUILTIN = "builtin:"

_PARTS: Schema = {"classes": many(TEXT), **dict.fromkeys(("recipe", "metrics", "provenance"), by_name(ANYTHING))}
_CHANGES = many(record(name=TEXT, reason=TEXT))
# What our own code reads of these parts; everything else in them is only shown.
_READ: dict[str, Schema] = {
    "recipe": {"evaluation": {"split": TEXT, "test_best": FLAG}, "pretrain": {"objective": TEXT}},
    "provenance": {
        **dict.fromkeys(("audit_lines", "defaulted", "notes"), many(TEXT)),
        "audit": record(mapped=many(by_name(TEXT)), adapted=_CHANGES, reinitialised=_CHANGES, dropped=_CHANGES),
        "training": by_name(ANYTHING),
        "teacher": {"label": TEXT, "outside": FLAG},
    },
}


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
        calibration: how sure its answers are; None: nobody looked.
    """

    geometry: ViTConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    recipe: dict[str, Any] = field(default_factory=dict[str, Any])
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    problem_type: ProblemType = "single_label_classification"
    calibration: Calibration | None = None

    @property
    def teacher(self) -> str:
        """The label of figures of a model that learnt from another one: distilled from which; empty: it did not."""
        return str(self.provenance.get("teacher", {}).get("label", ""))

    @property
    def is_pretrained_alone(self) -> bool:
        """Whether the weights are those of `vitrail pretrain`, which have not seen a label yet."""
        return self.recipe.get("pretrain", {}).get("objective", "none") != "none"

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
    if Path(source).is_dir() and not path.is_file() and (path.parent / "environment.json").is_file():
        raise WeightsError(
            f"{source}: this run has no model yet.",
            do=f"Go on with it until its end: vitrail train --run {shell_word(source)} --resume",
        )
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
        with open_regular(path) as file:
            return is_safetensors(file.read(9)) and "vitrail" in read_header(path).metadata
    except (WeightsError, OSError):
        return False


def read_card(path: str | Path) -> Card:
    """Read what a model file says about itself, without its weights.

    Raises:
        WeightsError: it is not a vitrail model file of a known version, or its header is not as it was written.
    """
    path = model_path(path)
    header = read_header(path)
    if "vitrail" not in header.metadata:
        raise WeightsError(
            f"{path}: safetensors without vitrail's description.",
            expected="a file written by vitrail",
            do="Look at it with: vitrail inspect FILE",
        )
    try:
        described = parsed_json(header.metadata["vitrail"], finite=True)
        where = f"{path}: its description"
        version = checked(described, {"format_version": whole()}, where, WeightsError, needed=True)["format_version"]
        if version > FORMAT_VERSION:
            raise WeightsError(
                f"{path}: written in a newer format.",
                got=f"format version {version}",
                expected=f"at most {FORMAT_VERSION}",
                do="Install a newer vitrail.",
            )
        _check_header(header, version)
        parts = checked(described, _PARTS, where, WeightsError, needed=True)
        for name, schema in _READ.items():
            checked(parts[name], schema, f"{where}: {name}", WeightsError)
        card = Card(
            geometry=from_json(ViTConfig, described["geometry"], "geometry", allow_missing=True),
            classes=tuple(parts.pop("classes")),
            preprocessing=from_json(Preprocessing, described["preprocessing"], "preprocessing", allow_missing=True),
            problem_type=described.get("problem_type", "single_label_classification"),
            calibration=typed(Calibration | None, described.get("calibration"), "calibration", allow_missing=True),
            **parts,
        )
        blocks = {name.split(".")[1] for name in header.shapes if name.startswith("blocks.")}
        if len(blocks) != card.geometry.num_hidden_layers:  # before a model of any depth is built
            raise ValueError(f"{card.geometry.num_hidden_layers} layers, and tensors of {len(blocks)}")
        return card
    except DAMAGE as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: its description is damaged.", got=error) from error


def stored_parameters(path: str | Path) -> int:
    """Numbers in a vitrail file, which holds the trained parameters alone."""
    shapes = read_header(Path(path)).shapes
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith(UNKNOWN_TENSORS))


def _check_header(header: Header, version: int) -> None:
    """Raise ValueError when the header of a file is not as it was written; before version 3 nothing tells."""
    written = header.metadata.get(HEADER_SHA256)
    if version >= 3 and not {HEADER_SHA256, "sha256"} <= header.metadata.keys():
        raise ValueError(f"no sha256 or no {HEADER_SHA256}")
    if written is not None and written != header_sha256(header.entries):
        raise ValueError("another SHA-256 of the header than was written")
