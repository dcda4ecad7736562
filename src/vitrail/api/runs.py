"""Training by a recipe's name, and fine-tuning: how the configuration of a run comes about."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail import recipes, training
from vitrail.config import RunConfig
from vitrail.config.settings import full_name, with_data, with_settings
from vitrail.data import Source, available_splits, open_source
from vitrail.distributed import is_launched
from vitrail.errors import ConfigError, shown
from vitrail.run import RunDir
from vitrail.terminal import say
from vitrail.training import RunResult, transfer
from vitrail.weights import Head, load_card, num_parameters

OnNote = Callable[[str], object]


def _silent(_: str) -> None:
    """What is done with a note that nobody asked for."""


def train(
    recipe: str | RunConfig,
    run: str | Path | None = None,
    *,
    data: str | Path | None = None,
    data_root: str | Path | None = None,
    weights: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = False,
    track: Sequence[str] = (),
) -> RunResult:
    """Train a model as a recipe says, and evaluate it: `vitrail train`.

    Started by torchrun, several processes share the run; all get the same result.

    Args:
        recipe: a name of `vitrail.recipes.names()`, or a whole configuration.
        run: the run directory; None: runs/NAME, with the recipe's name and the next free number.
        data: other images than the recipe's: a folder, a named set, a manifest, hf:OWNER/NAME.
        data_root: where named data sets are; None: VITRAIL_DATA, else the user's cache folder.
        weights: start from these, of the recipe's architecture; `finetune` takes the architecture from the weights.
        settings: other settings than the recipe's, by the names of the command line: {"epochs": 3, "optim.lr": 1e-3}.
        resume: go on with the run that `run` holds. With a recipe's name its stored configuration is used.
        progress: show a bar and a line for each epoch on standard error.
        track: where else the log goes while it grows: csv, tensorboard, wandb, mlflow, trackio.
    Returns:
        What the run came to; `.model` is the path of the best model file, `.evaluation` what was measured.
    Raises:
        ConfigError, DataError, RunError: what was asked for cannot be done; nothing was written.
        SaveError: saving failed; what was saved before is intact.
        Interrupted: SIGINT or SIGTERM; the state is saved and `resume` goes on.
        RankLost: another process of the run died or hangs; `resume` goes on.
    """
    given = settings or {}
    if isinstance(recipe, RunConfig):
        start = recipe
    elif resume:
        start = stored_config(run, recipe)
    else:
        start = recipes.get_from_scratch(recipe) if weights is None else recipes.get(recipe)
    if weights is not None and not resume:  # the recipe's way to make random weights does not matter then
        start = replace(start, init=replace(start.init, weights=weights, patches="random"))
    config = with_settings(with_data(start, _text(data), _text(data_root)), given)
    if not resume and (data is not None or "data.spec" in map(full_name, given)):
        source = opened(config, progress=progress)
        config = fitted_to_splits(config, source, given, on_note=say if progress and not is_launched() else _silent)
        return training.train(config, run, progress=progress, source=source, track=track)
    return training.train(config, run, resume=resume, progress=progress, track=track)


def finetune(
    weights: str,
    data: str | Path,
    run: str | Path | None = None,
    *,
    recipe: str = "finetune",
    head: Head = "match",
    data_root: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
    track: Sequence[str] = (),
) -> RunResult:
    """Fine-tune pretrained weights on the classes of a data set: `vitrail finetune`.

    Architecture and preprocessing come from the weights. `train(recipe, run, resume=True)` goes on with such a run.

    Args:
        weights: a vitrail file, builtin:NAME, a file or folder of another library, or a hub id.
        data: the images: a folder with a folder for each class, a named set, a manifest, hf:OWNER/NAME.
        run: the run directory; None: runs/RECIPE, with the next free number.
        recipe: how: finetune, finetune-cpu, finetune-sgd, finetune-last, lora, linear-probe, knn, ...
        head: the classifier's rows: match those of equal class names, keep all in their order, or reset.
        data_root: where named data sets are.
        settings: other settings than the recipe's, as {"epochs": 20, "data.image_size": 384}.
        progress: show the plan, a bar and a line for each epoch on standard error.
        track: as of `train`.
    Returns:
        What the run came to; `.baseline` has the accuracies of the frozen features.
    Raises:
        WeightsError: the weights cannot be read.
        ConfigError, DataError, RunError, SaveError, Interrupted, RankLost: as of `train`.
    """
    on_note = say if progress and not is_launched() else _silent
    start = finetune_start(weights, _text(data), recipe=recipe, head=head, data_root=_text(data_root), on_note=on_note)
    given = settings or {}
    config = transfer.with_image_size(with_settings(start, given), start)
    source = opened(config, progress=progress)
    config = fitted_to_splits(config, source, given, on_note=on_note)
    return training.train(config, run, progress=progress, source=source, track=track)


def pretrain(
    data: str | Path,
    run: str | Path | None = None,
    *,
    recipe: str | RunConfig = "pretrain-cpu",
    data_root: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
    track: Sequence[str] = (),
) -> RunResult:
    """Train an encoder on images without labels, for `finetune` to start from: `vitrail pretrain`.

    `train(recipe, run, resume=True)` goes on with such a run.

    Args:
        data: the images: a folder, sorted into classes or not, or all that `train` takes; labels are ignored.
        run: the run directory; None: runs/RECIPE, with the next free number.
        recipe: a name of `vitrail.recipes.without_labels()`, or a whole configuration.
        data_root: where named data sets are.
        settings: other settings than the recipe's, as {"epochs": 50, "pretrain.mask_ratio": 0.75}.
        progress: show the plan, a bar and a line for each epoch on standard error.
        track: as of `train`.
    Returns:
        What the run came to; `.model` is the path of the encoder, `.evaluation` how well it fills what is masked.
    Raises:
        ConfigError: the configuration learns classes.
        ConfigError, DataError, RunError, SaveError, Interrupted, RankLost: as of `train`.
    """
    start = recipe if isinstance(recipe, RunConfig) else recipes.get(recipe)
    config = with_settings(with_data(start, _text(data), _text(data_root)), settings or {})
    check_is_pretraining(config)
    source = opened(config, progress=progress)
    config = fitted_to_splits(config, source, settings or {})
    return training.train(config, run, progress=progress, source=source, track=track)


def check_is_pretraining(config: RunConfig) -> None:
    """Raise ConfigError for a run that learns classes."""
    if not config.is_pretraining:
        raise ConfigError(
            f"{config.recipe or 'This configuration'} learns classes, and pretrain ignores labels.",
            got=f"pretrain.objective={config.pretrain.objective}",
            expected=f"a configuration with another one, or a recipe: {', '.join(recipes.without_labels())}",
            do=f"To train on labelled images: vitrail train {config.recipe or '--from CONFIG'} --data SPEC",
        )


def opened(config: RunConfig, *, progress: bool = False) -> Source:
    """The data set of a run, found and indexed; one that learns no classes needs no labels. Raises DataError."""
    needs_labels = not config.is_pretraining
    return open_source(config.data, may_download=True, progress=progress, needs_labels=needs_labels)


def stored_config(run: str | Path | None, recipe: str | None) -> RunConfig:
    """The configuration of a run that goes on.

    Args:
        run: its directory.
        recipe: the name that it is expected to have; None: any.
    Raises:
        ConfigError: no run is named, or it is one of another recipe.
        RunError: there is no run, or its configuration cannot be read.
    """
    if not run:
        raise ConfigError("--resume needs the run to continue.", do="Add --run DIR.")
    stored = RunDir(Path(run)).read_config()
    if recipe not in (None, stored.recipe):
        raise ConfigError(f"{run} holds a run of another recipe.", got=recipe, expected=stored.recipe or "none")
    return stored


def finetune_start(
    source: str,
    data: str | None = None,
    *,
    recipe: str = "finetune",
    head: Head = "match",
    data_root: str | None = None,
    on_note: OnNote = _silent,
) -> RunConfig:
    """The configuration of a fine-tuning run before any setting is changed.

    Args:
        source: the weights, as of `vitrail.load`.
        on_note: told which settings the size of the weights has chosen.
    Raises:
        ConfigError: there is no such recipe.
        WeightsError: the weights cannot be read.
    """
    recipes.get(recipe)  # a wrong name is said before the weights are read
    card = load_card(source)
    count = num_parameters(card.geometry)
    start = recipes.get(recipe, num_parameters=count)
    if recipe == "finetune":
        size = "small" if count < recipes.SMALL else "large"
        on_note(f"finetune: settings for a {size} model ({count / 1e6:.2f} M parameters)")
    return with_data(transfer.with_weights(start, source, head, card), data, data_root)


def fitted_to_splits(
    config: RunConfig, source: Source, chosen: Collection[str] = (), *, on_note: OnNote = _silent
) -> RunConfig:
    """Choose on the data's own val split, or on a part held out, and leave the test split for one last measurement.

    Without a val split of its own, a recipe that measures on the test split does so as it stands.

    Args:
        config: a run on data that are not the recipe's own.
        source: these, opened.
        chosen: names of settings that are left as they are.
        on_note: told what was changed, and why.
    """
    own = available_splits(replace(config.data, validation_fraction=0.0), source=source)
    before, fixed = config.evaluation, set(map(full_name, chosen))
    split, every, test_best = before.split, before.every_epochs, before.test_best
    if split == "test" and "evaluation.split" not in fixed and ("val" in own or "test" not in own):
        spec, part = shown(config.data.spec), f"{config.data.validation_fraction:.0%} of its training images"
        split = "val"
        if "val" in own:
            every = max(1, every)
            said = f"{spec} has a val split: the best epoch is chosen there"
        else:
            said = f"{spec} has no test split: {part} are held out for evaluation"
        on_note(f"{said} (--evaluation.split val)")
    if split == "val" and "test" in own and "evaluation.test_best" not in fixed and not config.is_pretraining:
        test_best = True
    return replace(config, evaluation=replace(before, split=split, every_epochs=every, test_best=test_best))


def _text(given: str | Path | None) -> str | None:
    return None if given is None else str(given)
