"""What runs exported models that are no ONNX files, for the comparison with the model. torch for its own kind alone."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vitrail.predictor.answers import Outputs
from vitrail.predictor.exported_file import KEY, ExportedFile, read_description
from vitrail.predictor.image_like import ImageLike, decode
from vitrail.runtime.cores import available_cores
from vitrail.runtime.libraries import openvino
from vitrail.runtime.pixels import normalised


class _Reader:
    """Decodes as every exported file is meant to be decoded."""

    batch_size = 8
    description: ExportedFile

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.description.labels

    def decode(self, image: ImageLike) -> UInt8[np.ndarray, "C h w"]:
        return decode(image, self.description.preprocessing, with_torch=False)

    def _batch(self, pixels: UInt8[np.ndarray, "B C h w"]) -> np.ndarray:
        if self.description.form == "image":
            return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        return normalised(pixels, self.description.preprocessing)


class OpenVinoReader(_Reader):
    """The two files of OpenVINO, on the CPU.

    Args:
        path: of NAME.xml; NAME.bin lies beside it.
    """

    def __init__(self, path: str | Path) -> None:
        core = openvino().Core()
        network = core.read_model(path)
        self.description = read_description(network.get_rt_info([KEY]).astype(str), str(path))
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": available_cores()}
        self._compiled = core.compile_model(network, "CPU", settings)

    def outputs(self, pixels: UInt8[np.ndarray, "B C h w"]) -> Outputs:
        found = self._compiled({self.description.input.name: self._batch(pixels)})
        named = {name: np.array(found[name]) for name in self.description.outputs}
        return Outputs(named["probabilities"], named["logits"], named.get("distances"))


class ProgramReader(_Reader):
    """A program of torch. Only for files that this very process' parent wrote: torch.load of a stranger's is unsafe."""

    def __init__(self, path: str | Path) -> None:
        import torch

        from vitrail.exporting.targets.torch_program import DESCRIPTION

        beside = {DESCRIPTION: ""}
        self._program: Any = torch.export.load(path, extra_files=beside).module()
        self.description = read_description(beside[DESCRIPTION], str(path))

    def outputs(self, pixels: UInt8[np.ndarray, "B C h w"]) -> Outputs:
        import torch

        with torch.inference_mode():
            found = self._program(torch.from_numpy(self._batch(pixels)))
        named = {name: found[name].numpy() for name in self.description.outputs}
        return Outputs(named["probabilities"], named["logits"], named.get("distances"))
