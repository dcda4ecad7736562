"""Evaluate a model exactly: every image of a split, once.

MODEL is a run directory, a vitrail model file, builtin:NAME, another library's weights, or a hub id. An image
that cannot be read counts as a wrong answer and is named.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli.answer import Answer, table
from vitrail.cli.engines import add_engine_options, check_engine_options, engine_options
from vitrail.cli.processes import add_process_options, launched, started_here
from vitrail.cli.values import add_size_option, add_views_option
from vitrail.errors import RunError, SaveError
from vitrail.terminal import say

if TYPE_CHECKING:
    from vitrail.distributed import World
    from vitrail.run import Predictions
    from vitrail.runtime import Chosen

_MOST_CLASSES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what eval takes."""
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model file, or other weights")
    parser.add_argument("--data", metavar="SPEC", help="default: the data the model was trained on")
    parser.add_argument("--data-root", metavar="DIR", help="where named data sets are")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="default: test; val, as held out in training, where the training data have no test split; all images of "
        "other data that have no splits",
    )
    parser.add_argument("--predictions", metavar="FILE", help="write the answer for each image (safetensors); of a run "
                        "directory, on its own data, they are kept in it")  # fmt: skip
    add_views_option(parser, "measure the mean over each image and its mirror image as well, in a line of its own")
    add_engine_options(parser, "500")
    add_size_option(parser, "another size of the input")
    add_process_options(parser)


def run(args: argparse.Namespace) -> Answer:
    """Measure accuracy, loss, per-class figures and the confusion matrix."""
    check_engine_options(args)
    if started_here(args):
        return launched(args)

    from vitrail.config import ParallelConfig
    from vitrail.distributed import join_processes

    with join_processes(ParallelConfig(timeout_seconds=600), args.device) as world:
        return _evaluated(args, world)


def _evaluated(args: argparse.Namespace, world: "World") -> Answer:
    """Evaluate on one of the processes that share the work."""
    from vitrail import api
    from vitrail.predictor import Predictor

    def on_note(line: str) -> None:
        if world.is_first:
            say(line)

    predictor = Predictor(
        args.model,
        device=args.device,
        image_size=args.image_size,
        options=engine_options(args),
        on_wait=on_note,
    )
    found = api.evaluate(
        predictor,
        args.data,
        split=args.split,
        data_root=args.data_root,
        views=args.views,
        batch_size=args.batch_size,
        progress=world.is_first,
        on_note=on_note,
        world=world,
    )
    result, chosen = found.to_json(), predictor.chosen(found.num_examples)
    own = api.trained_on(predictor.card)
    spec = args.data or own.spec
    if found.predictions:
        known = replace(found.predictions, data=spec, step=predictor.card.metrics.get("step", -1))
        mirrored = found.with_mirror and found.with_mirror.accuracy
        _keep(args, known, chosen, is_own=args.data in (None, own.spec), accuracy_with_mirror=mirrored)
    return Answer(_text(result), {"model": args.model, "data": spec, **result, "engine": chosen.to_json()})


def _keep(
    args: argparse.Namespace,
    found: "Predictions",
    chosen: "Chosen",
    *,
    is_own: bool,
    accuracy_with_mirror: float | None,
) -> None:
    """Write the answers where they were asked for; and into the run whose best model gave them, where they are exact.

    Args:
        found: for the images as they are.
        is_own: measured on the data of that run.
        accuracy_with_mirror: None: not measured.
    """
    from vitrail.run import RunDir

    if args.predictions:
        found.save(Path(args.predictions))
    run_dir = RunDir(Path(args.model))
    exact = chosen.precision == "fp32" and not chosen.merge and args.image_size is None
    if not (run_dir.exists() and is_own and exact):
        return
    accuracy = int(found.correct.sum()) / found.num_examples
    record = {"step": max(0, found.step), "split": found.split, "num_examples": found.num_examples}
    mirrored = {} if accuracy_with_mirror is None else {"accuracy_with_mirror": accuracy_with_mirror}
    try:
        if not _is_there(run_dir.predictions_path(found.split), found):
            found.save(run_dir.predictions_path(found.split))
        about = {"data": found.data, "engine": found.engine}
        run_dir.evaluations.append({**record, "accuracy": accuracy, **mirrored, **about})
    except SaveError as error:
        say(f"the answers are not kept in the run: {error}")


def _is_there(path: Path, found: "Predictions") -> bool:
    """Whether the answers of the same model for the same images lie there already."""
    from vitrail.run import read_predictions

    try:
        there = read_predictions(path)
    except RunError:
        return False
    return (there.fingerprint, there.step) == (found.fingerprint, found.step)


def _text(result: dict[str, Any]) -> list[str]:
    per_class: dict[str, dict[str, float]] = result["per_class"]
    errors: list[dict[str, str]] = result["errors"]
    mirrored: dict[str, Any] | None = result.get("with_mirror")
    rows = [
        (name, int(c["num_examples"]), round(c["precision"], 4), round(c["recall"], 4), round(c["f1"], 4))
        for name, c in per_class.items()
    ]
    if len(rows) > _MOST_CLASSES:
        rows.sort(key=lambda row: row[-1])
    where = "of all splits" if result["split"] == "all" else f"of the {result['split']} split"
    lines = [
        _figures(result),
        f"{result['num_correct']} of {result['num_examples']} images {where} are right"
        + (f"; {len(errors)} could not be read and count as wrong" if errors else ""),
        *([f"mean over each image and its mirror image: {_figures(mirrored)}"] if mirrored else []),
        "",
        *table(("class", "images", "precision", "recall", "f1"), rows[:_MOST_CLASSES]),
    ]
    if len(rows) > _MOST_CLASSES:
        lines.append(f"... the {_MOST_CLASSES} hardest of {len(rows)} classes; all of them with --json")
    lines += [f"unreadable: {error['path']}: {error['error']}" for error in errors]
    return lines


def _figures(found: dict[str, Any]) -> str:
    return f"accuracy {found['accuracy']:.4f}   top-5 {found['top5_accuracy']:.4f}   loss {found['loss']:.4f}"
