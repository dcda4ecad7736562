"""What an exported ONNX file says of itself: all that turns an image file into a label. No torch.

`vitrail export` writes it as JSON under the name `vitrail` beside the graph (docs/export.md describes every key).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vitrail.config import Preprocessing, from_json
from vitrail.errors import ConfigError, WeightsError, shown
from vitrail.reading import DAMAGE, parsed_json, read_regular
from vitrail.runtime.onnx_file import read_onnx
from vitrail.schema import ANYTHING, TEXT, by_name, checked, many, whole
from vitrail.weights.calibration import MOST_TEMPERATURE, Unknown
from vitrail.weights.card import ProblemType

FORMAT_VERSION = 1
KEY = "vitrail"
_OPEN = ("geometry", "metrics", "provenance", "parity", "accuracy")
"""What is only shown."""
MAX_BYTES = 2_000_000_000
"""A protobuf message holds 2 GiB; what is larger needs files beside it, which we do not write."""

Form = Literal["image", "tensor"]
"""What the graph takes: uint8 images as they are decoded, or normalised fp32 ones."""
ExportPrecision = Literal["fp32", "fp16", "int8"]
PIXELS = {"image": "image", "tensor": "pixel_values"}
"""Name of the input of each form."""


@dataclass(frozen=True, kw_only=True)
class GraphInput:
    """What the graph takes.

    Args:
        layout: NHWC or NCHW; the number of images N is free.
        size: height and width in pixels.
        values: what the numbers are, for people.
    """

    name: str
    dtype: Literal["uint8", "float32"]
    layout: Literal["NHWC", "NCHW"]
    size: tuple[int, int]
    channels: Literal["RGB", "L"]
    values: str


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """What an exported file says of itself.

    Args:
        producer: vitrail and its version.
        outputs: names, in order: probabilities [N, L], logits [N, L], and where the model can answer "unknown" the
            distances [N] of the images to its classes.
        merge: tokens fewer after each layer.
        opset: version of the operators; 0: of no ONNX file.
        classes: names in the order of the logits; empty: unnamed.
        temperature: what the graph divides logits by before the softmax.
        unknown: when an image is like none of the classes; None: it always is like one.
        preprocessing: from an image file to the model's input; the graph does what follows decoding.
        geometry: the model, in short.
        metrics, provenance: as in the model file.
        graph_sha256: of the file without what is written beside the graph.
        parity: how the written file compares with the model it was made of; see docs/export.md.
        accuracy: of both on labelled images; None: there were none.
    """

    producer: str
    form: Form
    input: GraphInput
    outputs: tuple[str, ...]
    precision: ExportPrecision
    merge: int
    opset: int
    classes: tuple[str, ...]
    problem_type: ProblemType
    temperature: float
    unknown: Unknown | None
    preprocessing: Preprocessing
    num_labels: int
    geometry: dict[str, Any] = field(default_factory=dict[str, Any])
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    graph_sha256: str
    parity: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.num_labels < 1 or len(self.classes) not in (0, self.num_labels):
            got = f"{len(self.classes)} classes for {self.num_labels} logits"
            raise ConfigError("The classes do not match the outputs.", got=got)
        if not 1 / MOST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE:
            raise ConfigError("The temperature is out of range.", got=self.temperature)
        if self.unknown and "distances" not in self.outputs:
            raise ConfigError("There are thresholds of unknown, and no distances.", got=", ".join(self.outputs))

    @property
    def is_yes_or_no(self) -> bool:
        """Whether the graph has a sigmoid for each class, not one softmax; as of a `Card`."""
        return self.problem_type == "multi_label_classification" or self.num_labels == 1

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; "class 0" and so on where they have none."""
        return self.classes or tuple(f"class {i}" for i in range(self.num_labels))


def is_exported(source: object) -> bool:
    """Whether this names an ONNX file, by its ending; whether it is one of ours is seen when it is read."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() == ".onnx" and Path(source).is_file()


def read_exported(path: str | Path, *, check: bool = True) -> tuple[bytes, ExportedFile]:
    """Read an exported file: its bytes, and what it says of itself.

    Args:
        check: False: the checksum may be another one.
    Raises:
        WeightsError: it cannot be read, is damaged, or was not written by `vitrail export`.
    """
    try:
        file = read_regular(Path(path), MAX_BYTES)
    except OSError as error:
        raise WeightsError(f"{shown(path)}: cannot be read.", got=error.strerror or error) from error
    return file, described(file, str(path), check=check)


def described(file: bytes, name: str, *, check: bool = True) -> ExportedFile:
    """What the bytes of an exported file say of themselves. Raises WeightsError."""
    found = read_onnx(file, shown(name))
    if KEY not in found.metadata:
        raise WeightsError(
            f"{shown(name)}: an ONNX file without vitrail's description, so its classes and preprocessing are unknown.",
            expected="a file written by vitrail export",
            do="Export the model with: vitrail export MODEL --to onnx",
        )
    description = read_description(found.metadata[KEY], name)
    if check and description.graph_sha256 != found.graph_sha256:
        raise WeightsError(
            f"{shown(name)}: is not as it was written.",
            got=f"SHA-256 {found.graph_sha256[:12]}",
            expected=description.graph_sha256[:12],
            do="Copy it again, or export the model again.",
        )
    return description


def read_description(text: str, name: str) -> ExportedFile:
    """What a file says of itself, from the JSON that is in it. Raises WeightsError."""
    try:
        values = parsed_json(text, finite=True)
        where = f"{shown(name)}: its description"
        version = checked(values, {"format_version": whole()}, where, WeightsError, needed=True)["format_version"]
        if version > FORMAT_VERSION:
            raise WeightsError(
                f"{shown(name)}: written in a newer format.",
                got=f"format version {version}",
                expected=f"at most {FORMAT_VERSION}",
                do="Install a newer vitrail.",
            )
        del values["format_version"]
        parts = checked(values, dict.fromkeys(_OPEN, by_name(ANYTHING)), where, WeightsError, null=True)
        values = {name: value for name, value in values.items() if name not in _OPEN}
        classes = checked({"classes": values.pop("classes", [])}, {"classes": many(TEXT)}, where, WeightsError)
        description = from_json(ExportedFile, {"classes": [], **values}, "description", allow_missing=True)
        return replace(description, classes=tuple(classes["classes"]), **parts)
    except DAMAGE as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{shown(name)}: its description is damaged.", got=error) from error
