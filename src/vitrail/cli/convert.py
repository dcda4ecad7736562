"""Write weights in the format of another library, or as a vitrail file.

vitrail: one self-describing .safetensors file. huggingface: a folder that transformers opens. timm: a folder that
timm.create_model("local-dir:FOLDER", pretrained=True) opens. What becomes of every tensor is printed.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vitrail.cli.answer import Answer
from vitrail.cli.settings import size_option

if TYPE_CHECKING:
    from vitrail.weights.writer import Format

_TIMM_EPS = 1e-6  # of every norm there; its files have no place for another


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what convert takes."""
    parser.add_argument("source", metavar="SRC", help="as of inspect: any weights")
    parser.add_argument("target", metavar="DST", help="vitrail: a new file NAME.safetensors; else a new folder")
    parser.add_argument("--to", required=True, choices=("vitrail", "huggingface", "timm"), help="the format")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="PX", help="resample the positions to this size")
    parser.add_argument("--verify", action="store_true", help="compare logits with the other library, installed")


def run(args: argparse.Namespace) -> Answer:
    """Read, write, and compare if asked."""
    from vitrail import weights

    model, card = weights.load(args.source, image_size=size_option(args.image_size))
    told: dict[str, Any] = card.provenance
    family = "vitrail" if weights.is_own(args.source) else cast(str, told["family"])
    verified: dict[str, Any] = {}
    said: list[str] = []

    def check(written: Path, lost: list[str]) -> None:
        if args.verify:
            difference, against = _verified(args, written, model, family)
            verified.update(max_logit_difference=difference, verified_against=against)
            said.append(f"verified       logits differ by at most {difference:.1e} from those of {against}")
            said.extend(_verified_files(args, written, model, card, family, lost, verified))

    written = weights.write(args.target, model, card, args.to, check=check)
    audit: dict[str, Any] = dict(told.get("audit") or _unchanged(model))
    audit["adapted"] = [*audit["adapted"], *({"name": "", "reason": line} for line in written.adapted)]
    audit["dropped"] = [*audit["dropped"], *({"name": n, "reason": why} for n, why in written.dropped.items())]
    values: dict[str, Any] = {
        **audit,
        "source": str(args.source),
        "family": family,
        "to": args.to,
        "files": [str(path) for path in written.files],
        "lost": written.lost,
        **verified,
    }
    lines = list(
        told.get("audit_lines") or [f"read as        {family}", f"mapped         {len(audit['mapped'])} tensors"]
    )
    lines += [f"rewritten      {line}" for line in written.adapted]
    lines += [f"dropped        {name}: {why}" for name, why in written.dropped.items()]
    lines += [f"lost           {line}" for line in written.lost]
    lines += said
    lines += [f"written        {path}" for path in written.files]
    return Answer(lines, values)


def _unchanged(model: Any) -> dict[str, Any]:
    mapped = [{"name": name, "to": name} for name in model.state_dict()]
    return {"mapped": mapped, "adapted": [], "reinitialised": [], "dropped": [], "unknown": []}


def _verified_files(
    args: argparse.Namespace, written: Path, model: Any, card: Any, family: str, lost: list[str], values: dict[str, Any]
) -> list[str]:
    """Compare the way of image files into the model with the other library's; nothing where there is none to ask."""
    from vitrail.weights import verify_files

    values["max_image_logit_difference"] = values["image_input_differences"] = None
    if not (asked := _asked(args, written, family)):
        return []
    library, folder = asked
    found = verify_files.file_difference(model, card.preprocessing, folder, library, must_agree=not lost)
    if found is None:
        return ["               image files are not compared: the transform of the other library is not described"]
    values["max_image_logit_difference"], values["image_input_differences"] = found.max_logit, found.inputs
    others = [name for name, difference in found.inputs.items() if difference > verify_files.INPUT_TOLERANCE]
    which = f", of files {', '.join(others)} (see what is lost)" if others else ""
    return [f"               logits of image files differ by at most {found.max_logit:.1e}{which}"]


def _verified(args: argparse.Namespace, written: Path, model: Any, family: str) -> tuple[float, str]:
    """The largest difference of logits of what was written, and what they were compared with.

    A vitrail file is compared with the source in its own library where that is possible, else read again.
    """
    import torch

    from vitrail import weights
    from vitrail.weights import verify

    if asked := _asked(args, written, family):
        library, folder = asked
        name = "transformers" if library == "huggingface" else library
        if args.to == "vitrail":
            return verify.max_logit_difference(weights.load(written)[0], folder, library, called=args.source), name
        if library == "timm" and model.config.layer_norm_eps != _TIMM_EPS:  # what that changes is said as lost
            geometry = dataclasses.replace(model.config, layer_norm_eps=_TIMM_EPS)
            model = weights.build_model(geometry, dict(model.state_dict()), "cpu")
            name = f"timm, with layer_norm_eps {_TIMM_EPS:g} here as there"
        return verify.max_logit_difference(model, folder, library, called=args.target), name
    again, _ = weights.load(written)
    images = verify.random_images(model.config)
    with torch.inference_mode():
        return float((model(images)["logits"] - again(images)["logits"]).abs().max()), "the model that was written"


def _asked(args: argparse.Namespace, written: Path, family: str) -> "tuple[Format, Path] | None":
    """Which library is asked, and the folder that it opens; None: a vitrail file from a source that none opens."""
    from vitrail.weights import verify
    from vitrail.weights.hub import fetch

    if args.to != "vitrail":
        return args.to, written
    library = None if args.image_size else verify.library_of(family)
    if not library:
        return None
    folder = fetch(args.source)
    return (library, folder) if (folder / "config.json").is_file() else None
