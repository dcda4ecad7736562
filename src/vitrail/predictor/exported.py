"""An exported file ready to classify images, in ONNX Runtime; torch need not be installed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vitrail.errors import ConfigError, ImageError, WeightsError, install_hint, shown
from vitrail.predictor.answers import Answer, Outputs, Prediction, ranked
from vitrail.predictor.exported_file import ExportedFile, read_exported
from vitrail.predictor.image_like import ImageLike, decode, listed
from vitrail.predictor.stream import all_of, answer_stream
from vitrail.predictor.views import Views, check_views, mean_over_mirror
from vitrail.runtime.cores import available_cores
from vitrail.runtime.integers import session
from vitrail.runtime.pixels import normalised

_BATCH_SIZE = 8
"""On a CPU larger ones are no faster."""


class ExportedPredictor:
    """A file written by `vitrail export --to onnx`, ready to classify images on the CPU.

    Its `batch_size` says how many images it takes at a time: one of int8, whose answers then depend on nothing else.

    Args:
        path: of the file.
        threads: that compute; 0: one a core that this process may use.
        spins: threads wait for their next piece of work by asking for it again and again: a little faster where nothing
            else wants the cores, much slower where something does.
    Raises:
        WeightsError: the file cannot be read, is damaged, or was not written by `vitrail export`.
        ConfigError: ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path, *, threads: int = 0, spins: bool = True) -> None:
        self.description = read_exported(path)[1]  # its bytes are let go before ONNX Runtime reads them anew
        self.name = str(path)
        self.labels = self.description.labels
        self.preprocessing = self.description.preprocessing
        # int8 rounds the numbers of a batch together, so an answer would depend on the images beside it.
        self.batch_size = 1 if self.description.precision == "int8" else _BATCH_SIZE
        self._session = _opened(Path(path), self.name, threads or available_cores(), spins)
        _check_fits(self._session, self.description, self.name)

    @property
    def note(self) -> str | None:
        """What has to be known about the file before its answers are trusted; None: nothing."""
        parity = self.description.parity
        if parity is None:
            return "this file was never compared with the model it was made of"
        return None if parity.get("passed") else "this file differs from the model it was made of: it was forced"

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
            batch_size: images in one forward pass; 0: `batch_size`.
            views: as of a call.
        """
        check_views(views)
        return answer_stream(
            images,
            self.decode,
            lambda pixels: self.ranked(self.outputs(pixels, views), top),
            batch_size or self.batch_size,
            overlaps=False,
        )

    def decode(self, image: ImageLike) -> UInt8[np.ndarray, "C h w"]:
        """The pixels of an image as `outputs` takes them, the same whether torch is installed or not.

        Raises:
            ImageError: it cannot be read.
            InputError: it is nothing of this kind.
        """
        return decode(image, self.preprocessing, with_torch=False)

    def outputs(self, pixels: UInt8[np.ndarray, "B C h w"], views: Views = "single") -> Outputs:
        """What the graph gives for images as they are decoded.

        Args:
            pixels: at the decode size of the preprocessing.
            views: mirror: the mean over each image and its mirror image.
        Raises:
            WeightsError: the outputs are not finite.
        """
        if views == "mirror":
            told = self.description
            return mean_over_mirror(self.outputs, pixels, temperature=told.temperature, is_yes_or_no=told.is_yes_or_no)
        if self.description.form == "image":
            batch = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        else:
            batch = normalised(pixels, self.preprocessing)
        found = self._session.run(list(self.description.outputs), {self.description.input.name: batch})
        named = dict(zip(self.description.outputs, found, strict=True))
        if not all(np.isfinite(values).all() for values in found):
            raise WeightsError(f"{shown(self.name)}: its outputs are not finite.", do="Train the model again.")
        return Outputs(named["probabilities"], named["logits"], named.get("distances"))

    def ranked(self, outputs: Outputs, top: int = 5) -> list[Answer]:
        """The classes of each image by falling probability, and whether it is like none of them."""
        return ranked(outputs, self.labels, top, self.description.unknown)


def _opened(file: Path, name: str, threads: int, spins: bool) -> Any:
    """ONNX Runtime on a file. Raises WeightsError, ConfigError."""
    try:
        return session(str(file), (("session.intra_op.allow_spinning", str(int(spins))),), threads)
    except ModuleNotFoundError as error:
        raise ConfigError("ONNX Runtime is not installed.", do=install_hint("onnxruntime")) from error
    except Exception as error:  # ONNX Runtime raises errors of its own, each of another class
        raise WeightsError(f"{shown(name)}: ONNX Runtime cannot open it.", got=error) from error


def _check_fits(opened: Any, description: ExportedFile, name: str) -> None:
    """Raise WeightsError where the graph is not as the file says."""
    graph = [(one.name, one.type, list(one.shape)[1:]) for one in opened.get_inputs()]
    size, channels = list(description.input.size), description.preprocessing.num_channels
    is_image = description.form == "image"
    shape = [*size, channels] if is_image else [channels, *size]
    expected = [(description.input.name, "tensor(uint8)" if is_image else "tensor(float)", shape)]
    outputs = {one.name: list(one.shape)[1:] for one in opened.get_outputs()}
    wide = {"probabilities": [description.num_labels], "logits": [description.num_labels]}
    says = {one: wide.get(one, []) for one in description.outputs}
    if graph != expected or outputs != says or not wide.keys() <= says.keys():
        raise WeightsError(
            f"{shown(name)}: its graph is not as its description says.",
            got=f"{graph} to {outputs}",
            expected=f"{expected} to {says}",
        )
