"""Train with a recipe, from scratch or from --init WEIGHTS.

Every setting of the run can be changed: --section.field VALUE, as --optim.lr 3e-4 or --schedule.epochs 20; a name that
one section alone has may stand alone, as --lr 3e-4. `vitrail train RECIPE --settings` lists them all with the recipe's
values.
"""

import argparse
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail import recipes
from vitrail.cli.answer import Answer
from vitrail.cli.processes import add_process_options, launched, started_here
from vitrail.cli.settings import apply_settings, settings_help, with_data
from vitrail.config import RunConfig
from vitrail.errors import ConfigError, shell_word, shown
from vitrail.terminal import say

if TYPE_CHECKING:
    from vitrail.run import RunResult

# Below so many images an accuracy is told with its interval.
_FEW = 1000


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
    from vitrail.training import train

    if not args.resume and (args.data or _is_set("--data.spec", args)):
        config = _with_splits_it_has(config, args)

    if started_here(args):
        from vitrail.run import next_free_run

        named = () if args.run else ("--run", str(next_free_run(config.recipe or "run")))
        return launched(args, *named)
    result = train(config, args.run, resume=args.resume, progress=True)
    run_path = shell_word(result.run)
    split, evaluation, best = result.evaluation["split"], result.evaluation, result.best
    chosen = "" if best == result.final else f" (best epoch, chosen on the {split} split)"
    lines = [f"accuracy   {_accuracy(evaluation, chosen)}"]
    if "test" in evaluation:
        lines.append(f"test       {_accuracy(evaluation['test'], ', which chose nothing')}")
    lines += verdict(result)
    if result.epochs:
        where = f"epoch {best['epoch']:g} of {result.epochs}" if best["epoch"] else "the start, before any training"
        lines.append(f"best       {where}, loss {best['loss']:.4f}")
    known = result.deterministic
    repeats = "exactly, on " + known["same"] if known["weights"] else "not exactly: " + "; ".join(known["reasons"])
    lines += [
        f"training   {result.train_seconds:.1f} s, {result.num_examples_seen} images, "
        f"{result.images_per_second:.0f} images/s",
        f"repeats    {repeats}",
        f"model      {result.model}",
        f"everything {result.run}",
    ]
    if config.probe.method == "knn":
        lines += [
            "",
            "This run cannot predict: its model file holds the features, and the training images that vote are no part",
            "of it. For a model that predicts: --recipe linear-probe, or no --recipe.",
        ]
    else:
        lines += ["", "Try next:", f"  vitrail predict {run_path} IMAGE_OR_FOLDER", f"  vitrail eval {run_path}"]
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
        recipe = recipes.get(args.recipe)
        if recipes.starts_from_weights(args.recipe) and not (
            args.init or args.list_settings or _is_set("--init", args)
        ):
            raise ConfigError(
                f"{args.recipe} starts from pretrained weights, and none are given.",
                do=f"vitrail finetune WEIGHTS --data SPEC --recipe {args.recipe}",
            )
        return recipe
    if args.list_settings:
        return RunConfig()
    raise ConfigError(
        "train needs a recipe.",
        expected=f"one of {', '.join(recipes.from_scratch())}",
        do="For example: vitrail train digits. What each is for: vitrail recipes",
    )


def _is_set(name: str, args: argparse.Namespace) -> bool:
    return any(word.startswith(name) for word in args.settings)


def _with_splits_it_has(config: RunConfig, args: argparse.Namespace) -> RunConfig:
    """Choose on the user's own val split, or on a part held out, and leave the test split for one last measurement.

    Without a val split of their own, a recipe that measures on the test split does so as it stands.
    """
    from vitrail import data
    from vitrail.distributed import is_launched

    own = data.available_splits(replace(config.data, validation_fraction=0.0))
    changed = config.evaluation
    if changed.split == "test" and not _is_set("--evaluation.split", args) and ("val" in own or "test" not in own):
        spec, part = shown(config.data.spec), f"{config.data.validation_fraction:.0%} of its training images"
        if "val" in own:
            changed = replace(changed, split="val", every_epochs=max(1, changed.every_epochs))
            said = f"{spec} has a val split: the best epoch is chosen there"
        else:
            changed = replace(changed, split="val")
            said = f"{spec} has no test split: {part} are held out and measured on"
        if not is_launched():
            say(f"{said} (--evaluation.split val)")
    if changed.split == "val" and "test" in own and not _is_set("--evaluation.test-best", args):
        changed = replace(changed, test_best=True)
    return replace(config, evaluation=changed)


def verdict(result: "RunResult") -> list[str]:
    """The probes beside the result, and what to do where training was not better than both."""
    from vitrail.training.evaluate import wilson

    if not (probes := result.baseline):
        return []
    count, split, reached = probes["num_examples"], probes["split"], result.evaluation["accuracy"]
    lines = [
        f"baseline   linear probe {probes['linear']:.4f}, k-NN {probes['knn']:.4f} on the frozen features, "
        f"{count} examples of the {split} split"
    ]
    best, name = max((probes["linear"], "the linear probe"), (probes["knn"], "k-NN"))
    if reached > best:
        return lines
    _, high = wilson(result.evaluation["num_correct"], result.evaluation["num_examples"])
    doubt = f", a difference that {count} images cannot tell from chance" if best < high and reached < best else ""
    kept = "the start is kept as the model; " if not result.best["epoch"] else ""
    votes = "; votes of training images are no model file" if name == "k-NN" else ""
    advice = (
        f"fine-tuning did not beat {name} ({reached:.4f} against {best:.4f}{doubt}){votes}: {kept}try more images, "
        "larger weights, or a larger --data.image-size"
    )
    return [*lines, *textwrap.wrap(advice, 112, initial_indent=" " * 11, subsequent_indent=" " * 11)]


def _accuracy(evaluation: dict[str, Any], remark: str) -> str:
    """An accuracy in words, with its interval where few images decide."""
    from vitrail.training.evaluate import wilson

    right, count = evaluation["num_correct"], evaluation["num_examples"]
    text = f"{evaluation['accuracy']:.4f} on the {evaluation['split']} split{remark}: {right} of {count} right"
    if count >= _FEW:
        return text
    low, high = wilson(right, count)
    return f"{text}; few images: 95 % interval {low:.2f} to {high:.2f}"
