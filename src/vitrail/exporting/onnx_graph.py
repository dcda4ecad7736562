"""A model and what turns its numbers into an answer -> the bytes of an ONNX graph.

Before the ViT: the pixels as they are decoded, normalised and resized to the model's size. Behind it: the temperature,
the softmax, and the distance to the classes where the model can answer "unknown".
"""

import numpy as np
import torch
from onnx import TensorProto

from vitrail.model import ViT
from vitrail.predictor.exported_file import ExportPrecision, Form
from vitrail.runtime.graph import OPSET, Graph, add_vit
from vitrail.runtime.pixels import resize_matrix, scale_and_shift
from vitrail.weights import Card
from vitrail.weights.mahalanobis import Mahalanobis, with_features

LARGEST_CODE = 64
"""Largest weight of int8: nobody knows which processor will open the file, and with which settings."""


def graph_bytes(
    model: ViT, card: Card, *, form: Form, precision: ExportPrecision, merge: int, opset: int = OPSET
) -> bytes:
    """The graph of an exported file, without its description: the same bytes every time.

    Args:
        form: image: `image` uint8 [batch, h, w, C] at the decode size; tensor: `pixel_values` fp32 [batch, C, H, W],
            normalised.
        precision: of the products with weights; softmax, norms and attention scores are fp32 always.
        merge: tokens fewer after each layer.
        opset: version of the operators, 17 or 20.
    Raises:
        ConfigError: more than 2 GB of weights.
    """
    graph, preprocessing = Graph(precision, largest_code=LARGEST_CODE, opset=opset), card.preprocessing
    found = model.mahalanobis if card.calibration and card.calibration.unknown else None
    channels, num_labels = preprocessing.num_channels, card.geometry.num_labels
    if form == "image":
        inputs = {"image": (TensorProto.UINT8, ["batch", *preprocessing.decode_size, channels])}
        images = _prepared(graph, card)
    else:
        inputs = {"pixel_values": (TensorProto.FLOAT, ["batch", channels, *preprocessing.image_size])}
        images = "pixel_values"
    x = add_vit(graph, with_features(model, found) if found else model, preprocessing.image_size, images, merge)
    logits = graph.slice(x, 0, num_labels, 1) if found else x
    temperature = card.calibration.temperature if card.calibration else 1.0
    scaled = logits if temperature == 1 else graph.node("Div", logits, graph.number(temperature))
    probabilities = graph.node("Sigmoid", scaled) if card.is_yes_or_no else graph.node("Softmax", scaled, axis=-1)
    outputs = {"probabilities": (probabilities, ["batch", num_labels]), "logits": (logits, ["batch", num_labels])}
    if form == "tensor":  # readers of other libraries take the first
        outputs = dict(reversed(outputs.items()))
    if found:
        outputs["distances"] = (_distances(graph, graph.after(x, num_labels, 1), found), ["batch"])
    return graph.file(inputs, outputs)


def _prepared(graph: Graph, card: Card) -> str:
    """uint8 [B, h, w, C] to the input of the ViT [B, C, H, W]: `augment.prepare`, node by node."""
    preprocessing = card.preprocessing
    x = graph.node("Cast", graph.node("Transpose", "image", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    scale, shift = scale_and_shift(preprocessing)
    x = graph.node("Add", graph.node("Mul", x, graph.constant(scale)), graph.constant(shift))
    if preprocessing.decode_size == preprocessing.image_size:
        return x
    rows, columns = (
        resize_matrix(*sizes) for sizes in zip(preprocessing.decode_size, preprocessing.image_size, strict=True)
    )
    x = graph.node("MatMul", graph.constant(rows), x)
    return graph.node("MatMul", x, graph.constant(np.ascontiguousarray(columns.T)))


def _distances(graph: Graph, whitened: str, found: Mahalanobis) -> str:
    """Distance [B] of whitened features [B, D] to the nearest class mean, from |f|^2 - 2 f m + |m|^2."""
    means = found.means.detach().double().cpu()
    squares = graph.reduce("ReduceSum", graph.node("Mul", whitened, whitened), 1, keep=True)
    products = graph.node("MatMul", whitened, graph.constant((-2 * means.T).to(torch.float32)))
    from_means = graph.node("Add", products, graph.constant(means.square().sum(1).to(torch.float32)))
    nearest = graph.reduce("ReduceMin", graph.node("Add", from_means, squares), 1)
    return graph.node("Sqrt", graph.node("Relu", nearest))
