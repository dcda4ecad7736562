"""A model -> an exported file or folder: written under a name of its own, compared with the model, then renamed."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vitrail import fsio
from vitrail.errors import ConfigError, SaveError, WeightsError, shell_word, shown
from vitrail.exporting.gate import Found, Images, Limits, compared, limits_of, refusal
from vitrail.exporting.targets import Target, target_class
from vitrail.predictor import Predictor
from vitrail.predictor.exported_file import ExportedFile, ExportPrecision, Form, read_exported

Kind = Literal["onnx", "hf", "openvino", "torch", "triton"]
Opset = Literal[17, 20]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What was asked for.

    Args:
        to: the kind of file or folder.
        form: what the graph takes: uint8 images as they are decoded, or normalised fp32 ones; None: that of the kind.
        precision: of the products with weights.
        merge: tokens fewer after each layer.
        opset: version of the operators; 17 for older readers.
        min_agreement: least share of equal labels, of int8 and merged tokens.
        max_drop: largest loss of accuracy on labelled images, of int8 and merged tokens.
        force: write the file even where it answers otherwise than the model; it says so.
    """

    to: Kind = "onnx"
    form: Form | None = None
    precision: ExportPrecision = "fp32"
    merge: int = 0
    opset: Opset = 20
    min_agreement: float = 0.98
    max_drop: float = 0.005
    force: bool = False

    def __post_init__(self) -> None:
        for name, known in (("to", Kind), ("form", Form), ("precision", ExportPrecision), ("opset", Opset)):
            value = getattr(self, name)
            if value not in get_args(known) and not (name == "form" and value is None):
                raise ConfigError(
                    f"--{name} has a wrong value.", got=value, expected=", ".join(map(str, get_args(known)))
                )
        kind = target_class(self.to)
        for name, known in (("form", kind.forms), ("precision", kind.precisions)):
            if (value := getattr(self, name)) is not None and value not in known:
                raise ConfigError(f"--{name} does not go with --to {self.to}.", got=value, expected=", ".join(known))
        if self.merge < 0:
            raise ConfigError("--merge must not be negative.", got=self.merge, expected="tokens, an integer >= 0")
        for name, value in (("min-agreement", self.min_agreement), ("max-drop", self.max_drop)):
            if not 0 <= value <= 1:
                raise ConfigError(f"--{name} is out of range.", got=value, expected="a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Args:
        path: the file or folder.
        files: what is in the folder, relative to it; of a file, its name.
        num_bytes: of all files.
        sha256: of the file that holds the model in the precision that was asked for.
        graph_sha256: of that file without what is written beside the graph.
        parity: how it compares with the model: `passed`, largest differences, equal labels; docs/export.md.
        accuracy: of both on labelled images; None: there were none.
        notes: what the readers of this kind do otherwise than vitrail.
    """

    path: Path
    files: tuple[str, ...]
    to: Kind
    form: Form
    precision: ExportPrecision
    merge: int
    opset: int
    num_bytes: int
    sha256: str
    graph_sha256: str
    parity: dict[str, Any]
    accuracy: dict[str, Any] | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The answer of `vitrail export --json`."""
        values = {**asdict(self), "path": str(self.path), "bytes": self.num_bytes}
        del values["num_bytes"]
        return values


def export_model(
    predictor: Predictor,
    out: Path,
    images: Images,
    options: ExportOptions | None = None,
    *,
    name: str = "model",
    progress: bool = False,
    on_note: Callable[[str], object] = lambda _: None,
) -> Exported:
    """Write a model as files that other programs run, and compare what was written with the model.

    Args:
        predictor: the model, in torch on the CPU.
        out: the file, where one that `vitrail export` wrote before is replaced; or the folder, new or empty.
        images: what is compared on.
        name: of the model, for the files that carry it.
        progress: show a bar on standard error.
        on_note: told what takes a while.
    Raises:
        GateError: what was written answers otherwise than the model; nothing is at `out` that was not there before.
        ConfigError: more than 2 GB of weights, a library is missing, or something else stands at `out`.
        WeightsError: the model's answers are not finite, or this kind has no place for the model.
        SaveError: it cannot be written.
    """
    options = options or ExportOptions()
    card = replace(predictor.card, preprocessing=predictor.preprocessing)
    target = target_class(options.to)(
        predictor.model,
        card,
        name,
        form=options.form,
        precision=options.precision,
        merge=options.merge,
        opset=options.opset,
    )
    check_is_free(out, options.to)
    reference = predictor
    if target.model is not predictor.model:
        reference = Predictor((target.model, target.card), device="cpu", options=predictor.options)

    def compare(path: Path, precision: ExportPrecision) -> Found:
        limits = _limits(reference, precision, options)
        return compared(reference, path, target.engine, images, limits, progress=progress)

    stage = out.with_name(f".{out.name}.unchecked")
    try:
        fsio.remove(stage)
        notes = target.begin(stage)
        on_note(f"comparing what was written with the model on {len(images.encoded)} images")
        written = [_written(target, precision, stage, compare, options) for precision in target.included]
        notes += target.remarks(stage, reference, images.encoded)
        answer = _told(written[-1], target.path(stage, options.precision), stage, out, options, tuple(notes))
        (fsio.rename if target.is_folder else fsio.rename_file)(stage, out)
    finally:
        with contextlib.suppress(SaveError):
            fsio.remove(stage)
    return answer


def _written(
    target: Target,
    precision: ExportPrecision,
    stage: Path,
    compare: Callable[[Path, ExportPrecision], Found],
    options: ExportOptions,
) -> ExportedFile:
    """Write one program, compare it, and write the result into it. Raises GateError."""
    path, part = target.path(stage, precision), target.build(precision)
    target.write(path, part)
    found = compare(path, precision)
    if found.faults and not options.force:
        raise refusal(found, precision, options.merge)
    description = replace(part.description, parity=found.parity, accuracy=found.accuracy)
    target.write(path, replace(part, description=description))
    return description


def _told(
    description: ExportedFile, path: Path, stage: Path, out: Path, options: ExportOptions, notes: tuple[str, ...]
) -> Exported:
    """What is known about finished files, before they get their name."""
    files = sorted(file for file in stage.rglob("*") if file.is_file()) if stage.is_dir() else [stage]
    return Exported(
        path=out,
        files=tuple(file.relative_to(stage).as_posix() for file in files) if stage.is_dir() else (out.name,),
        to=options.to,
        form=description.form,
        precision=description.precision,
        merge=description.merge,
        opset=description.opset,
        num_bytes=sum(file.stat().st_size for file in files),
        sha256=fsio.sha256_of(path),
        graph_sha256=description.graph_sha256,
        parity=description.parity or {},
        accuracy=description.accuracy,
        notes=notes,
    )


def _limits(predictor: Predictor, precision: ExportPrecision, options: ExportOptions) -> Limits:
    return limits_of(
        precision,
        options.merge,
        same_pixels=not predictor.preprocessing.fast_decoding,
        min_agreement=options.min_agreement,
        max_drop=options.max_drop,
    )


def check_is_free(out: Path, kind: Kind) -> None:
    """Raise ConfigError for a name that readers would not know, or where something stands that must not be replaced."""
    suffix = target_class(kind).suffix
    if suffix.startswith(".") and out.suffix.lower() != suffix:
        named = f"Use --out {shell_word(out.with_suffix(suffix))}"
        raise ConfigError(f"{shown(out)}: the name of the file has to end in {suffix}.", do=named)
    is_folder = target_class(kind).is_folder
    if not os.path.lexists(out) or (is_folder and out.is_dir() and not any(out.iterdir())):
        return
    if kind != "onnx":
        raise ConfigError(
            f"{shown(out)}: is not free.",
            expected="a new or empty folder" if is_folder else "a new file",
            do="Give another name with --out.",
        )
    try:
        read_exported(out)
    except WeightsError as error:
        raise ConfigError(
            f"{shown(out)}: something else has this name.",
            got="a folder" if out.is_dir() else "no file of vitrail export",
            do="Give another name with --out.",
        ) from error
