"""Train with a recipe, from scratch or from --init WEIGHTS.

Every setting of the run can be changed: --section.field VALUE, as --optim.lr 3e-4 or --schedule.epochs 20; a name that
one section alone has may stand alone, as --lr 3e-4. `vitrail train RECIPE --settings` lists them all with the recipe's
values.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from vitrail import recipes
from vitrail.cli.answer import Answer
from vitrail.cli.processes import add_process_options, launched, started_here
from vitrail.cli.settings import apply_settings, settings_help, with_data
from vitrail.config import RunConfig
from vitrail.errors import ConfigError, shell_word
from vitrail.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what train takes besides the settings."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a name from: vitrail recipes")
    parser.add_argument("--from", dest="source", metavar="CONFIG", help="replay the config.json of an earlier run")
    parser.add_argument("--init", metavar="WEIGHTS", help="start from weights of the recipe's architecture")
    parser.add_argument("--data", metavar="SPEC", help="other data than the recipe's")
    parser.add_argument("--data-root", metavar="DIR", help="where named data sets are")
    parser.add_argument("--run", metavar="DIR", help="run directory (default: runs/RECIPE, numbered)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --run")
    add_process_options(parser, restarts=True)
    parser.add_argument("--settings", dest="list_settings", action="store_true", help="list every setting and stop")


def run(args: argparse.Namespace) -> Answer:
    """Train, evaluate, and say where everything is."""
    config = with_data(_start(args), args.data, args.data_root)
    prog = f"vitrail train {config.recipe}".strip()
    if args.list_settings:
        lines = settings_help(config)
        return Answer(lines, {"settings": "\n".join(lines)})
    config = apply_settings(config, args.settings, prog)

    if args.init and not args.resume:
        config = replace(config, init=replace(config.init, weights=args.init))
    return trained(config, args)


def trained(config: RunConfig, args: argparse.Namespace) -> Answer:
    """Train as a configuration says, and tell what came of it."""
    from vitrail.engine import train

    if args.data and not args.resume and not any(word.startswith("--evaluation.split") for word in args.settings):
        config = _with_a_split_it_has(config)

    if started_here(args):
        from vitrail.run import next_free_run

        named = () if args.run else ("--run", str(next_free_run(config.recipe or "run")))
        return launched(args, *named)
    result = train(config, args.run, resume=args.resume, progress=True)
    run_path = shell_word(result.run)
    split, evaluation, best = result.evaluation["split"], result.evaluation, result.best
    chosen = "" if best == result.final else f" (best epoch, chosen on the {split} split)"
    lines = [
        f"accuracy   {evaluation['accuracy']:.4f} on the {split} split{chosen}: "
        f"{evaluation['num_correct']} of {evaluation['num_examples']} right",
    ]
    if result.baseline:
        lines.append(
            f"baseline   linear probe {result.baseline['linear']:.4f}, k-NN {result.baseline['knn']:.4f} on the frozen "
            f"features, {result.baseline['num_examples']} examples of the {split} split"
        )
    if result.epochs:
        lines.append(f"best       epoch {best['epoch']:g} of {result.epochs}, loss {best['loss']:.4f}")
    known = result.deterministic
    repeats = "exactly, on " + known["same"] if known["weights"] else "not exactly: " + "; ".join(known["reasons"])
    lines += [
        f"training   {result.train_seconds:.1f} s, {result.num_examples_seen} images, "
        f"{result.images_per_second:.0f} images/s",
        f"repeats    {repeats}",
        f"model      {result.model}",
        f"everything {result.run}",
    ]
    if config.probe.method != "knn":
        on_split = "" if split == "test" else f" --split {split}"
        lines += [
            "",
            "Try next:",
            f"  vitrail predict {run_path} IMAGE_OR_FOLDER",
            f"  vitrail eval {run_path}{on_split}",
        ]
    return Answer(lines, result.to_json())


def _start(args: argparse.Namespace) -> RunConfig:
    """The configuration before any setting is changed: a recipe's, an earlier run's, or the resumed run's own."""
    from vitrail.run import RunDir, read_config

    given = [name for name in ("recipe", "source") if getattr(args, name)]
    if len(given) == 2:
        raise ConfigError("RECIPE and --from exclude each other.", do="Give one of them.")
    if args.resume and not args.run:
        raise ConfigError("--resume needs the run to go on with.", do="Add --run DIR.")
    if args.resume:
        stored = RunDir(Path(args.run)).read_config()
        if args.recipe not in (None, stored.recipe):
            raise ConfigError(
                f"{args.run} holds a run of another recipe.", got=args.recipe, expected=stored.recipe or "none"
            )
        return stored
    if args.source:
        return read_config(Path(args.source))
    if args.recipe:
        if args.recipe not in recipes.names() and Path(args.recipe).exists():
            raise ConfigError(
                f"{args.recipe} is no recipe.",
                got="a file or folder",
                expected="a name of: vitrail recipes",
                do=f"To learn from it: vitrail train cifar10-cpu --data {shell_word(args.recipe)}",
            )
        return recipes.get(args.recipe)
    if args.list_settings:
        return RunConfig()
    raise ConfigError(
        "train needs a recipe.",
        expected=f"one of {', '.join(recipes.names())}",
        do="For example: vitrail train digits. What each is for: vitrail recipes",
    )


def _with_a_split_it_has(config: RunConfig) -> RunConfig:
    """Where the user's own data have no test split, measure on a part held out of the training set, and say so."""
    from vitrail import data
    from vitrail.distributed import inside_launch

    if config.evaluation.split == "val" or "test" in data.available_splits(config.data):
        return config
    part = f"{config.data.validation_fraction:.0%} of its training images are held out"
    if not inside_launch():
        say(f"{config.data.spec} has no test split: {part} and measured on (--evaluation.split val)")
    return replace(config, evaluation=replace(config.evaluation, split="val"))
