"""A folder for Hugging Face's libraries: transformers (torch), transformers.js and optimum (ONNX).

config.json, preprocessor_config.json and model.safetensors as `vitrail convert --to huggingface` writes them, and
onnx/model.onnx in the tensor form; with another precision its file beside it, under the name that transformers.js looks
for. These libraries have no temperature: the classifier is divided by it, in every file.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from vitrail import fsio
from vitrail.config.checks import pair
from vitrail.errors import WeightsError
from vitrail.exporting.targets.target import Target
from vitrail.model import ViT
from vitrail.predictor import Prediction, Predictor
from vitrail.predictor.exported_file import ExportPrecision
from vitrail.reading import read_json_object
from vitrail.weights import Card
from vitrail.weights.preprocess import from_huggingface
from vitrail.weights.writer import write

_MOST = 64
"""Images that are prepared in both ways."""
_FILES: dict[ExportPrecision, tuple[str, str]] = {
    "fp32": ("model.onnx", "fp32"),
    "fp16": ("model_fp16.onnx", "fp16"),
    "int8": ("model_quantized.onnx", "q8"),
}
"""Name and dtype of transformers.js (src/utils/dtypes.js)."""


class HuggingFace(Target):
    """As Target; `precision` is what transformers.js takes when it is not told otherwise."""

    suffix, is_folder = "-hf", True
    forms = ("tensor",)

    @staticmethod
    def fitted(model: ViT, card: Card) -> tuple[ViT, Card]:
        _check_fits(card)
        return without_temperature(model, card)

    @property
    def included(self) -> tuple[ExportPrecision, ...]:
        return ("fp32",) if self.precision == "fp32" else ("fp32", self.precision)

    def begin(self, stage: Path) -> list[str]:
        notes = write(stage, self.model, self.card, "huggingface").lost
        config = read_json_object(stage / "config.json")
        config["transformers.js_config"] = {"dtype": _FILES[self.precision][1]}
        fsio.write_json(stage / "config.json", config)
        notes.append("transformers.js resizes without antialiasing: give it images of the model's size")
        if self.card.is_yes_or_no:
            notes.append("the pipeline of transformers.js takes a softmax of the logits: read `probabilities` instead")
        if self.card.calibration and self.card.calibration.unknown:
            notes.append('these libraries have no "unknown": every image gets a class')
        return notes

    def remarks(self, stage: Path, reference: Predictor, encoded: Sequence[bytes]) -> list[str]:
        config, said = (read_json_object(stage / name) for name in ("config.json", "preprocessor_config.json"))
        own = self.card.preprocessing
        theirs, _ = from_huggingface(said, config, own.image_size)
        if replace(theirs, icc=own.icc, fast_decoding=own.fast_decoding) == own:
            return []
        card = replace(self.card, preprocessing=theirs)
        prepared = Predictor((self.model, card), device="cpu", options=reference.options)
        pairs = [
            (ours.top[0].label, other.top[0].label)
            for ours, other in zip(*(one.stream(encoded[:_MOST], top=1) for one in (reference, prepared)), strict=True)
            if isinstance(ours, Prediction) and isinstance(other, Prediction)
        ]
        same = sum(ours == other for ours, other in pairs)
        return [f"prepared as transformers prepares them, {same} of {len(pairs)} images get the same label"]

    def path(self, stage: Path, precision: ExportPrecision) -> Path:
        return stage / "onnx" / _FILES[precision][0]


def without_temperature(model: ViT, card: Card) -> tuple[ViT, Card]:
    """A model whose logits are divided by the temperature already: the same probabilities at temperature 1."""
    temperature = card.calibration.temperature if card.calibration else 1.0
    if temperature == 1 or card.calibration is None:
        return model, card
    divided = copy.copy(model)
    divided._modules = dict(model._modules)
    for name in ("head", "head_dist"):
        if isinstance(layer := model._modules.get(name), nn.Linear):
            new = nn.Linear(layer.in_features, layer.out_features)
            with torch.no_grad():
                new.weight.copy_(layer.weight / temperature)
                new.bias.copy_(layer.bias / temperature)
            divided._modules[name] = new
    return divided.eval(), replace(card, calibration=replace(card.calibration, temperature=1.0))


def _check_fits(card: Card) -> None:
    """Raise WeightsError for a preprocessing that these libraries cannot say."""
    size, preprocessing = pair(card.geometry.image_size), card.preprocessing
    for fits, got in (
        (preprocessing.image_size == size, f"{preprocessing.image_size}, of a model for {size}"),
        (preprocessing.channels == "RGB", "grey images; their processors give three channels"),
    ):
        if not fits:
            raise WeightsError(
                "Hugging Face's libraries cannot prepare images for this model.", got=got, do="Use --to onnx."
            )
