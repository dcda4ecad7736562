"""Images to ranked labels, with the preprocessing and the class names that travel in the model file."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from vitrail import weights
from vitrail.augment import prepare
from vitrail.config import Preprocessing
from vitrail.config.checks import pair
from vitrail.config.vit import check_divisible
from vitrail.data import load_image
from vitrail.errors import ImageError, InputError, WeightsError, shown
from vitrail.model import ViT
from vitrail.runtime import Chosen, EngineOptions, choose, find_batch_size
from vitrail.runtime.device import pick_device
from vitrail.weights.calibration import UNKNOWN
from vitrail.weights.mahalanobis import with_features


@runtime_checkable
class ReadsBytes(Protocol):
    """A file opened for reading bytes, or what behaves so: io.BytesIO, an upload of a web server."""

    def read(self, size: int = -1, /) -> bytes: ...


ImageLike = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | ReadsBytes | Image.Image | np.ndarray | torch.Tensor
)
"""A path; the bytes of a file; a file opened for reading bytes; an image of Pillow; an array [H, W], [H, W, 1],
[H, W, 3] or [H, W, 4], or a tensor [H, W], [1, H, W], [3, H, W] or [4, H, W], uint8 or floating-point in [0, 1]."""

_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class Ranked:
    """One class and its probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: the classes by falling probability.

    Args:
        distance: from the classes, in standard deviations of their features; None where the model does not know when
            an image is unknown (`vitrail calibrate --reject`).
        is_unknown: the image is like none of the classes.
    """

    path: str
    top: tuple[Ranked, ...]
    distance: float | None = None
    is_unknown: bool = False

    @property
    def label(self) -> str:
        """The most probable class; "unknown" where none is."""
        return UNKNOWN if self.is_unknown else self.top[0].label

    @property
    def probability(self) -> float:
        """Probability of the most probable class, in [0, 1]."""
        return self.top[0].probability


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

    def __call__(self, images: ImageLike | Sequence[ImageLike], *, top: int = 5) -> list[Prediction]:
        """Classify images.

        Args:
            images: one image or several, each in a form of `ImageLike`; an array or tensor of four axes is a batch.
            top: how many classes to rank.
        Returns:
            One prediction for each image, also where there is one.
        Raises:
            ImageError: one of them cannot be read.
            InputError: one of them is nothing of this kind.
        """
        several = listed(images)
        results: list[Prediction] = []
        for result in self.stream(several, top=top):
            if isinstance(result, ImageError):
                raise result
            results.append(result)
        return results

    def stream(
        self, images: Sequence[ImageLike], *, top: int = 5, batch_size: int = 0
    ) -> Iterator[Prediction | ImageError]:
        """Classify many images one after the other, in their order; an unreadable one yields its error.

        Args:
            images: each in a form of `ImageLike`.
            top: how many classes to rank, at most all.
            batch_size: images in one forward pass; 0: measured where there is much to do, else 64.
        """
        if not images:
            return
        batch_size = batch_size or self.chosen(len(images)).batch_size
        chunks = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        overlaps = self.device.type != "cpu"  # the cores of a CPU have enough to do with either

        def submit(number: int) -> list[Future[np.ndarray | ImageError]]:
            return [pool.submit(self._decode, image) for image in chunks[number]] if number < len(chunks) else []

        with ThreadPoolExecutor() as pool:
            waiting = submit(0)
            for number, chunk in enumerate(chunks):
                decoded = [future.result() for future in waiting]
                waiting = submit(number + 1) if overlaps else []
                good = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
                answers = iter(self._classify(np.stack(good), top) if good else ())
                for image, pixels in zip(chunk, decoded, strict=True):
                    yield Prediction(_name(image), *next(answers)) if isinstance(pixels, np.ndarray) else pixels
                waiting = waiting or submit(number + 1)

    def _decode(self, image: ImageLike) -> np.ndarray | ImageError:
        try:
            return decode(image, self.preprocessing)
        except ImageError as error:
            return error

    @torch.inference_mode()
    def logits(self, images: Float[torch.Tensor, "B C H W"]) -> Float[torch.Tensor, "B L"]:
        """What the chosen engine gives for normalised images, before the temperature."""
        return self.chosen(len(images)).runtime(images)[:, : len(self.labels)]

    @torch.inference_mode()
    def _classify(self, pixels: UInt8[np.ndarray, "B C h w"], top: int) -> list["_Answer"]:
        images = prepare(torch.from_numpy(pixels).to(self.device), self.preprocessing)
        outputs = self.chosen(len(pixels)).runtime(images)
        logits = outputs[:, : len(self.labels)] / self.temperature
        probabilities = logits.sigmoid() if self.card.is_yes_or_no else logits.softmax(1)
        if not bool(outputs.isfinite().all()):
            raise WeightsError("The outputs of the model are not finite.", do="Train it again.")
        best = probabilities.topk(min(top, len(self.labels)))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ranked = [tuple(Ranked(self.labels[i], value) for i, value in zip(*row, strict=True)) for row in rows]
        if not self.unknown:
            return [_Answer(found, None, False) for found in ranked]
        distances = self.model.mahalanobis.distances(outputs[:, len(self.labels) :]).tolist()
        least, most = self.unknown.min_probability, self.unknown.max_distance
        return [
            _Answer(found, distance, found[0].probability < least or distance > most)
            for found, distance in zip(ranked, distances, strict=True)
        ]


class _Answer(NamedTuple):
    """What a prediction says, but for the path."""

    top: tuple[Ranked, ...]
    distance: float | None
    is_unknown: bool


def preprocessing_at(card: weights.Card, image_size: int | tuple[int, int] | None) -> Preprocessing:
    """A model's preprocessing, at another input size or its own (None). Raises ConfigError: no whole patches."""
    if image_size is None:
        return card.preprocessing
    check_divisible(image_size, card.geometry, "image-size")
    return card.preprocessing.resized(pair(image_size))


def decode(image: ImageLike, preprocessing: Preprocessing) -> UInt8[np.ndarray, "C h w"]:
    """The pixels of an image as a model's preprocessing wants them decoded. Raises ImageError or InputError."""
    return load_image(_source(image), preprocessing, name=_name(image))


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
            got=f"features only{f'; {why}' if why else ', as the recipe knn leaves them'}",
            expected="a model with classes",
            do="Make one on your images: vitrail finetune WEIGHTS --data FOLDER, with --recipe linear-probe if nothing "
            "else is to move.",
        )


def _name(image: ImageLike) -> str:
    """How messages and predictions call an image."""
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    name = getattr(image, "name", None)  # of an open file
    return name if isinstance(name, str) and hasattr(image, "read") else type(image).__name__


def listed(images: Any) -> list[ImageLike]:
    """One image or several, in a form of `ImageLike`, one by one. Raises InputError."""
    single = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)
    if single or hasattr(images, "read") or (isinstance(images, np.ndarray | torch.Tensor) and images.ndim != 4):
        return [images]
    try:
        return list(images)
    except TypeError as error:
        raise _no_image(images) from error


def _source(image: ImageLike) -> bytes | Path | Image.Image:
    """What the one decoder takes: pixels in memory go the same way as a file."""
    match image:
        case Image.Image():
            return image
        case np.ndarray() | torch.Tensor():
            return Image.fromarray(_pixels(image))
        case bytes():
            return image
        case bytearray() | memoryview():
            return bytes(image)
        case str() if image.startswith(("http://", "https://")):
            raise ImageError("is an address, not a file: download it first, then give its path or bytes", shown(image))
        case str() | os.PathLike():
            return Path(os.fsdecode(image))
        case ReadsBytes():
            return _read(image)
        case _:
            raise _no_image(image)


def _read(file: ReadsBytes) -> bytes:
    try:
        data = cast(object, file.read(_FILE_BYTES))
    except (OSError, ValueError) as error:  # ValueError: it is closed, or was opened for writing
        raise ImageError(f"cannot be read ({error})", shown(_name(file))) from error
    if not isinstance(data, bytes):
        raise InputError(
            "An open file gives no bytes.",
            got=f"{type(data).__name__} from read()",
            do='Open it with open(path, "rb").',
        )
    return data


def _pixels(image: np.ndarray | torch.Tensor) -> UInt8[np.ndarray, "..."]:
    """An array [H, W, C] or tensor [C, H, W] as uint8 [H, W] or [H, W, C]."""
    is_tensor, form = isinstance(image, torch.Tensor), f"{image.dtype} {list(image.shape)}"
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image
    is_float = image.dtype.kind == "f" and bool(((image >= 0) & (image <= 1)).all())
    has_form = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    if not has_form or not image.size or not (is_float or image.dtype == np.uint8):
        axes = "[H, W], [1, H, W], [3, H, W] or [4, H, W]" if is_tensor else "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        raise InputError(
            f"An image {'tensor' if is_tensor else 'array'} has the wrong shape, type or range.",
            got=form + (", not all of it in [0, 1]" if image.dtype.kind == "f" and not is_float else ""),
            expected=f"uint8, or floating-point in [0, 1], {axes}",
            do="Give it as it is before mean and std are applied: the model's own are applied here.",
        )
    if is_float:
        image = np.rint(image * 255).astype(np.uint8)
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


def _no_image(image: object) -> InputError:
    return InputError(
        "This is not an image.",
        got=type(image).__name__,
        expected="a path, bytes, an open file, an image of Pillow, an array or a tensor; or several of them",
    )
