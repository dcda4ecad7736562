"""Train with a recipe, from scratch or from --init WEIGHTS.

Every setting of the run can be changed: --section.field VALUE, for example --optim.lr 3e-4 or --schedule.epochs 20. A
name that only one section has may stand alone: --lr 3e-4, --device cpu, --precision bf16. `vitrail train RECIPE
--settings` lists them all with the recipe's values.
"""

import argparse
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail import recipes
from vitrail.cli.answer import Answer
from vitrail.cli.processes import add_process_options, launched, started_here
from vitrail.cli.settings import apply_settings, check_said_once, settings_help
from vitrail.cli.track import add_track_option
from vitrail.config import DistillConfig, RunConfig
from vitrail.config.settings import with_data
from vitrail.errors import ConfigError, shell_word
from vitrail.terminal import columns, say

if TYPE_CHECKING:
    from vitrail.run import RunResult

# Below so many images an accuracy is told with its interval.
_FEW = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what train takes besides the settings."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a name from `vitrail recipes`")
    parser.add_argument("--from", dest="source", metavar="CONFIG", help="repeat an earlier run from its config.json")
    parser.add_argument("--init", metavar="WEIGHTS", help="start from weights of the recipe's architecture")
    add_run_options(parser, "other data than the recipe's")


def add_run_options(parser: argparse.ArgumentParser, data: str) -> None:
    """Declare what every verb that trains takes. `data`: what its --data is for."""
    parser.add_argument("--data", metavar="SPEC", help=data)
    parser.add_argument("--data-root", metavar="DIR", help="where named data sets are")
    parser.add_argument("--run", metavar="DIR", help="run directory (default: runs/RECIPE, numbered)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --run")
    add_track_option(parser)
    add_process_options(parser, restarts=True)
    parser.add_argument("--settings", dest="list_settings", action="store_true", help="list every setting and stop")


def run(args: argparse.Namespace) -> Answer:
    """Train, evaluate, and say where everything is."""
    check_said_once(args)
    config = with_data(_start(args), args.data, args.data_root)
    if args.init:  # the recipe's way to make random weights does not matter then
        config = replace(config, init=replace(config.init, weights=args.init, patches="random"))
    config = apply_settings(config, args.settings, f"vitrail train {config.recipe}".strip())
    return listed(config) if args.list_settings else trained(config, args)


def config_of_run(args: argparse.Namespace) -> RunConfig | None:
    """The configuration of the run that --resume or --from names; None: neither is given."""
    if args.source and (args.recipe or args.resume):
        other = "RECIPE" if args.recipe else "--resume"
        raise ConfigError(f"{other} and --from exclude each other.", do="Give one of them.")
    if args.resume:
        from vitrail.api import stored_config

        return stored_config(args.run, args.recipe)
    if args.source:
        from vitrail.run import read_config

        return read_config(Path(args.source))
    return None


def listed(config: RunConfig) -> Answer:
    """Every setting of a run."""
    lines = settings_help(config)
    return Answer(lines, {"settings": "\n".join(lines)})


def trained(config: RunConfig, args: argparse.Namespace) -> Answer:
    """Train as a configuration says, and tell what came of it."""
    from vitrail.training import train

    if not config.distill.teacher and config.distill != DistillConfig():
        raise ConfigError("The settings of distill need a teacher.", do="Name one: --distill.teacher WEIGHTS")
    source = None
    flags = [word.partition("=")[0] for word in args.settings if word.startswith("--")]
    if not args.resume and (args.data or "--data.spec" in flags):
        from vitrail.api import fitted_to_splits, opened
        from vitrail.distributed import is_launched

        source = opened(config, progress=not is_launched())
        config = fitted_to_splits(config, source, flags, on_note=(lambda _: None) if is_launched() else say)

    if started_here(args):
        from vitrail.run import next_free_run

        named = () if args.run else ("--run", str(next_free_run(config.recipe or "run")))
        return launched(args, *named)
    result = train(config, args.run, resume=args.resume, progress=True, source=source, track=args.track or ())
    run_path = shell_word(result.run)
    best = result.best
    lines = _reconstruction(result) if config.is_pretraining else [*_accuracies(result), *verdict(result)]
    if result.epochs:
        where = (
            f"epoch {best.epoch:g} of {result.epochs}" if best.epoch else "the starting weights, before any training"
        )
        lines.append(f"best       {where}, loss {best.loss:.4f}")
    known = result.deterministic
    repeats = "exactly, given " + known.same if known.weights else "not exactly: " + "; ".join(known.reasons)
    lines += [
        f"training   {result.train_seconds:.1f} s, {result.num_examples_seen} images, "
        f"{result.images_per_second:.0f} images/s",
        f"repeats    {repeats}",
        f"model      {result.model}",
        f"everything {result.run}",
    ]
    if config.is_pretraining:
        lines += ["", "Try next, with the images that have labels:", f"  vitrail finetune {run_path} --data FOLDER"]
    elif config.probe.method == "knn":
        text = (
            "This run cannot predict: its model file holds the features, but not the training images that vote. For a "
            "model that predicts: --recipe linear-probe, or no --recipe."
        )
        lines += ["", *textwrap.wrap(text, columns())]
    else:
        lines += ["", "Try next:", f"  vitrail report {run_path}    # one page: can it be used?"]
        lines += [f"  vitrail predict {run_path} IMAGE_OR_FOLDER", f"  vitrail eval {run_path}"]
    return Answer(lines, result.to_json())


def _start(args: argparse.Namespace) -> RunConfig:
    """The configuration before any setting is changed: a recipe's, an earlier run's, or the resumed run's own."""
    if stored := config_of_run(args):
        return stored
    if args.recipe:
        if args.recipe not in recipes.names() and Path(args.recipe).exists():
            raise ConfigError(
                f"{args.recipe} is not a recipe.",
                got="a file or folder",
                expected="a name from: vitrail recipes",
                do=f"To train on it: vitrail train cifar10-cpu --data {shell_word(args.recipe)}",
            )
        has_weights = args.init or args.list_settings or any(word.startswith("--init") for word in args.settings)
        return recipes.get(args.recipe) if has_weights else recipes.get_from_scratch(args.recipe)
    if args.list_settings:
        return RunConfig()
    raise ConfigError(
        "train needs a recipe.",
        expected=f"one of {', '.join(recipes.from_scratch())}",
        do="For example: vitrail train digits. What each is for: vitrail recipes",
    )


def verdict(result: "RunResult") -> list[str]:
    """The probes beside the result, and what to do where training was not better than both."""
    from vitrail.statistics import wilson

    if not (probes := result.baseline):
        return []
    count, split, reached = probes.num_examples, probes.split, result.evaluation["accuracy"]
    lines = [
        f"baseline   linear probe {probes.linear:.4f}, k-NN {probes.knn:.4f} on the frozen features, "
        f"{count} examples of the {split} split"
    ]
    best, name = max((probes.linear, "the linear probe"), (probes.knn, "k-NN"))
    if reached > best:
        return lines
    _, high = wilson(result.evaluation["num_correct"], result.evaluation["num_examples"])
    low, _ = wilson(round(best * count), count)
    is_unsure = reached < best and (best < high or low < reached)
    doubt = f", a difference that {count} images cannot tell from chance" if is_unsure else ""
    doubt = f", a tie on {count} images" if reached == best else doubt
    kept = "the starting weights are kept as the model; " if not result.best.epoch else ""
    votes = " (which needs the training images, so it cannot be saved as a model)" if name == "k-NN" else ""
    advice = (
        f"fine-tuning did not beat {name} ({reached:.4f} against {best:.4f}{doubt}){votes}: {kept}try more images, "
        "larger weights, or a larger --data.image-size"
    )
    return [*lines, *textwrap.wrap(advice, columns(), initial_indent=" " * 11, subsequent_indent=" " * 11)]


def _reconstruction(result: "RunResult") -> list[str]:
    """How well the encoder fills what is masked."""
    found = result.evaluation
    lines = [
        f"loss       {found['loss']:.4f} on {found['num_examples']} images of the {found['split']} split, the mean "
        "absolute error of masked pixels",
        f"compared   {found['mean_colour_loss']:.4f} for patches painted in their mean colour",
    ]
    if found["loss"] >= found["mean_colour_loss"]:
        lines.append("           the encoder has learnt nothing that helps yet: train longer, --schedule.epochs")
    return lines


def _accuracies(result: "RunResult") -> list[str]:
    """What the best model reaches, on each split that was measured."""
    split, evaluation = result.evaluation["split"], result.evaluation
    chosen = "" if result.best == result.final else f" (best epoch, chosen on the {split} split)"
    lines = [f"accuracy   {_accuracy(evaluation, chosen)}"]
    if "test" in evaluation:
        lines.append(f"test       {_accuracy(evaluation['test'], ', which chose nothing')}")
    if result.teacher:
        lines.append(f"teacher    {result.teacher['label']}")
    return lines


def _accuracy(evaluation: dict[str, Any], remark: str) -> str:
    """An accuracy in words, with its interval where few images decide."""
    from vitrail.statistics import wilson

    right, count = evaluation["num_correct"], evaluation["num_examples"]
    text = f"{evaluation['accuracy']:.4f} on the {evaluation['split']} split{remark}: {right} of {count} right"
    if count >= _FEW:
        return text
    low, high = wilson(right, count)
    return f"{text}; few images: 95 % interval {low:.2f} to {high:.2f}"
