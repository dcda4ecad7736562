"""Show from where in an image a class was read: a sheet of pictures, and how faithful the maps are.

MODEL is what predict takes. The folder of --out gets sheet.png, the maps as .npy, and explain.json last. A map is
evidence about the model, not about the world: docs/explain.md.
"""

import argparse
import os
from typing import Any

from vitrail.cli.answer import Answer, table
from vitrail.cli.engines import add_device_option
from vitrail.cli.predict import check_words
from vitrail.cli.values import add_size_option
from vitrail.errors import ImageError, shown
from vitrail.terminal import say

METHODS = (
    "removal-gradient", "gradient-rollout", "legrad", "grad-cam", "input-gradient", "rollout", "attention", "occlusion",
    "best",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what explain takes."""
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model file, or other weights")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files or folders")
    parser.add_argument(
        "--out", metavar="DIR", help="the folder that is made (default: explained, with a number where that is there)"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="how; best: the most faithful of those that need few passes, on the first 16 images "
        f"(default: {METHODS[0]})",
    )
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="NAME",
        help="a class to explain, several times if wanted (default: the predicted one)",
    )
    parser.add_argument("--against", metavar="NAME", help="what speaks for the class rather than for this one")
    parser.add_argument(
        "--no-faithfulness", action="store_true", help="do not measure faithfulness, which takes most of the time"
    )
    parser.add_argument("--smooth", action="store_true", help="in the sheet, mix neighbouring patches, for the eye")
    add_size_option(parser, "another size of the input")
    add_device_option(parser)


def run(args: argparse.Namespace) -> Answer:
    """Explain every image; name every file that is none."""
    from vitrail.data import files_at

    check_words(args)
    files = files_at(args.paths)

    from vitrail.api import explain
    from vitrail.explanation import is_drawable

    errors: list[ImageError] = []
    out = args.out or _free("explained")
    found = explain(
        args.model,
        files,
        method=args.method,
        classes=args.classes,
        against=args.against,
        faithfulness=not args.no_faithfulness,
        out=out,
        smooth=args.smooth,
        image_size=args.image_size,
        device=args.device,
        progress=True,
        on_note=say,
        on_unreadable=errors.append,
    )
    rows: list[tuple[Any, ...]] = []
    for one in found.items:
        label = shown(one.label) + (f" rather than {shown(one.against)}" if one.against else "")
        srg = [f"{value.srg:.2f}" for value in one.faithfulness.values()]
        rows.append((one.path, label, f"{one.probability:.4f}", " / ".join(srg) or "-"))
    lines = table(("file", "class", "probability", "SRG"), rows)
    for kind, mean in found.srg.items():
        low, high = found.interval.get(kind, (mean, mean))
        interval = f" [{low:.2f}, {high:.2f}]" if kind in found.interval else ""
        spread = (
            f"a random order has 0.00 +- {found.random_spread[kind]:.2f} on one image: below that a map shows nothing"
        )
        how = "left out" if kind == "tokens" else f"painted with the {kind}"
        lines.append(f"faithfulness (SRG, docs/explain.md), patches {how}: {mean:.2f}{interval}; {spread}")
    if found.compared:
        ranked = sorted(found.compared.items(), key=lambda item: -item[1])
        lines.append("SRG of each method: " + ", ".join(f"{name} {value:.2f}" for name, value in ranked))
    odd = sorted({name for one in found.items for name in (r.label for r in one.top) if not is_drawable(name)})
    if odd:
        names = ", ".join(shown(name, 40) for name in odd[:5])
        lines.append(
            f"note: the font of the sheet lacks letters of these classes, which have their number there: {names}"
        )
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"unreadable: {error}" for error in errors]
    lines.append(f"{found.method} on {found.engine}: {os.path.join(out, 'sheet.png')}")
    values = {
        **found.to_json(),
        "out": out,
        "errors": [{"path": error.name, "error": error.reason} for error in errors],
    }
    return Answer(lines, values)


def _free(name: str) -> str:
    """The name, or name-2 and so on where that is taken."""
    path, number = name, 1
    while os.path.lexists(path):
        number += 1
        path = f"{name}-{number}"
    return path
