"""Evaluate a model exactly: every image of a split, once.

MODEL is a run directory, a vitrail model file, builtin:NAME, another library's weights, or a hub id. An image
that cannot be read counts as a wrong answer and is named.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli.answer import Answer, table
from vitrail.cli.engines import add_engine_options, check_engine_options, engine_line, engine_options
from vitrail.cli.processes import add_process_options, launched, started_here
from vitrail.cli.settings import size_option
from vitrail.config import DataConfig, from_json
from vitrail.errors import ConfigError, InputError
from vitrail.terminal import say

if TYPE_CHECKING:
    from vitrail.distributed import World

_MOST_CLASSES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what eval takes."""
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model file, or other weights")
    parser.add_argument("--data", metavar="SPEC", help="default: the data the model was trained on")
    parser.add_argument("--data-root", metavar="DIR", help="where named data sets are")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="default: test; val, as held out in training, where the training data have no test split",
    )
    add_engine_options(parser, "500")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="PX", help="another input side, or height width")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, ... (default: auto)")
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
    from vitrail import data
    from vitrail.predict import Predictor
    from vitrail.training import evaluate

    predictor = Predictor(
        args.model,
        device=args.device,
        image_size=size_option(args.image_size),
        options=engine_options(args),
        on_wait=say if world.is_first else lambda _: None,
    )
    card, preprocessing = predictor.card, predictor.preprocessing
    if card.is_yes_or_no:
        raise InputError(
            f"{args.model}: answers yes or no for each class, so accuracy is not defined for it.",
            got=card.problem_type if card.geometry.num_labels > 1 else "a single logit",
            expected="a model with one class for each image",
        )
    if not card.classes:
        raise InputError(
            f"{args.model}: its classes have no names, so they cannot be matched with those of the data.",
            got=f"{card.geometry.num_labels} unnamed classes",
            do='Name them: vitrail.load(..., classes=[...], head="keep"), then vitrail.save.',
        )
    config = _trained_on(card.recipe)
    own_data = args.data is None or Path(args.data).absolute() == Path(config.spec).absolute()
    if args.data is not None:
        config = replace(config, spec=args.data)
    if not config.spec:
        raise ConfigError("This model does not say what it was trained on.", do="Add --data SPEC.")
    if args.data_root is not None or not Path(config.root).is_dir():  # a model travels, the folder of its training not
        config = replace(config, root=args.data_root or "")
    split = args.split or (_measured_split(card.recipe, config) if own_data else "test")
    held_out = own_data and split == "train" and card.recipe.get("evaluation", {}).get("split") == "val"
    wanted = (split, "val") if held_out else (split,)
    splits = data.load(config, wanted, classes=card.classes, preprocessing=preprocessing, progress=world.is_first)
    image_set = splits[split]  # of train without what the run held out
    for note in image_set.notes if world.is_first else ():
        say(note)
    chosen = predictor.chosen(len(image_set), batch_size=args.batch_size, default_batch_size=500, alone=world.size == 1)
    if world.is_first:
        say(engine_line(chosen))
    result = evaluate(
        predictor.model,
        image_set,
        preprocessing,
        batch_size=chosen.batch_size,
        runtime=chosen.runtime,
        progress=world.is_first,
        on_batch=lambda: world.report_progress("evaluate", 0),
        world=world,
    ).to_json()
    return Answer(_text(result), {"model": args.model, "data": config.spec, **result, "engine": chosen.to_json()})


def _trained_on(recipe: dict[str, Any]) -> DataConfig:
    """Settings of the training data, so that what was held out is held out again; an empty spec when unknown."""
    try:
        return from_json(DataConfig, recipe.get("data"), "data", allow_missing=True)
    except ConfigError:
        return DataConfig(spec="")


def _measured_split(recipe: dict[str, Any], config: DataConfig) -> str:
    """The test split; where the training data have none, what the run measured in its place."""
    from vitrail import data

    measured = recipe.get("evaluation", {})
    if measured.get("split") != "val" or measured.get("test_best") or "test" in data.available_splits(config):
        return "test"
    return "val"


def _text(result: dict[str, Any]) -> list[str]:
    per_class: dict[str, dict[str, float]] = result["per_class"]
    errors: list[dict[str, str]] = result["errors"]
    rows = [
        (name, int(c["num_examples"]), round(c["precision"], 4), round(c["recall"], 4), round(c["f1"], 4))
        for name, c in per_class.items()
    ]
    if len(rows) > _MOST_CLASSES:
        rows.sort(key=lambda row: row[-1])
    lines = [
        f"accuracy {result['accuracy']:.4f}   top-5 {result['top5_accuracy']:.4f}   loss {result['loss']:.4f}",
        f"{result['num_correct']} of {result['num_examples']} images of the {result['split']} split right"
        + (f"; {len(errors)} could not be read and count as wrong" if errors else ""),
        "",
        *table(("class", "images", "precision", "recall", "f1"), rows[:_MOST_CLASSES]),
    ]
    if len(rows) > _MOST_CLASSES:
        lines.append(f"... the {_MOST_CLASSES} hardest of {len(rows)} classes; all of them with --json")
    lines += [f"unreadable: {error['path']}: {error['error']}" for error in errors]
    return lines
