"""A model that a framework sends to its workers: arrays of images in, arrays of answers out.

With an exported file it needs no torch. Rows are computed in batches of one shape, the last one filled up, so that an
answer does not depend on how many images came with it.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8

from vitrail.config import Preprocessing, to_json
from vitrail.errors import ConfigError, ImageError, InputError, WeightsError, shown
from vitrail.predictor.answers import Outputs, Prediction, ranked
from vitrail.predictor.exported import ExportedPredictor
from vitrail.predictor.exported_file import is_exported
from vitrail.predictor.image_like import ImageLike, decode
from vitrail.predictor.views import Views, check_views
from vitrail.runtime.cores import available_cores
from vitrail.weights.calibration import Unknown

What = Literal["labels", "probabilities", "embedding"]
Answers = dict[str, np.ndarray]
"""Columns of equal length; "error" says why an image could not be read, "" where it could."""
Pixels = UInt8[np.ndarray, "C h w"]
IMAGE_COLUMNS = ("bytes", "image", "path")
_CPU_BATCH, _GPU_BATCH = 32, 256


@dataclass(frozen=True)
class _Ready:
    """A loaded model.

    Args:
        preprocessing: from an image to the pixels that it takes.
        with_torch: whether pixels may be resized with it.
        answers: of a batch of them.
        about: what the answers depend on, but for the images; JSON.
    """

    preprocessing: Preprocessing
    with_torch: bool
    answers: Callable[[UInt8[np.ndarray, "B C h w"]], Answers]
    batch_size: int
    about: dict[str, Any]


class BatchPredictor:
    """A model for frameworks that call a function on batches: Ray Data, Spark, `datasets`, and `vitrail predict -o`.

    It can be sent to another process; what was loaded stays behind, and is loaded there at its first use.

    Args:
        model: a run directory, a model file, other weights that `vitrail.load` reads, or a file that `export` wrote.
        what: labels: class and probability; probabilities: those of all classes, too; embedding: float16 features.
        top: how many classes to rank.
        views: mirror: the mean over each image and its mirror image, for twice the time; not of embeddings.
        engine: auto: torch on a GPU, ONNX Runtime on a CPU, so that every worker takes the same one.
        precision: fp32; tf32, bf16, fp16, int8: faster, not exact.
        merge: tokens fewer after each layer.
        image_size: another input side in pixels, or (height, width); None: the model's own.
        device: auto, cpu, cuda, ...
        batch_size: images in one forward pass; 0: 32 on a CPU, 256 on a GPU. int8 takes one at a time.
        threads: that decode in a call; 0: one a core that this process may use.
    Raises:
        ConfigError: a wrong value, or options that do not go with an exported file. What is wrong with the model is
            raised when it is first used.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        what: What = "labels",
        top: int = 1,
        views: Views = "single",
        engine: str = "auto",
        precision: str = "fp32",
        merge: int = 0,
        image_size: int | tuple[int, int] | None = None,
        device: str = "auto",
        batch_size: int = 0,
        threads: int = 0,
        on_wait: Callable[[str], object] | None = None,
    ) -> None:
        if what not in get_args(What):
            raise ConfigError("--what has a wrong value.", got=what, expected=", ".join(get_args(What)))
        if top < 1 or batch_size < 0:
            got = f"top {top}, batch size {batch_size}"
            raise ConfigError("A number makes no sense.", got=got, expected="top >= 1, batch size >= 0")
        check_views(views)
        if what == "embedding" and views != "single":
            got = f"--views {views} with --what embedding"
            raise ConfigError(
                "Views are averaged for answers, not for embeddings.", got=got, do="Leave one of them out."
            )
        self.model, self.what, self.top, self.engine, self.precision = str(model), what, top, engine, precision
        self.views: Views = views
        self.merge, self.image_size, self.device = merge, image_size, device
        self.batch_size, self.threads, self._on_wait = batch_size, threads, on_wait
        if is_exported(model):
            _check_settled(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "loaded"} | {"_on_wait": None}

    @cached_property
    def loaded(self) -> _Ready:
        """The model. Raises WeightsError, ConfigError, InputError: as `Predictor`."""
        if is_exported(self.model):
            return _exported(self)
        return _embedding(self) if self.what == "embedding" else _live(self)

    def __call__(self, batch: Mapping[str, Sequence[Any] | np.ndarray]) -> dict[str, Any]:
        """Answer for a batch.

        Args:
            batch: columns of equal length. Images are taken from the first of "bytes", "image", "path" that is there,
                each in a form of `ImageLike`, or as the Hub's struct {bytes, path}.
        Returns:
            The other columns as they were, and: `label`, `score` (and `label_2`, ... up to `top`); `probabilities`
            [N, L]; or `embedding` [N, D]; and `error`, "" or why an image could not be read: its labels are "" and its
            numbers NaN then.
        Raises:
            InputError: there is no such column, or one image in place of a column.
        """
        name = next((name for name in IMAGE_COLUMNS if name in batch), None)
        if name is None:
            raise InputError(
                "A batch has no images.", got=f"columns {', '.join(batch) or 'none'}", expected=", ".join(IMAGE_COLUMNS)
            )
        column = batch[name]
        if isinstance(column, (str, bytes, os.PathLike)) or not hasattr(column, "__len__"):
            kind = type(column).__name__
            got = f"{kind} {shown(column)}" if isinstance(column, (str, os.PathLike)) else kind
            raise InputError(f"The column {name} is no column.", got=got, expected="a list or an array of images")
        images = [_image_of(value) for value in column]
        with ThreadPoolExecutor(self.threads or available_cores()) as pool:
            decoded = list(pool.map(self.decode, images))
        others = {column: values for column, values in batch.items() if column not in ("bytes", "image")}
        return {**others, **self.answers(decoded)}

    def decode(self, image: ImageLike) -> Pixels | ImageError:
        """The pixels of an image as `answers` takes them, or why it cannot be read."""
        try:
            return decode(image, self.loaded.preprocessing, with_torch=self.loaded.with_torch)
        except ImageError as error:
            return error

    def answers(self, decoded: Sequence[Pixels | ImageError]) -> Answers:
        """The answers for images that `decode` gave, any number of them."""
        size = self.loaded.batch_size
        parts = [self._padded(decoded[start : start + size]) for start in range(0, max(len(decoded), 1), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _padded(self, decoded: Sequence[Pixels | ImageError]) -> Answers:
        """The answers for at most a batch, in a batch of the usual shape; black images fill it up."""
        ready = self.loaded
        shape = (ready.batch_size, ready.preprocessing.num_channels, *ready.preprocessing.decode_size)
        pixels, is_bad = np.zeros(shape, np.uint8), np.zeros(len(decoded), bool)
        for place, one in enumerate(decoded):
            if isinstance(one, ImageError):
                is_bad[place] = True
            else:
                pixels[place] = one
        found = {name: values[: len(decoded)] for name, values in ready.answers(pixels).items()}
        for values in found.values():
            if is_bad.any():
                values[is_bad] = "" if values.dtype.kind == "O" else np.nan
        reasons = [one.reason if isinstance(one, ImageError) else "" for one in decoded]
        return {**found, "error": np.array(reasons, object)}


def _image_of(value: Any) -> ImageLike:
    """An image of a column, also where it is the Hub's struct of bytes and path, or nothing."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    return b"" if value is None else value


def _check_settled(asked: BatchPredictor) -> None:
    """Raise ConfigError for what an exported file has settled."""
    wrong = {
        "--what embedding": asked.what == "embedding",
        "--engine": asked.engine not in ("auto", "onnx"),
        "--device": asked.device not in ("auto", "cpu"),
        "--precision": asked.precision != "fp32",
        "--merge": bool(asked.merge),
        "--image-size": asked.image_size is not None,
    }
    if given := [name for name, is_asked in wrong.items() if is_asked]:
        raise ConfigError(
            f"{given[0]} cannot be given with an exported file: it was settled when the file was written.",
            do="Give the model that it was made of." if asked.what == "embedding" else "Leave it out.",
        )


def _exported(asked: BatchPredictor) -> _Ready:
    predictor = ExportedPredictor(asked.model)
    told = predictor.description
    # int8 rounds the numbers of a batch together, so it gets one image at a time.
    size = 1 if told.precision == "int8" else asked.batch_size or _CPU_BATCH
    about = {
        "model_sha256": told.graph_sha256,
        "engine": "onnx",
        "precision": told.precision,
        "merge": told.merge,
        "device": "cpu",
        "temperature": told.temperature,
        **_common(asked, predictor.preprocessing, size, predictor.labels, told.unknown),
    }
    return _Ready(
        predictor.preprocessing,
        False,
        lambda pixels: _columns(predictor.outputs(pixels, asked.views), predictor.labels, asked, told.unknown),
        size,
        about,
    )


def _live(asked: BatchPredictor) -> _Ready:
    from vitrail.predictor.live import Predictor

    options = _options(asked)
    predictor = Predictor(
        asked.model,
        device=asked.device,
        image_size=asked.image_size,
        options=options,
        on_wait=asked._on_wait or (lambda _: None),
    )
    size = _batch_size(asked, options.precision, predictor.device.type)
    chosen = predictor.chosen(0, batch_size=size)
    about = {
        **_of_torch(predictor.model, chosen, predictor.device.type),
        "temperature": predictor.temperature,
        **_common(asked, predictor.preprocessing, size, predictor.labels, predictor.unknown),
    }
    return _Ready(
        predictor.preprocessing,
        True,
        lambda pixels: _columns(predictor.outputs(pixels, asked.views), predictor.labels, asked, predictor.unknown),
        size,
        about,
    )


def _embedding(asked: BatchPredictor) -> _Ready:
    from vitrail.predictor.embedding import Embedder

    options = _options(asked)
    embed = Embedder(
        asked.model,
        device=asked.device,
        image_size=asked.image_size,
        options=options,
        on_wait=asked._on_wait or (lambda _: None),
    )
    size = _batch_size(asked, options.precision, embed.device.type)

    def answers(pixels: UInt8[np.ndarray, "B C h w"]) -> Answers:
        with np.errstate(over="ignore"):
            found = embed(pixels).astype(np.float16)
        if not np.isfinite(found).all():
            raise WeightsError("An embedding is larger than float16 can hold.", expected="numbers up to 65504")
        return {"embedding": found}

    about = _of_torch(embed.model, embed.chosen, embed.device.type)
    return _Ready(embed.preprocessing, True, answers, size, about | _common(asked, embed.preprocessing, size, (), None))


def _options(asked: BatchPredictor) -> Any:
    """What runs the model. Left to itself it is not measured: workers that measure may differ."""
    from vitrail.runtime import EngineOptions
    from vitrail.runtime.device import pick_device
    from vitrail.runtime.engines import missing

    engine: Any = asked.engine
    on_cpu = pick_device(asked.device).type == "cpu"
    if engine == "auto" and asked.precision in ("fp32", "int8"):
        engine = "onnx" if on_cpu and not missing("onnx") else "torch" if asked.precision == "fp32" else "auto"
    precision: Any = asked.precision
    return EngineOptions(engine=engine, precision=precision, merge=asked.merge)


def _batch_size(asked: BatchPredictor, precision: str, device: str) -> int:
    # int8 rounds the numbers of a batch together, so it gets one image at a time.
    return 1 if precision == "int8" else asked.batch_size or (_CPU_BATCH if device == "cpu" else _GPU_BATCH)


def _of_torch(model: Any, chosen: Any, device: str) -> dict[str, Any]:
    from vitrail.tensor_file import tensors_sha256

    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return {
        "model_sha256": tensors_sha256(tensors),
        "engine": chosen.engine,
        "precision": chosen.precision,
        "merge": chosen.merge,
        "device": device,
    }


def _common(
    asked: BatchPredictor, preprocessing: Preprocessing, size: int, labels: Sequence[str], unknown: Unknown | None
) -> dict[str, Any]:
    return {
        "batch_size": size,
        "preprocessing": to_json(preprocessing),
        "what": asked.what,
        "top": asked.top,
        "classes": list(labels),
        "unknown": unknown and asdict(unknown),
        **({} if asked.views == "single" else {"views": asked.views}),  # jobs that were begun without it go on
    }


def _columns(outputs: Outputs, labels: Sequence[str], asked: BatchPredictor, unknown: Unknown | None) -> Answers:
    """The answers for a batch as columns."""
    predictions = [Prediction("", *answer) for answer in ranked(outputs, labels, asked.top, unknown)]
    found: Answers = dict(_ranks(predictions, min(asked.top, len(labels))))
    if outputs.distances is not None:
        found["distance"] = outputs.distances.astype(np.float32)
    if asked.what == "probabilities":
        found["probabilities"] = outputs.probabilities.astype(np.float32)
    return found


def _ranks(predictions: Sequence[Prediction], top: int) -> Iterator[tuple[str, np.ndarray]]:
    for rank in range(top):
        end = f"_{rank + 1}" if rank else ""
        names = [one.top[rank].label if rank else one.label for one in predictions]
        yield f"label{end}", np.array(names, object)
        yield f"score{end}", np.array([one.top[rank].probability for one in predictions], np.float32)
