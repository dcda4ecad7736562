"""Classify images: files or folders to ranked labels.

MODEL is a run directory, a vitrail model file, builtin:NAME, another library's weights, or a hub id. Every file
of a folder is tried; one that is no image gets a line of its own.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli.answer import Answer, table
from vitrail.cli.engines import add_engine_options, check_engine_options, engine_options
from vitrail.cli.processes import add_process_options, launched, started_here
from vitrail.cli.values import ONE_WORD, add_size_option, is_number
from vitrail.errors import ConfigError, DataError, ImageError, shown
from vitrail.progress import Bar
from vitrail.terminal import say

if TYPE_CHECKING:
    from vitrail.predictor import Prediction

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what predict takes."""
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model file, or other weights")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files or folders")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to rank (default: 5)")
    add_engine_options(parser, "64")
    add_size_option(parser, "another size of the input")
    add_process_options(parser)


def run(args: argparse.Namespace) -> Answer:
    """Rank the classes for every image; name every file that is none."""
    if args.top < 1:
        raise ConfigError("--top must be positive.", got=args.top, expected="an integer >= 1")
    check_engine_options(args)
    check_words(args)
    from vitrail.data import files_at

    files = files_at(args.paths)
    if started_here(args):
        return launched(args)

    from vitrail.config import ParallelConfig
    from vitrail.distributed import join_processes
    from vitrail.predictor import Prediction, Predictor

    with join_processes(ParallelConfig(timeout_seconds=600), args.device) as world:
        predictor = Predictor(
            args.model,
            device=args.device,
            image_size=args.image_size,
            options=engine_options(args),
            on_wait=say if world.is_first else lambda _: None,
        )
        mine = files[world.share_of(len(files))]
        chosen = predictor.chosen(len(mine), batch_size=args.batch_size, alone=world.size == 1)
        if world.is_first:
            say(chosen.line)
        stream = predictor.stream(mine, top=args.top, batch_size=chosen.batch_size)
        found: list[Prediction | tuple[str, str]] = []
        with Bar(len(mine), unit="files", keep=False, enabled=world.is_first) as bar:
            for result in stream:
                world.report_progress("predict", len(found))
                found.append((result.reason, result.name) if isinstance(result, ImageError) else result)
                bar.advance(1)
        results = [result for part in world.gather(found) for result in part]
    errors = [ImageError(*result) for result in results if isinstance(result, tuple)]
    predictions = [result for result in results if not isinstance(result, tuple)]
    if not predictions:
        raise DataError("None of these files is an image.", got="; ".join(map(str, errors[:3])))

    values: dict[str, Any] = {
        "predictions": [
            {
                "path": p.path,
                "label": p.label,
                "probability": p.probability,
                "top": [vars(ranked) for ranked in p.top],
                **({} if p.distance is None else {"is_unknown": p.is_unknown, "distance": p.distance}),
            }
            for p in predictions
        ],
        "errors": [{"path": error.name, "error": error.reason} for error in errors],
        "engine": chosen.to_json(),
    }
    lines = _table(predictions)
    return Answer([*lines, *(f"unreadable: {error}" for error in errors)], values)


def _table(predictions: Sequence["Prediction"]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for one in predictions:
        rest = ", ".join(f"{shown(r.label)} {r.probability:.4f}" for r in one.top[not one.is_unknown :])
        rows.append((one.path, one.label, "-" if one.is_unknown else f"{one.probability:.4f}", rest))
    return table(("file", "label", "probability", "next"), rows)


def check_words(args: argparse.Namespace) -> None:
    """Raise for words in each other's place: a size among the images, an image where the model should be."""
    if sizes := [path for path in args.paths if is_number(path) and not os.path.lexists(path)]:
        expected = "an image, or a folder with images"
        raise DataError(f"{sizes[0]}: there is no such file or folder.", expected=expected, do=ONE_WORD)
    if Path(args.model).suffix.lower() in _IMAGES and os.path.lexists(args.model):
        do = f"The model comes first: vitrail {args.verb} MODEL IMAGE ..."
        raise ConfigError(f"{shown(args.model)}: is an image, not a model.", do=do)
