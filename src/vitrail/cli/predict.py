"""Classify images: files or folders to ranked labels.

MODEL is a run directory, a vitrail model file, builtin:NAME, another library's weights, a hub id, or an .onnx file
that `vitrail export` wrote, which needs no torch. Every file of a folder is tried; one that is no image gets a line of
its own.

With -o, any number of images to a folder of Parquet files: PATH may then also be .tar or .parquet files, folders,
patterns and addresses of them, and whatever --data of train takes. The same command goes on after an interruption.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli import predict_many
from vitrail.cli.answer import Answer, table
from vitrail.cli.engines import add_engine_options, check_engine_options, engine_options
from vitrail.cli.processes import add_process_options, launched, started_here
from vitrail.cli.values import MEAN_OVER_MIRROR, ONE_WORD, add_size_option, add_views_option, is_number
from vitrail.errors import ConfigError, DataError, ImageError, shown
from vitrail.progress import Bar
from vitrail.terminal import say

if TYPE_CHECKING:
    from vitrail.predictor import Prediction
    from vitrail.weights import Card

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what predict takes."""
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model file, or other weights")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files or folders")
    parser.add_argument("--top", type=int, metavar="K", help="classes to rank (default: 5; with -o 1)")
    add_views_option(parser, "the mean over each image and its mirror image, for twice the time")
    predict_many.add_arguments(parser)
    add_engine_options(parser, "64")
    add_size_option(parser, "another size of the input")
    add_process_options(parser)


def run(args: argparse.Namespace) -> Answer:
    """Rank the classes for every image; name every file that is none."""
    if args.top is not None and args.top < 1:
        raise ConfigError("--top must be positive.", got=args.top, expected="an integer >= 1")
    check_engine_options(args)
    check_words(args)
    if predict_many.is_asked(args):
        return predict_many.run(args)
    args.top = args.top or 5

    from vitrail.data import files_at
    from vitrail.predictor import is_exported

    _check_no_shards([path for path in args.paths if _is_shard(path) and not os.path.isdir(path)])
    files = files_at(args.paths)
    if not any(path.suffix.lower() in _IMAGES for path in files):
        _check_no_shards([str(path) for path in files if _is_shard(str(path))])
    if is_exported(args.model):
        return _by_exported_file(args, files)
    if started_here(args):
        return launched(args)

    from vitrail.config import ParallelConfig
    from vitrail.distributed import join_processes
    from vitrail.predictor import Predictor

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
            _say_of_mirror(args.views, predictor.card)
        stream = predictor.stream(mine, top=args.top, batch_size=chosen.batch_size, views=args.views)
        found: list[Prediction | tuple[str, str]] = []
        with Bar(len(mine), unit="files", keep=False, enabled=world.is_first) as bar:
            for result in stream:
                world.report_progress("predict", len(found))
                found.append((result.reason, result.name) if isinstance(result, ImageError) else result)
                bar.advance(1)
        results = [result for part in world.gather(found) for result in part]
    answers = [ImageError(*result) if isinstance(result, tuple) else result for result in results]
    return _answer(answers, chosen.to_json(), args.views)


def _say_of_mirror(views: str, card: "Card") -> None:
    """Whether the mean over mirror images is asked of a model that never saw one."""
    augment = card.recipe.get("augment")
    if views == "mirror" and isinstance(augment, dict) and augment.get("flip") == 0:
        say("careful: this model was trained without mirrored images; vitrail eval --views mirror says what they cost")


def _by_exported_file(args: argparse.Namespace, files: Sequence[Path]) -> Answer:
    """The same from a file of `vitrail export`, in which everything is settled. Imports no torch."""
    from vitrail.predictor import ExportedPredictor
    from vitrail.predictor.answers import Prediction

    asked = {
        "--engine": args.engine not in ("auto", "onnx"),
        "--device": args.device not in ("auto", "cpu"),
        "--precision": args.precision is not None,
        "--merge": args.merge,
        "--image-size": args.image_size is not None,
        "--nproc": args.nproc != 1,
    }
    if given := [name for name, is_asked in asked.items() if is_asked]:
        raise ConfigError(
            f"{given[0]} cannot be given with an exported file: it was settled when the file was written.",
            do="Leave it out, or export the model again with it.",
        )
    predictor = ExportedPredictor(args.model)
    if predictor.note:
        say(f"careful: {predictor.note}")
    batch_size, answers = args.batch_size or predictor.batch_size, list[Prediction | ImageError]()
    with Bar(len(files), unit="files", keep=False) as bar:
        for result in predictor.stream(files, top=args.top, batch_size=batch_size, views=args.views):
            answers.append(result)
            bar.advance(1)
    told = predictor.description
    engine = {"engine": "onnx", "precision": told.precision, "merge": told.merge, "batch_size": batch_size}
    return _answer(answers, {**engine, "reason": "an exported file"}, args.views)


def _answer(results: Sequence["Prediction | ImageError"], engine: dict[str, Any], views: str) -> Answer:
    """What is said of every file. Raises DataError where none is an image."""
    errors = [result for result in results if isinstance(result, ImageError)]
    predictions = [result for result in results if not isinstance(result, ImageError)]
    if not predictions:
        raise DataError(
            "None of these files is an image.", got="; ".join(map(str, errors[:3])), do="What is read: docs/data.md"
        )

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
        "engine": engine,
    }
    lines = _table(predictions)
    if views == "mirror":
        values["views"] = views
        lines.append(MEAN_OVER_MIRROR)
    return Answer([*lines, *(f"unreadable: {error}" for error in errors)], values)


def _table(predictions: Sequence["Prediction"]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for one in predictions:
        rest = ", ".join(f"{shown(r.label)} {r.probability:.4f}" for r in one.top[not one.is_unknown :])
        rows.append((one.path, one.label, "-" if one.is_unknown else f"{one.probability:.4f}", rest))
    return table(("file", "label", "probability", "next"), rows)


def _is_shard(name: str) -> bool:
    return name.partition("?")[0].lower().endswith((".tar", ".parquet"))


def _check_no_shards(names: Sequence[str]) -> None:
    """Raise for files that are read only with -o."""
    from vitrail.data.streaming.places import printable

    if names:
        raise ConfigError(
            "Files named .tar and .parquet need -o.",
            got=", ".join(printable(name) for name in names[:3]),
            expected="image files, or folders of them",
            do="Add -o DIR: the folder that the predictions are written to.",
        )


def check_words(args: argparse.Namespace) -> None:
    """Raise for words in each other's place: a size among the images, an image where the model should be."""
    if sizes := [path for path in args.paths if is_number(path) and not os.path.lexists(path)]:
        expected = "an image, or a folder with images"
        raise DataError(f"{sizes[0]}: there is no such file or folder.", expected=expected, do=ONE_WORD)
    if Path(args.model).suffix.lower() in _IMAGES and os.path.lexists(args.model):
        do = f"The model comes first: vitrail {args.verb} MODEL IMAGE ..."
        raise ConfigError(f"{shown(args.model)}: is an image, not a model.", do=do)
