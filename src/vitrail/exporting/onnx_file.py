"""What an exported ONNX file says of itself, beside its graph: written here, read by `predictor.exported_file`."""

import json
from typing import Any

from vitrail.config import to_json
from vitrail.config.checks import pair
from vitrail.errors import ConfigError
from vitrail.exporting.onnx_graph import graph_bytes
from vitrail.model import ViT
from vitrail.predictor.exported_file import (
    FORMAT_VERSION,
    KEY,
    PIXELS,
    ExportedFile,
    ExportPrecision,
    Form,
    GraphInput,
)
from vitrail.run.environment import versions_of
from vitrail.runtime.graph import OPSET
from vitrail.runtime.onnx_file import MOST_METADATA_BYTES, encoded_metadata, read_onnx
from vitrail.tensor_file import tensors_sha256
from vitrail.weights import Card

_VALUES = {
    "image": "sRGB, 0 to 255, as vitrail decodes it: upright, at the size that the input has",
    "tensor": "pixels / 255, minus mean, divided by std",
}
_TOLD = ("source", "kind", "family", "commit", "data")
"""What of a model's provenance is told: nothing that names a place or a person."""


def describe(
    model: ViT,
    card: Card,
    *,
    form: Form,
    precision: ExportPrecision,
    merge: int,
    opset: int,
    graph_sha256: str,
) -> ExportedFile:
    """What a graph of `graph_bytes`, or a program of another library, is before it was compared with anything."""
    preprocessing, calibration, geometry = card.preprocessing, card.calibration, card.geometry
    unknown = calibration.unknown if calibration and model.mahalanobis else None
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    names = ["probabilities", "logits"] if form == "image" else ["logits", "probabilities"]
    return ExportedFile(
        producer=f"vitrail {_version()}",
        form=form,
        input=GraphInput(
            name=PIXELS[form],
            dtype="uint8" if form == "image" else "float32",
            layout="NHWC" if form == "image" else "NCHW",
            size=preprocessing.decode_size if form == "image" else preprocessing.image_size,
            channels=preprocessing.channels,
            values=_VALUES[form],
        ),
        outputs=(*names, *(["distances"] if unknown else [])),
        precision=precision,
        merge=merge,
        opset=opset,
        classes=card.classes,
        num_labels=geometry.num_labels,
        problem_type=card.problem_type,
        temperature=calibration.temperature if calibration else 1.0,
        unknown=unknown,
        preprocessing=preprocessing,
        geometry={
            "image_size": list(pair(geometry.image_size)),
            "patch_size": list(pair(geometry.patch_size)),
            "hidden_size": geometry.hidden_size,
            "num_hidden_layers": geometry.num_hidden_layers,
            "num_attention_heads": geometry.num_attention_heads,
            "pooling": geometry.pooling,
        },
        metrics=card.metrics,
        provenance={
            **{name: card.provenance[name] for name in _TOLD if name in card.provenance},
            "weights_sha256": tensors_sha256(tensors),
        },
        graph_sha256=graph_sha256,
    )


def description_json(description: ExportedFile) -> dict[str, Any]:
    """A description as JSON values, as `predictor.exported_file.read_description` reads it."""
    return {"format_version": FORMAT_VERSION, **to_json(description)}


def metadata(description: ExportedFile) -> bytes:
    """What is appended to the graph: our description, and what other libraries read.

    Source: names, task, imgsz, stride, batch, channels as ultralytics writes them; Image.* of the ONNX documentation,
    "Model Metadata".
    Raises:
        ConfigError: more than a mebibyte, of very many or very long names of classes.
    """
    height, width = description.input.size
    texts = {
        KEY: json.dumps(description_json(description), ensure_ascii=False, allow_nan=False),
        "names": repr(dict(enumerate(description.labels))),
        "task": "classify",
        "imgsz": repr([height, width]),
        "stride": str(max(description.geometry["patch_size"])),
        "batch": "1",
        "channels": str(description.preprocessing.num_channels),
        "description": "A Vision Transformer for classifying images",
        "author": "unknown",
        "license": "unknown",
        "version": _version(),
    }
    if description.form == "image":
        texts["Image.BitmapPixelFormat"] = "Rgb8" if description.preprocessing.channels == "RGB" else "Gray8"
        texts["Image.ColorSpaceGamma"] = "SRGB"
        texts["Image.NominalPixelRange"] = "NominalRange_0_255"
    encoded = encoded_metadata(texts)
    if len(encoded) > MOST_METADATA_BYTES:
        raise ConfigError(
            "The names of the classes are too long for an exported file.",
            got=f"{len(encoded)} bytes",
            expected=f"at most {MOST_METADATA_BYTES}",
        )
    return encoded


def _version() -> str:
    return versions_of(["vitrail"])["vitrail"] or "unknown"


def built(
    model: ViT, card: Card, *, form: Form, precision: ExportPrecision, merge: int, opset: int = OPSET
) -> tuple[bytes, ExportedFile]:
    """A graph and what it is. Raises ConfigError: more than 2 GB of weights."""
    asked: dict[str, Any] = {"form": form, "precision": precision, "merge": merge, "opset": opset}
    graph = graph_bytes(model, card, **asked)
    checksum = read_onnx(graph, "the new graph").graph_sha256
    return graph, describe(model, card, **asked, graph_sha256=checksum)
