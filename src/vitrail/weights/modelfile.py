"""The model file: safetensors whose metadata says everything needed to use the weights.

In: a `ViT` and a `Card`. Out: one file with weights, geometry, class names, preprocessing, recipe, metrics and
provenance. Its layout is described in docs/model-file.md. Nothing in it is ever executed.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from vitrail import fsio
from vitrail.config import ViTConfig, to_json
from vitrail.errors import ConfigError, WeightsError
from vitrail.model import ViT, fixed_positions
from vitrail.tensor_file import tensor_file, tensors_sha256
from vitrail.weights.card import FORMAT_VERSION, UNKNOWN_TENSORS, Card, model_path, read_card
from vitrail.weights.mahalanobis import Mahalanobis

_UNKNOWN = ("whiten", "means")
_FRACTIONS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def save(path: str | Path, model: ViT, card: Card) -> None:
    """Write a self-describing model file, atomically.

    Raises:
        SaveError: it cannot be written; what stood there before is intact.
        ConfigError: the card describes another geometry than the model has.
    """
    if card.geometry != model.config:
        raise ConfigError("The card describes another model.", got=card.geometry, expected=model.config)
    described: dict[str, Any] = {"format_version": FORMAT_VERSION}
    for part in dataclasses.fields(card):
        value = getattr(card, part.name)
        if value is not None:
            described[part.name] = to_json(value) if dataclasses.is_dataclass(value) else value
    named = {**model.state_dict(), **_unknown_tensors(model, card)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    metadata = {"format": "pt", "vitrail": json.dumps(described, allow_nan=False)}
    pieces = tensor_file(tensors, metadata)
    with fsio.writing(Path(path), needed_bytes=sum(memoryview(piece).nbytes for piece in pieces)) as file:
        for piece in pieces:
            file.write(piece)


def load(source: str | Path, *, device: torch.device | str = "cpu") -> tuple[ViT, Card]:
    """Read a model file, or the best model of a run directory.

    Returns:
        The model in evaluation mode, and its card.
    Raises:
        WeightsError: there is no such file, it is damaged, not a vitrail file, or from a newer version.
    """
    path = model_path(source)
    card = read_card(path)
    tensors = safetensors.torch.load_file(path)
    expected = {**empty_model(card.geometry).state_dict(), **_expected_unknown(card, tensors)}
    for name in sorted(expected.keys() | tensors.keys()):
        got, want = (
            f"{tuple(t[name].shape)} {_sort_of(t[name])}" if name in t else "nothing" for t in (tensors, expected)
        )
        if got != want:
            raise WeightsError(f"{path}: tensor {name} does not fit the geometry in the file.", got=got, expected=want)
    with safetensors.safe_open(path, "pt") as file:
        written = (file.metadata() or {}).get("sha256")
    if written is not None and written != tensors_sha256(tensors):  # files of version 1 and 2 may have none
        raise WeightsError(
            f"{path}: damaged.",
            got="another SHA-256 of the weights than was written",
            expected=written[:16],
            do="Take the file from its source again.",
        )
    beside = {name: tensors.pop(name) for name in list(tensors) if name.startswith(UNKNOWN_TENSORS)}
    model = build_model(card.geometry, tensors, device)
    if beside:
        model.mahalanobis = Mahalanobis(*(beside[UNKNOWN_TENSORS + name] for name in _UNKNOWN))
    return model, card


def _unknown_tensors(model: ViT, card: Card) -> dict[str, torch.Tensor]:
    """What the distance to the classes is computed with, where the card says when an image is unknown."""
    found = model.mahalanobis if card.calibration and card.calibration.unknown else None
    return {UNKNOWN_TENSORS + name: getattr(found, name) for name in _UNKNOWN} if found else {}


def _expected_unknown(card: Card, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the shapes that `_unknown_tensors` gives for a card."""
    geometry, num_classes = card.geometry, len(tensors.get(UNKNOWN_TENSORS + "means", ()))
    if not card.calibration or not card.calibration.unknown:
        return {}
    width = geometry.hidden_size * (2 if geometry.pooling == "cls_mean" else 1)
    whiten = (width,) * min(2, max(1, tensors.get(UNKNOWN_TENSORS + "whiten", torch.empty(0)).ndim))
    shapes = {"whiten": whiten, "means": (min(max(1, num_classes), geometry.num_labels), width)}
    return {UNKNOWN_TENSORS + name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _sort_of(tensor: torch.Tensor) -> str:
    """Its type, where one may not stand for the other: weights may be stored with fewer or more bits."""
    return "of fractions" if tensor.dtype in _FRACTIONS else f"of {tensor.dtype}".replace("torch.", "")


def empty_model(geometry: ViTConfig, kind: type[ViT] = ViT) -> ViT:
    """A model without memory, for the names and shapes of its tensors."""
    with torch.device("meta"):
        return kind(geometry)


def num_parameters(geometry: ViTConfig) -> int:
    """Trained numbers of a model of this geometry."""
    return sum(parameter.numel() for parameter in empty_model(geometry).parameters())


def build_model(
    geometry: ViTConfig, tensors: dict[str, torch.Tensor], device: torch.device | str, kind: type[ViT] = ViT
) -> ViT:
    """A model with these weights, in fp32 and evaluation mode; nothing is initialised, no random number is drawn."""
    model = empty_model(geometry, kind)
    fixed = geometry.position == "sincos"
    values = {n: t.to(device, torch.float32 if t.is_floating_point() else t.dtype) for n, t in tensors.items()}
    model.load_state_dict(values, assign=True)
    if fixed:
        model.pos_embed = fixed_positions(geometry).to(device)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()
