"""Fine-tune pretrained weights on images of your own.

Architecture and preprocessing come from the weights, the classes from the data. Every setting of the run can be
changed: --section.field VALUE, for example --data.image-size 384 or --schedule.epochs 20. A name that only one
section has may stand alone: --epochs 20, --device cpu, --precision bf16. `vitrail finetune WEIGHTS --settings` lists
them all. Recipes: finetune (the default), finetune-cpu, reference-finetune, finetune-sgd, finetune-gradual,
finetune-last, lora, linear-probe, knn.
"""

import argparse
from pathlib import Path

from vitrail import recipes
from vitrail.cli.answer import Answer
from vitrail.cli.settings import apply_settings, check_said_once
from vitrail.cli.train import add_run_options, listed, trained
from vitrail.config.settings import with_data
from vitrail.errors import ConfigError, shell_word
from vitrail.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what finetune takes besides the settings."""
    parser.add_argument(
        "weights",
        nargs="?",
        metavar="WEIGHTS",
        help="a vitrail file, builtin:NAME, weights of another library, or a hub id",
    )
    parser.add_argument("--recipe", metavar="NAME", help="how to fine-tune (default: finetune)")
    parser.add_argument(
        "--head",
        choices=("match", "keep", "reset"),
        help="the classifier: match its classes by name, keep them all in their order, or reset it (default: match)",
    )
    add_run_options(parser, "the images: a folder, a named set, a manifest, hf:OWNER/NAME")


def run(args: argparse.Namespace) -> Answer:
    """Fine-tune, evaluate, and say where everything is."""
    from vitrail.run import RunDir

    check_said_once(args)
    prog, name = f"vitrail finetune {shell_word(args.weights or 'WEIGHTS')}", args.recipe or "finetune"
    if args.resume:
        if not args.run:
            raise ConfigError("--resume needs the run to continue.", do="Add --run DIR.")
        stored = RunDir(Path(args.run)).read_config()
        if args.weights not in (None, stored.init.weights):
            raise ConfigError(
                f"{args.run} holds a run that started from other weights.",
                got=args.weights,
                expected=stored.init.weights or "none: it was trained from scratch",
            )
        for option, given, expected in (("recipe", args.recipe, stored.recipe), ("head", args.head, stored.init.head)):
            if given not in (None, expected):
                raise ConfigError(f"{args.run} holds a run with another {option}.", got=given, expected=expected)
        config = apply_settings(with_data(stored, args.data, args.data_root), args.settings, prog)
        return listed(config) if args.list_settings else trained(config, args)
    recipe = recipes.get(name)  # a wrong name is said before the weights are read
    if not args.weights and args.list_settings:
        return listed(apply_settings(recipe, args.settings, prog))
    if not args.weights:
        raise ConfigError(
            "finetune needs the weights to start from.",
            expected="a vitrail file, builtin:NAME, a file or folder of another library, or a hub id",
            do="For example: vitrail finetune builtin:cifar100-conv --data FOLDER",
        )
    if not args.data and not args.list_settings:
        meant = args.weights if Path(args.weights).is_dir() else "FOLDER"
        raise ConfigError(
            "finetune needs images to learn from.",
            expected="--data with a folder that has one folder per class, a named set, a manifest, or hf:OWNER/NAME",
            do=f"For example: vitrail finetune builtin:cifar100-conv --data {shell_word(meant)}",
        )

    from vitrail.api import finetune_start
    from vitrail.distributed import is_launched
    from vitrail.training import transfer

    quiet = args.list_settings or is_launched()
    start = finetune_start(
        args.weights,
        args.data,
        recipe=name,
        head=args.head or "match",
        data_root=args.data_root,
        on_note=(lambda _: None) if quiet else say,
    )
    config = transfer.with_image_size(apply_settings(start, args.settings, prog), start)
    return listed(config) if args.list_settings else trained(config, args)
