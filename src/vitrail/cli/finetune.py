"""Fine-tune pretrained weights on images of your own.

Architecture and preprocessing come from the weights, the classes from the data. Every setting of the run can be
changed: --section.field VALUE, as --data.image-size 384 or --schedule.epochs 20; a name that one section alone has may
stand alone, as --epochs 20. `vitrail finetune WEIGHTS --settings` lists them all. Recipes: finetune (the default),
finetune-cpu, reference-finetune, finetune-sgd, finetune-gradual, lora, linear-probe, knn.
"""

import argparse
from pathlib import Path

from vitrail import recipes
from vitrail.cli.answer import Answer
from vitrail.cli.processes import add_process_options
from vitrail.cli.settings import apply_settings, settings_help, with_data
from vitrail.cli.train import trained
from vitrail.config import RunConfig
from vitrail.errors import ConfigError, shell_word
from vitrail.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what finetune takes besides the settings."""
    parser.add_argument(
        "weights", nargs="?", metavar="WEIGHTS", help="a vitrail file, builtin:NAME, another library's, or a hub id"
    )
    parser.add_argument("--data", metavar="SPEC", help="the images: a folder, a named set, a manifest, hf:OWNER/NAME")
    parser.add_argument("--data-root", metavar="DIR", help="where named data sets are")
    parser.add_argument("--recipe", default="finetune", metavar="NAME", help="how (default: finetune)")
    parser.add_argument(
        "--head",
        choices=("match", "keep", "reset"),
        default="match",
        help="the classifier's rows: match those of equal names, keep all in their order, or reset (default: match)",
    )
    parser.add_argument("--run", metavar="DIR", help="run directory (default: runs/RECIPE, numbered)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --run")
    add_process_options(parser, restarts=True)
    parser.add_argument("--settings", dest="list_settings", action="store_true", help="list every setting and stop")


def run(args: argparse.Namespace) -> Answer:
    """Fine-tune, evaluate, and say where everything is."""
    from vitrail.run import RunDir

    prog = f"vitrail finetune {shell_word(args.weights or 'WEIGHTS')}"
    if args.resume:
        if not args.run:
            raise ConfigError("--resume needs the run to go on with.", do="Add --run DIR.")
        stored = RunDir(Path(args.run)).read_config()
        if args.weights not in (None, stored.init.weights):
            raise ConfigError(
                f"{args.run} holds a run that started from other weights.",
                got=args.weights,
                expected=stored.init.weights or "none: it was trained from scratch",
            )
        return trained(apply_settings(with_data(stored, args.data, args.data_root), args.settings, prog), args)
    if not args.weights and args.list_settings:
        return _listed(recipes.get(args.recipe))
    if not args.weights:
        raise ConfigError(
            "finetune needs the weights to start from.",
            expected="a vitrail file, builtin:NAME, a file or folder of another library, or a hub id",
            do="For example: vitrail finetune builtin:cifar100-conv --data FOLDER",
        )
    recipes.get(args.recipe)  # a wrong name is said before the weights are read
    if not args.data and not args.list_settings:
        meant = args.weights if Path(args.weights).is_dir() else "FOLDER"
        raise ConfigError(
            "finetune needs images to learn from.",
            expected="--data with a folder of a folder for each class, a named set, a manifest, or hf:OWNER/NAME",
            do=f"For example: vitrail finetune builtin:cifar100-conv --data {shell_word(meant)}",
        )

    from vitrail import weights
    from vitrail.distributed import is_launched
    from vitrail.training import transfer

    card = weights.load_card(args.weights)
    count = weights.num_parameters(card.geometry)
    recipe = recipes.get(args.recipe, num_parameters=count)
    if args.recipe == "finetune" and not (args.list_settings or is_launched()):
        size = "small" if count < recipes.SMALL else "large"
        say(f"finetune with the settings for {size} weights: {count / 1e6:.2f} M parameters")
    start = with_data(transfer.with_weights(recipe, args.weights, args.head, card), args.data, args.data_root)
    if args.list_settings:
        return _listed(start)
    return trained(transfer.with_image_size(apply_settings(start, args.settings, prog), start), args)


def _listed(config: RunConfig) -> Answer:
    lines = settings_help(config)
    return Answer(lines, {"settings": "\n".join(lines)})
