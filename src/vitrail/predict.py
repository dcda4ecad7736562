"""Images to ranked labels, with the preprocessing and the class names that travel in the model file."""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from vitrail import weights
from vitrail.augment import prepare
from vitrail.config.checks import pair
from vitrail.config.vit import check_divisible
from vitrail.data import load_image
from vitrail.errors import ImageError, InputError, WeightsError
from vitrail.model import ViT
from vitrail.run.device import pick_device
from vitrail.runtime import Chosen, EngineOptions, choose, find_batch_size

ImageLike = str | Path | Image.Image | np.ndarray
_LOSSLESS_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


@dataclass(frozen=True)
class Ranked:
    """One class and its probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: the classes by falling probability."""

    path: str
    top: tuple[Ranked, ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0].label

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
        self.device = pick_device(device)
        loaded, self.card = model if isinstance(model, tuple) else weights.load(model)
        if not self.card.geometry.num_labels:
            raise InputError(
                "This model has no classifier.",
                got="features only, as the recipe knn leaves them",
                expected="a model with classes",
                do="Make one on your images: vitrail finetune WEIGHTS --data SPEC --recipe linear-probe",
            )
        unnamed = tuple(f"class {i}" for i in range(self.card.geometry.num_labels))
        self.labels: tuple[str, ...] = self.card.classes or unnamed
        self.model = loaded.to(self.device).eval()
        self.preprocessing = self.card.preprocessing
        if image_size is not None:
            check_divisible(image_size, self.card.geometry, "image-size")
            self.preprocessing = self.preprocessing.resized(pair(image_size))

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
            found = choose(self.model, size, self.options, num_images=num_images, alone=alone, on_wait=self.on_wait)
            if not batch_size:
                name = f"{found.engine} {found.precision} {found.merge}"
                batch_size = (
                    default_batch_size
                    if not alone
                    else find_batch_size(
                        found.runtime,
                        name,
                        self.model,
                        size,
                        num_images=num_images,
                        default=default_batch_size,
                        on_wait=self.on_wait,
                    )
                )
            self._chosen = replace(found, batch_size=batch_size)
        return self._chosen

    def __call__(self, images: ImageLike | Sequence[ImageLike], *, top: int = 5) -> list[Prediction]:
        """Classify images.

        Args:
            images: paths, PIL images or uint8 arrays [H, W, 3] or [H, W]; one or several.
            top: how many classes to rank.
        Raises:
            ImageError: one of them cannot be read.
        """
        several = [images] if isinstance(images, ImageLike) else list(images)
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
            images: paths, PIL images or uint8 arrays.
            top: how many classes to rank, at most all.
            batch_size: images in one forward pass; 0: measured where there is much to do, else 64.
        """
        batch_size = batch_size or self.chosen(len(images)).batch_size
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(images), batch_size):
                chunk = images[start : start + batch_size]
                decoded = list(pool.map(self._decode, chunk))
                good = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
                ranked = iter(self._classify(np.stack(good), top) if good else ())
                for image, pixels in zip(chunk, decoded, strict=True):
                    yield Prediction(_name(image), next(ranked)) if isinstance(pixels, np.ndarray) else pixels

    def _decode(self, image: ImageLike) -> np.ndarray | ImageError:
        source = Path(image) if isinstance(image, str | Path) else _png(image)
        try:
            return load_image(source, self.preprocessing, name=_name(image))
        except ImageError as error:
            return error

    @torch.inference_mode()
    def _classify(self, pixels: UInt8[np.ndarray, "B C h w"], top: int) -> list[tuple[Ranked, ...]]:
        images = prepare(torch.from_numpy(pixels).to(self.device), self.preprocessing)
        probabilities = self.chosen(len(pixels)).runtime(images).softmax(1)
        if not bool(probabilities.isfinite().all()):
            raise WeightsError("The model answers with numbers that are not finite.", do="Train it again.")
        best = probabilities.topk(min(top, len(self.labels)))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [tuple(Ranked(self.labels[i], value) for i, value in zip(*row, strict=True)) for row in rows]


def _name(image: ImageLike) -> str:
    return str(image) if isinstance(image, str | Path) else type(image).__name__


def _png(image: Image.Image | np.ndarray) -> bytes:
    """Pixels in memory take the same way as a file: through the one decoder."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise InputError(
                "An image array has the wrong form.",
                got=f"{image.dtype} {list(image.shape)}",
                expected="uint8 [H, W], [H, W, 3] or [H, W, 4]",
            )
        image = Image.fromarray(image)
    exif = image.getexif()  # holds the orientation, which the decoder follows
    if image.mode not in _LOSSLESS_PNG_MODES:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0, exif=exif)
    return buffer.getvalue()
