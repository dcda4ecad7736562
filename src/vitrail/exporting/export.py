"""A model -> an exported file: built, written under a name of its own, compared with the model, then given its name."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vitrail import fsio
from vitrail.errors import ConfigError, SaveError, WeightsError, shown
from vitrail.exporting.gate import Images, Limits, compared, limits_of, refusal
from vitrail.exporting.onnx_file import built, metadata
from vitrail.predictor import Predictor
from vitrail.predictor.exported_file import ExportPrecision, Form, read_exported

Target = Literal["onnx"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What was asked for.

    Args:
        to: the kind of file.
        form: what the graph takes: uint8 images as they are decoded, or normalised fp32 ones; None: that of the kind.
        precision: of the products with weights.
        merge: tokens fewer after each layer.
        min_agreement: least share of equal labels, of int8 and merged tokens.
        max_drop: largest loss of accuracy on labelled images, of int8 and merged tokens.
        force: write the file even where it answers otherwise than the model; it says so.
    """

    to: Target = "onnx"
    form: Form | None = None
    precision: ExportPrecision = "fp32"
    merge: int = 0
    min_agreement: float = 0.98
    max_drop: float = 0.005
    force: bool = False

    def __post_init__(self) -> None:
        for name, known in (("to", Target), ("form", Form), ("precision", ExportPrecision)):
            value = getattr(self, name)
            if value not in get_args(known) and not (name == "form" and value is None):
                raise ConfigError(f"--{name} has a wrong value.", got=value, expected=", ".join(get_args(known)))
        if self.merge < 0:
            raise ConfigError("--merge must not be negative.", got=self.merge, expected="tokens, an integer >= 0")
        for name, value in (("min-agreement", self.min_agreement), ("max-drop", self.max_drop)):
            if not 0 <= value <= 1:
                raise ConfigError(f"--{name} is out of range.", got=value, expected="a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Args:
        path: the file.
        sha256, num_bytes: of it.
        graph_sha256: of the file without what is written beside the graph.
        parity: how it compares with the model: `passed`, largest differences, equal labels; docs/export.md.
        accuracy: of both on labelled images; None: there were none.
    """

    path: Path
    to: Target
    form: Form
    precision: ExportPrecision
    merge: int
    opset: int
    num_bytes: int
    sha256: str
    graph_sha256: str
    parity: dict[str, Any]
    accuracy: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """The answer of `vitrail export --json`."""
        return {**asdict(self), "path": str(self.path)}


def export_model(
    predictor: Predictor,
    out: Path,
    images: Images,
    options: ExportOptions | None = None,
    *,
    on_note: Callable[[str], object] = lambda _: None,
) -> Exported:
    """Write a model as a file that needs no torch, and compare the written file with the model.

    Args:
        predictor: the model, in torch on the CPU.
        out: the file; one that `vitrail export` wrote before is replaced.
        images: what the file is compared on.
        on_note: told what takes a while.
    Raises:
        GateError: the file answers otherwise than the model; nothing is at `out` that was not there before.
        ConfigError: more than 2 GB of weights, or another kind of file stands at `out`.
        WeightsError: the model's answers are not finite.
        SaveError: the file cannot be written.
    """
    options = options or ExportOptions()
    _check_is_free(out)
    card = replace(predictor.card, preprocessing=predictor.preprocessing)
    graph, description = built(
        predictor.model, card, form=options.form or "image", precision=options.precision, merge=options.merge
    )
    unchecked = out.with_name(f".{out.name}.unchecked")
    try:
        fsio.write_bytes(unchecked, graph + metadata(description))
        on_note(f"comparing the file with the model on {len(images.encoded)} images")
        found = compared(predictor, unchecked, "onnx", images, _limits(predictor, options))
    finally:
        with contextlib.suppress(SaveError):
            fsio.remove(unchecked)
    if found.faults and not options.force:
        raise refusal(found, options.precision, options.merge)
    file = graph + metadata(replace(description, parity=found.parity, accuracy=found.accuracy))
    fsio.write_bytes(out, file)
    return Exported(
        path=out,
        to=options.to,
        form=description.form,
        precision=options.precision,
        merge=options.merge,
        opset=description.opset,
        num_bytes=len(file),
        sha256=hashlib.sha256(file).hexdigest(),
        graph_sha256=description.graph_sha256,
        parity=found.parity,
        accuracy=found.accuracy,
    )


def _limits(predictor: Predictor, options: ExportOptions) -> Limits:
    return limits_of(
        options.precision,
        options.merge,
        same_pixels=not predictor.preprocessing.fast_decoding,
        min_agreement=options.min_agreement,
        max_drop=options.max_drop,
    )


def _check_is_free(out: Path) -> None:
    """Raise ConfigError where something stands that `vitrail export` did not write."""
    if not os.path.lexists(out):
        return
    try:
        read_exported(out)
    except WeightsError as error:
        raise ConfigError(
            f"{shown(out)}: something else has this name.",
            got="a folder" if out.is_dir() else "no file of vitrail export",
            do="Give another name with --out.",
        ) from error
