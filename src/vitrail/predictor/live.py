"""A model ready to classify images, in torch or in an engine that is faster on this machine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from vitrail import weights
from vitrail.augment import prepare
from vitrail.config import Preprocessing
from vitrail.config.checks import pair
from vitrail.config.vit import check_divisible
from vitrail.errors import ImageError, InputError, WeightsError
from vitrail.model import ViT
from vitrail.predictor.answers import Outputs, Prediction, ranked
from vitrail.predictor.image_like import ImageLike, decode, listed
from vitrail.predictor.stream import all_of, answer_stream
from vitrail.predictor.views import Views, check_views, mean_over_mirror
from vitrail.runtime import Chosen, EngineOptions, choose, find_batch_size
from vitrail.runtime.device import pick_device
from vitrail.weights.mahalanobis import with_features


class Predictor:
    """A model ready to classify images.

    Args:
        model: a model file, a run directory, or a (model, card) pair as `vitrail.load` gives.
        device: auto, cpu, cuda, ...
        image_size: another input side in pixels, or (height, width); None: the model's own.
        options: which engine, which arithmetic, how many tokens are merged; None: the fastest exact one.
        on_wait: told what takes a while: a translation, a measurement.
    Raises:
        WeightsError: the model cannot be read.
        ConfigError: no such device, or an image size that the patch does not divide.
    """

    def __init__(
        self,
        model: str | Path | tuple[ViT, weights.Card],
        *,
        device: str = "auto",
        image_size: int | tuple[int, int] | None = None,
        options: EngineOptions | None = None,
        on_wait: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.options, self.on_wait = options or EngineOptions(), on_wait
        self._chosen: Chosen | None = None
        self.name = "This model" if isinstance(model, tuple) else str(model)
        self.device = pick_device(device)
        loaded, self.card = model if isinstance(model, tuple) else weights.load(model)
        _check_answers(self.card)
        unnamed = tuple(f"class {i}" for i in range(self.card.geometry.num_labels))
        self.labels: tuple[str, ...] = self.card.classes or unnamed
        self.model = loaded.to(self.device).eval()
        calibration = self.card.calibration
        self.temperature = calibration.temperature if calibration else 1.0
        self.unknown = calibration.unknown if calibration and loaded.mahalanobis else None
        self._served = with_features(self.model, loaded.mahalanobis) if self.unknown else self.model
        self.preprocessing = preprocessing_at(self.card, image_size)

    def chosen(
        self, num_images: int, *, batch_size: int = 0, default_batch_size: int = 64, alone: bool = True
    ) -> Chosen:
        """What runs the model, decided once: by the first call, with that many images to be done.

        Args:
            num_images: how many there are.
            batch_size: images at a time; 0: measured where there is much to do, else the default.
            default_batch_size: that default.
            alone: False where several processes share the work.
        Raises:
            ConfigError: the engine that was asked for is not installed, or not for this device.
        """
        if self._chosen is None:
            size = self.preprocessing.image_size
            found = choose(self._served, size, self.options, num_images=num_images, alone=alone, on_wait=self.on_wait)
            if not batch_size and not alone:
                batch_size = default_batch_size
            elif not batch_size:
                name = f"{found.engine} {found.precision} {found.merge}"
                batch_size = find_batch_size(
                    found.runtime, name, self._served, size,
                    num_images=num_images, default=default_batch_size, on_wait=self.on_wait,
                )  # fmt: skip
            self._chosen = replace(found, batch_size=batch_size)
        return self._chosen

    def __call__(
        self, images: ImageLike | Sequence[ImageLike], *, top: int = 5, views: Views = "single"
    ) -> list[Prediction]:
        """Classify images.

        Args:
            images: one image or several, each in a form of `ImageLike`; an array or tensor of four axes is a batch.
            top: how many classes to rank.
            views: mirror: the mean over each image and its mirror image, for twice the time.
        Returns:
            One prediction for each image, also where there is one.
        Raises:
            ImageError: one of them cannot be read.
            InputError: one of them is nothing of this kind.
        """
        return all_of(self.stream(listed(images), top=top, views=views))

    def stream(
        self, images: Sequence[ImageLike], *, top: int = 5, batch_size: int = 0, views: Views = "single"
    ) -> Iterator[Prediction | ImageError]:
        """Classify many images one after the other, in their order; an unreadable one yields its error.

        Args:
            images: each in a form of `ImageLike`.
            top: how many classes to rank, at most all.
            batch_size: images in one forward pass; 0: measured where there is much to do, else 64.
            views: as of a call.
        """
        check_views(views)
        if not images:
            return iter(())
        batch_size = batch_size or self.chosen(len(images)).batch_size
        return answer_stream(
            images,
            lambda image: decode(image, self.preprocessing),
            lambda pixels: ranked(self.outputs(pixels, views), self.labels, top, self.unknown),
            batch_size,
            overlaps=self.device.type != "cpu",  # the cores of a CPU have enough to do with either
        )

    @torch.inference_mode()
    def logits(self, images: Float[torch.Tensor, "B C H W"]) -> Float[torch.Tensor, "B L"]:
        """What the chosen engine gives for normalised images, before the temperature."""
        return self.chosen(len(images)).runtime(images)[:, : len(self.labels)]

    @torch.inference_mode()
    def outputs(self, pixels: UInt8[np.ndarray, "B C h w"], views: Views = "single") -> Outputs:
        """What the chosen engine gives for images as they are decoded.

        Raises:
            WeightsError: the outputs are not finite.
        """
        if views == "mirror":
            return mean_over_mirror(
                self.outputs, pixels, temperature=self.temperature, is_yes_or_no=self.card.is_yes_or_no
            )
        images = prepare(torch.from_numpy(pixels).to(self.device), self.preprocessing)
        found = self.chosen(len(pixels)).runtime(images)
        if not bool(found.isfinite().all()):
            raise WeightsError("The outputs of the model are not finite.", do="Train it again.")
        logits = found[:, : len(self.labels)]
        scaled = logits / self.temperature
        probabilities = scaled.sigmoid() if self.card.is_yes_or_no else scaled.softmax(1)
        distances = None
        if self.unknown:
            distances = self.model.mahalanobis.distances(found[:, len(self.labels) :]).cpu().numpy()
        return Outputs(probabilities.cpu().numpy(), logits.cpu().numpy(), distances)


def preprocessing_at(card: weights.Card, image_size: int | tuple[int, int] | None) -> Preprocessing:
    """A model's preprocessing, at another input size or its own (None). Raises ConfigError: no whole patches."""
    if image_size is None:
        return card.preprocessing
    check_divisible(image_size, card.geometry, "image-size")
    return card.preprocessing.resized(pair(image_size))


def _check_answers(card: weights.Card) -> None:
    """Raise InputError for a model that gives something else than classes."""
    if card.problem_type == "regression":
        raise InputError(
            "This model answers with numbers (problem_type regression), not with classes.",
            got=f"{card.geometry.num_labels} outputs",
            expected="a model with classes",
        )
    if not card.geometry.num_labels:
        why = weights.head_left_out(card)
        raise InputError(
            "This model has no classifier.",
            got=f"features only{f'; {why}' if why else ', as pretrain and the recipe knn leave them'}",
            expected="a model with classes",
            do="Make one on your images: vitrail finetune WEIGHTS --data FOLDER, with --recipe linear-probe if nothing "
            "else is to move.",
        )
