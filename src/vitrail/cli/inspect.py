"""Show what is in a weight file: family, geometry, classes, preprocessing, where it comes from.

Takes a vitrail file, a run directory, builtin:NAME, a file or folder of another library, a hub id, or an .onnx file
that `vitrail export` wrote.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli.answer import Answer, table
from vitrail.errors import shown

if TYPE_CHECKING:
    from vitrail.weights import Card

_MOST_CLASSES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what inspect takes."""
    parser.add_argument("source", metavar="FILE_OR_DIR_OR_ID", help="the weights")


def run(args: argparse.Namespace) -> Answer:
    """Read names, shapes and descriptions; no model is run."""
    from vitrail import weights
    from vitrail.config import to_json
    from vitrail.predictor import is_exported, read_exported

    if is_exported(args.source):
        told = to_json(read_exported(args.source)[1])
        return Answer(_exported_text(args.source, told), told)
    if own := weights.is_own(args.source):
        card, count = weights.read_card(own), weights.stored_parameters(own)
        family, evidence, audit = "vitrail", "its own description", card.provenance.get("audit", {})
        provenance = card.provenance
    else:
        if Path(args.source).is_file():
            weights.kind_of(Path(args.source))  # what is damaged or hostile is refused before torch has loaded
        _, card = weights.load(args.source)
        provenance, count = dict(card.provenance), weights.num_parameters(card.geometry)
        family, evidence, audit = provenance.pop("family"), provenance.pop("evidence"), provenance.pop("audit")
        provenance.pop("audit_lines")
    geometry = to_json(card.geometry)
    values: dict[str, Any] = {
        "family": family,
        "evidence": evidence,
        "geometry": geometry,
        "num_parameters": count,
        "classes": list(card.classes),
        "problem_type": card.problem_type,
        "preprocessing": to_json(card.preprocessing),
        "metrics": card.metrics,
        "calibration": to_json(card.calibration) if card.calibration else None,
        "provenance": provenance,
        "defaulted": provenance.get("defaulted", []),
        "audit": audit,
    }
    return Answer(_text(args.source, values, card), values)


def _exported_text(source: str, told: dict[str, Any]) -> list[str]:
    """What an exported file says of itself, for people."""
    names: list[str] = told["classes"]
    parity, accuracy, unknown, taken = told["parity"], told["accuracy"], told["unknown"], told["input"]
    compared = "never compared with its model"
    if parity:
        verdict = "answers as its model" if parity["passed"] else "DIFFERS FROM ITS MODEL (forced)"
        compared = f"{verdict}: {parity['top1'][0]} of {parity['top1'][1]} equal labels ({parity['source']})"
    refused = f"below {unknown['min_probability']:.1%} or beyond {unknown['max_distance']:.1f}" if unknown else "never"
    more = ", ..." if len(names) > _MOST_CLASSES else ""
    rows: list[tuple[str, object]] = [
        ("source", source),
        ("family", f"exported by {told['producer']}, {told['form']} form, {told['precision']}, opset {told['opset']}"),
        ("input", f"{taken['name']} {taken['dtype']} {taken['layout']}, {taken['size']} {taken['channels']}"),
        ("classes", f"{told['num_labels']}: {', '.join(map(shown, names[:_MOST_CLASSES])) or 'unnamed'}{more}"),
        ("temperature", f"{told['temperature']:g}"),
        ("unknown", refused),
        ("comparison", compared),
    ]
    if accuracy:
        right = f"{accuracy['correct_exported']} of {accuracy['n']}; the model's: {accuracy['correct_reference']}"
        rows.append(("right answers", right))
    return table(("what", "value"), rows)


def _text(source: str, values: dict[str, Any], card: "Card") -> list[str]:
    geometry, steps = card.geometry, card.preprocessing
    told = values["provenance"]
    names = ", ".join(card.classes[:_MOST_CLASSES]) + (", ..." if len(card.classes) > _MOST_CLASSES else "")
    from vitrail.weights import head_left_out

    why = head_left_out(card)
    without = f"none: features ({why})" if why else "none: features"
    classes = without if not geometry.num_labels else f"{geometry.num_labels}: {names or 'unnamed'}"
    resize = f"{steps.resize_mode} to {steps.resize_size or steps.decode_size}, {steps.resize_filter}"
    resize += f", embedded colour profiles {'applied' if steps.icc == 'apply' else 'ignored'}"
    rows: list[tuple[str, object]] = [
        ("source", source),
        ("family", f"{values['family']} ({values['evidence']})"),
        ("model", f"{geometry.kind}, {values['num_parameters'] / 1e6:.2f} M parameters"),
        (
            "geometry",
            f"width {geometry.hidden_size}, {geometry.num_hidden_layers} layers, {geometry.num_attention_heads} heads, "
            f"MLP {geometry.intermediate_size}, patch {geometry.patch_size}, image {geometry.image_size}",
        ),
        (
            "function",
            f"pooling {geometry.pooling}, {geometry.activation}, eps {geometry.layer_norm_eps:g}, norm of "
            f"{geometry.final_norm}, {geometry.num_registers} registers, positions {geometry.position}"
            f"{' and relative' if geometry.relative_positions else ''}",
        ),
        ("classes", classes),
        ("images", f"{steps.channels} {steps.image_size}; {resize}; mean {steps.mean}, std {steps.std}"),
    ]
    if card.teacher:
        rows.append(("teacher", card.teacher))
    if card.metrics:
        rows.append(("measured", ", ".join(f"{k} {v}" for k, v in card.metrics.items())))
    if found := card.calibration:
        text = f"temperature {found.temperature:.3g}, from {found.num_images} images of the {found.split} split"
        if found.unknown:
            text += f"; answers unknown to strange images ({found.unknown.reject:.0%} false alarms)"
        rows.append(("confidence", text))
    if card.problem_type == "regression":
        rows.append(("answers", "numbers (regression), which predict and eval refuse"))
    elif card.is_yes_or_no and geometry.num_labels:
        rows.append(("answers", "yes or no for each class, by a sigmoid of its logit; eval refuses it"))
    if training := told.get("training"):
        rows.append(("training", ", ".join(f"{k} {v}" for k, v in training.items())))
    rows += [(k, told[k]) for k in ("source", "container", "dtype", "sha256", "commit") if told.get(k)]
    rows += [("defaulted", line) for line in values["defaulted"]]
    rows += [("note", line) for line in told.get("notes", [])]
    return table(("what", "value"), rows)
