"""A model put to use: measured on a data set, or asked about images."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float32

from vitrail import data as datasets
from vitrail import training, weights
from vitrail.api.datasets import Split
from vitrail.config import DataConfig, Preprocessing, from_json
from vitrail.data import ImageSet
from vitrail.distributed import World
from vitrail.errors import ConfigError, InputError
from vitrail.model import ViT
from vitrail.predictor import (
    ExportedPredictor,
    ImageLike,
    Prediction,
    Predictor,
    decode,
    is_exported,
    listed,
    preprocessing_at,
)
from vitrail.predictor.views import Views, check_views
from vitrail.runtime import EngineOptions
from vitrail.training import Evaluation, pick_device
from vitrail.training.transfer.probe import features as features_of
from vitrail.weights import Card

Model = str | Path | tuple[ViT, Card] | Predictor
"""A run directory, a model file, builtin:NAME, other weights that `vitrail.load` reads, the (model, card) pair that it
gives, or a `Predictor`."""
OnNote = Callable[[str], object]


def evaluate(
    model: Model,
    data: str | Path | None = None,
    *,
    split: Split | None = None,
    data_root: str | Path | None = None,
    views: Views = "single",
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 0,
    device: str = "auto",
    options: EngineOptions | None = None,
    progress: bool = False,
    on_note: OnNote = lambda _: None,
    world: World | None = None,
) -> Evaluation:
    """Measure a model exactly, every image of a split once: `vitrail eval`.

    An image that cannot be read counts as a wrong answer and is named in `.errors`.

    Args:
        model: a run directory, a model file or other weights, a (model, card) pair, or a `Predictor`.
        data: the images, with the model's classes; None: those that it was trained on.
        split: None: test; or val, as held out in training, where the training data have no test split.
        data_root: where named data sets are.
        views: mirror: measure the mean over each image and its mirror image as well, as `.with_mirror`.
        image_size: another input side in pixels, or (height, width); None: the model's own. Not with a `Predictor`.
        batch_size: images at a time; 0: measured where there is much to do, else 500.
        device: auto, cpu, cuda, ... Not with a `Predictor`.
        options: which engine runs the model, and how; None: the fastest exact one. Not with a `Predictor`.
        progress: show bars on standard error.
        on_note: told which engine was chosen, and what of the data set is left out.
        world: the processes that share the work; None: this one.
    Returns:
        Counts and figures: `.accuracy` in [0, 1], `.loss` in nats, `.per_class`, `.confusion` [true][predicted], and
        `.predictions`, a row an image; all of the images as they are. `.with_mirror` has the same of the mean.
    Raises:
        WeightsError: the model cannot be read.
        DataError: there is no such data set or split, or its classes are not the model's.
        InputError: the model's classes have no names, or it does not choose one class an image.
        ConfigError: there is no such device or engine, or nobody says which data.
    """
    check_views(views)
    predictor = _predictor(model, image_size, device, options, on_note)
    world = world or World()
    image_set, was_trained_on = image_set_of(predictor, data, split, data_root, progress=progress)
    if was_trained_on:
        on_note("this model was trained on most of these images: its accuracy on new ones is that of val or test")
    chosen = predictor.chosen(len(image_set), batch_size=batch_size, default_batch_size=500, alone=world.size == 1)
    for note in (*image_set.notes, chosen.line):
        on_note(note)
    found = training.evaluate(
        predictor.model, image_set, predictor.preprocessing, batch_size=chosen.batch_size, runtime=predictor.logits,
        with_mirror=views == "mirror", progress=progress, on_batch=lambda: world.report_progress("evaluate", 0),
        world=world,
    )  # fmt: skip
    answers = found.predictions
    return replace(found, predictions=answers and replace(answers, engine=chosen.name))


def image_set_of(
    predictor: Predictor, data: str | Path | None, split: Split | None, data_root: str | Path | None, *, progress: bool
) -> tuple[ImageSet, bool]:
    """The images to measure on, and whether the model was trained on most of them. Raises as `evaluate`."""
    _check_has_named_classes(predictor)
    card = predictor.card
    config, own_data = data_to_open(card, data, data_root)
    source = datasets.open_source(config, may_download=True, progress=progress)
    wanted = _splits_to_load(card, config, source, split, own_data)
    splits = datasets.load(
        config, wanted, classes=card.classes, preprocessing=predictor.preprocessing, source=source, progress=progress
    )
    held_out = "val" in source.splits or card.recipe.get("evaluation", {}).get("split") == "val"
    was_trained_on = own_data and (wanted[0] in ("train", "all") or (wanted[0] == "val" and not held_out))
    return splits[wanted[0]], was_trained_on


def trained_on(card: Card) -> DataConfig:
    """Settings of the training data, so that what was held out is held out again; an empty spec when unknown."""
    try:
        return from_json(DataConfig, card.recipe.get("data"), "data", allow_missing=True)
    except ConfigError:
        return DataConfig(spec="")


def data_to_open(card: Card, data: str | Path | None, data_root: str | Path | None) -> tuple[DataConfig, bool]:
    """The data to measure on, and whether they are those that the model was trained on."""
    config = replace(trained_on(card), store="auto")  # how it kept its images is no matter of who measures it
    own_data = data is None or Path(data).absolute() == Path(config.spec).absolute()
    if data is not None:
        config = replace(config, spec=str(data))
    if not config.spec:
        raise ConfigError("This model does not say what it was trained on.", do="Add --data SPEC.")
    if data_root is not None or not Path(config.root).is_dir():  # a model travels, the folder of its training not
        config = replace(config, root=str(data_root or ""))
    return config, own_data


def _splits_to_load(
    card: Card, config: DataConfig, source: datasets.Source, split: Split | None, own_data: bool
) -> tuple[Split, ...]:
    """The splits to load. The first is measured, "train" without what the run held out."""
    evaluation = card.recipe.get("evaluation", {})
    measured_on_val = own_data and evaluation.get("split") == "val"
    if split is None:  # the test split; where the training data have none, what the run measured in its place
        no_test = measured_on_val and not evaluation.get("test_best")
        has_test = "test" in datasets.available_splits(config, source=source)
        split = "val" if no_test and not has_test else "test"
        if not own_data and not has_test and set(source.splits) == {"train"}:  # a folder of classes, without splits
            split = "all"
    return (split, "val") if measured_on_val and split == "train" else (split,)


def _check_has_named_classes(predictor: Predictor) -> None:
    """Raise InputError for a model whose accuracy on a data set is not defined."""
    card = predictor.card
    if card.is_yes_or_no:
        raise InputError(
            f"{predictor.name}: answers yes or no for each class, so accuracy is not defined for it.",
            got=card.problem_type if card.geometry.num_labels > 1 else "a single logit",
            expected="a model with one class for each image",
        )
    if not card.classes:
        raise InputError(
            f"{predictor.name}: its classes have no names, so they cannot be matched with those of the data.",
            got=f"{card.geometry.num_labels} unnamed classes",
            do='Name them: vitrail.load(..., classes=[...], head="keep"), then vitrail.save.',
        )


def predict(
    model: Model | ExportedPredictor,
    images: ImageLike | Sequence[ImageLike],
    *,
    top: int = 5,
    views: Views = "single",
    image_size: int | tuple[int, int] | None = None,
    device: str = "auto",
    options: EngineOptions | None = None,
) -> list[Prediction]:
    """Rank the classes for every image: `vitrail predict`.

    Each call loads the model; for many calls make a `Predictor` once and give that.

    Args:
        model: a run directory, a model file or other weights, a (model, card) pair, a `Predictor`, a file that `export`
            wrote, or an `ExportedPredictor`.
        images: one or several of: the path of a file or folder, bytes, an open file, an image of Pillow, an array
            [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], a tensor [H, W], [1, H, W], [3, H, W] or [4, H, W]; uint8, or
            floating-point in [0, 1]. Four axes are a batch. Of a folder every file is taken, those in it sorted.
        top: how many classes to rank, at most all.
        views: mirror: the mean over each image and its mirror image, for twice the time.
        image_size: another input side in pixels, or (height, width); None: the model's own. Not with a `Predictor`.
        device: auto, cpu, cuda, ... Not with a `Predictor`.
        options: which engine runs the model, and how; None: the fastest exact one. Not with a `Predictor`.
    Returns:
        One prediction an image, in their order: `.label`, `.probability` in [0, 1], `.top`, `.path`.
    Raises:
        ImageError: one of them cannot be read; `Predictor.stream` gives the error in its place and goes on.
        InputError: one of them is no image, or the model has no classes.
        DataError: there is no such file or folder, or it is empty.
        WeightsError, ConfigError: as of `evaluate`.
    """
    several = list(_each(images))
    if isinstance(model, ExportedPredictor) or is_exported(model):
        if image_size is not None or device not in ("auto", "cpu") or options is not None:
            raise InputError("An exported file has its image size and precision already, and runs on the CPU.")
        ready = model if isinstance(model, ExportedPredictor) else ExportedPredictor(cast(str | Path, model))
        return ready(several, top=top, views=views)
    return _predictor(model, image_size, device, options)(several, top=top, views=views)


def features(
    model: Model,
    images: ImageLike | Sequence[ImageLike] | ImageSet,
    *,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> Float32[np.ndarray, "N D"]:
    """What a model makes of images before it classifies them: their embeddings.

    Like images have like rows, which searching, clustering and simple classifiers build on.

    Args:
        model: as of `predict`; one without a classifier will do.
        images: as of `predict`, or a split that `load_data` gives.
        image_size: another input side in pixels, or (height, width); None: the model's own. Not with a `Predictor`.
        batch_size: images at a time.
        device: auto, cpu, cuda, ... Not with a `Predictor`.
    Returns:
        A row an image, what `ViT.pool` gives: the model's width D, or 2 D where it pools two kinds of tokens.
    Raises:
        ImageError, InputError, DataError, WeightsError, ConfigError: as of `predict`.
    """
    if isinstance(model, Predictor):
        vit, preprocessing = model.model, model.preprocessing
    else:
        vit, card = model if isinstance(model, tuple) else weights.load(model)
        vit, preprocessing = vit.to(pick_device(device)).eval(), preprocessing_at(card, image_size)
    sets = [images] if isinstance(images, ImageSet) else _decoded(list(_each(images)), preprocessing, batch_size)
    return np.concatenate([features_of(vit, part, preprocessing, batch_size=batch_size).rows for part in sets])


def _each(images: ImageLike | Sequence[ImageLike]) -> Iterator[ImageLike]:
    """The images one by one; a folder's files in its place."""
    for image in listed(images):
        if isinstance(image, str | os.PathLike) and Path(os.fsdecode(image)).is_dir():
            yield from datasets.files_at([os.fsdecode(image)])
        else:
            yield image


def _decoded(images: Sequence[ImageLike], preprocessing: Preprocessing, count: int) -> Iterator[ImageSet]:
    """Images decoded for a model, so many at a time. Raises ImageError where one cannot be read."""
    for start in range(0, len(images), count):
        part = images[start : start + count]
        pixels, numbers = np.stack([decode(image, preprocessing) for image in part]), np.arange(len(part))
        yield ImageSet("all", (), pixels, np.zeros_like(numbers), numbers, [""] * len(part), (), "")


def _predictor(
    model: Model,
    image_size: int | tuple[int, int] | None,
    device: str,
    options: EngineOptions | None,
    on_note: OnNote = lambda _: None,
) -> Predictor:
    if not isinstance(model, Predictor):
        return Predictor(model, image_size=image_size, device=device, options=options, on_wait=on_note)
    if image_size is not None or device != "auto" or options is not None:
        raise InputError(
            "A Predictor has its image size, device and options already.", do="Give them where the Predictor is made."
        )
    return model
