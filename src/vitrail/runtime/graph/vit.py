"""A ViT as an ONNX graph, written node by node from its geometry and weights; no tracing.

In: a `ViT` and an image size. Out: the bytes of an ONNX file, images [B, C, H, W] (any B) to logits [B, L].
The nodes are those of the standard (opset 20); with int8, products with weights and attention are ONNX Runtime's own.

What is constant for one image size becomes a constant: class, distillation and register tokens with their positions are
rows of one table that is added to the patches, behind as many rows of zeros.

Paper: arXiv:2010.11929, section 3.1; the names of nodes and weights are those of vitrail.model.vit.
"""

import torch
from onnx import TensorProto
from torch import nn

from vitrail.config.checks import pair
from vitrail.config.vit import token_stride
from vitrail.errors import ConfigError
from vitrail.model import ViT
from vitrail.model.mlp import SwiGLU, gelu_tanh, quick_gelu
from vitrail.model.pooling import AttentionPooling
from vitrail.model.relative import Places
from vitrail.model.vit import MLP, Attention, Block, LayerScale
from vitrail.runtime.graph.merging import Merging
from vitrail.runtime.graph.nodes import Graph
from vitrail.runtime.merging import check_mergeable

_BYTES_EACH = {"fp32": 4, "fp16": 2, "int8": 1}
_MAX_BYTES = 2_000_000_000
"""A protobuf message holds 2 GiB; what is larger needs files beside it, which we do not write."""


def onnx_bytes(model: ViT, image_size: tuple[int, int], *, int8: bool = False, merge: int = 0) -> bytes:
    """Translate a model.

    Args:
        model: in fp32; its dropout and stochastic depth are left out, as in evaluation mode.
        image_size: height and width of the input; positions are resampled to it as the model itself would.
        int8: weights rounded to 8 bits with a scale for each output, activations to 8 bits with a scale that is
            measured in each product (W8A8, "dynamic"); attention scores stay fp32. The nodes are ONNX Runtime's.
        merge: tokens fewer after each layer, as by `vitrail.runtime.merging`.
    Raises:
        ConfigError: more than 2 GB of weights.
    """
    graph = Graph("int8" if int8 else "fp32")
    logits = add_vit(graph, model, image_size, "pixel_values", merge)
    config = model.config
    features = config.hidden_size * (2 if config.pooling == "cls_mean" else 1)
    return graph.file(
        {"pixel_values": (TensorProto.FLOAT, ["batch", config.num_channels, *image_size])},
        {"logits": (logits, ["batch", config.num_labels or features])},
    )


def add_vit(graph: Graph, model: ViT, image_size: tuple[int, int], images: str, merge: int = 0) -> str:
    """The whole model, from normalised images [B, C, H, W] to logits [B, L]: names of values.

    Raises:
        ConfigError: more than 2 GB of weights.
    """
    size = sum(p.numel() for p in model.parameters()) * _BYTES_EACH[graph.precision]
    if size > _MAX_BYTES:
        raise ConfigError(
            "The model is too large for one ONNX file.",
            got=f"{size / 1e9:.1f} GB of weights",
            expected=f"at most {_MAX_BYTES / 1e9:.0f} GB",
            do="Export it with --precision fp16; to predict, use --engine torch.",
        )
    with torch.no_grad():
        return _vit(graph, model, image_size, images, merge)


def _vit(graph: Graph, model: ViT, image_size: tuple[int, int], images: str, merge: int) -> str:
    x = _embed(graph, model, image_size, images)
    if merge:
        check_mergeable(model)
    height, width = _grid(model, image_size)
    merging = Merging(graph, merge, model.config.num_prefix_tokens, height * width)
    for block in model.blocks:
        assert isinstance(block, Block)
        x = _block(graph, block, x, merging, Places((height, width)))
    tokens = graph.norm(x, model.norm)
    logits = _classify(graph, _pool(graph, model, tokens, merging), model.head)
    if model.head_dist is None:
        return logits
    distilled = _classify(graph, graph.token(tokens, 1), model.head_dist)
    return graph.node("Mul", graph.node("Add", logits, distilled), graph.number(0.5))


def _grid(model: ViT, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches."""
    down_y, down_x = token_stride(model.config)
    return image_size[0] // down_y, image_size[1] // down_x


def _embed(graph: Graph, model: ViT, image_size: tuple[int, int], x: str) -> str:
    """Equation (1), and the registers."""
    config = model.config
    for layer in model.stem.children():
        x = _stem_layer(graph, layer, x)
    proj = model.patch_embed.proj
    assert proj.bias is not None
    x = _convolution(graph, x, proj)
    grid = _grid(model, image_size)
    x = graph.node("Reshape", x, graph.constant([-1, config.hidden_size, grid[0] * grid[1]]))
    x = graph.node("Transpose", x, perm=[0, 2, 1])

    positions = model._positions(grid, interpolate=image_size != pair(config.image_size))[0]
    first = config.num_prefix_positions
    prefix = [token[0] for token in (model.cls_token, model.dist_token) if token is not None]
    rows = [token + positions[i] if first else token for i, token in enumerate(prefix)]
    rows += [] if model.reg_token is None else [model.reg_token[0]]
    if rows:
        count = config.num_prefix_tokens
        x = graph.node("Pad", x, graph.constant([0, count, 0, 0, 0, 0]))
    return graph.node("Add", x, graph.constant(torch.cat((*rows, positions[first:]))[None]))


def _stem_layer(graph: Graph, layer: nn.Module, x: str) -> str:
    """Convolution, pooling where there is one, batch norm with the statistics of training, ReLU."""
    for step in layer.children():
        if isinstance(step, nn.Conv2d):
            x = _convolution(graph, x, step)
        elif isinstance(step, nn.MaxPool2d):
            side = int(step.kernel_size)  # type: ignore[arg-type]
            x = graph.node("MaxPool", x, kernel_shape=[side, side], strides=[side, side])
        elif isinstance(step, nn.BatchNorm2d):
            assert step.running_mean is not None
            assert step.running_var is not None
            values = (step.weight, step.bias, step.running_mean, step.running_var)
            x = graph.node("BatchNormalization", x, *map(graph.constant, values), epsilon=step.eps)
        else:
            assert isinstance(step, nn.ReLU)
            x = graph.node("Relu", x)
    return x


def _convolution(graph: Graph, x: str, layer: nn.Conv2d) -> str:
    weights = [graph.constant(layer.weight)] + ([] if layer.bias is None else [graph.constant(layer.bias)])
    pads = [int(side) for side in layer.padding] * 2
    return graph.node("Conv", x, *weights, kernel_shape=layer.kernel_size, strides=layer.stride, pads=pads)


def _block(graph: Graph, block: Block, x: str, merging: Merging, places: Places) -> str:
    """Equations (2) and (3); where tokens are merged, between the two."""
    attended, keys = _attention(graph, block.attn, graph.norm(x, block.norm1), merging, places)
    x = graph.node("Add", x, _scaled(graph, block.ls1, attended))
    if keys:
        x = merging.merge(x, keys)
    branch = _scaled(graph, block.ls2, _mlp(graph, block.mlp, graph.norm(x, block.norm2)))
    return graph.node("Add", x, branch)


def _scaled(graph: Graph, scale: nn.Module, x: str) -> str:
    return graph.node("Mul", x, graph.constant(scale.gamma)) if isinstance(scale, LayerScale) else x


def _attention(graph: Graph, layer: Attention, x: str, merging: Merging, places: Places) -> tuple[str, str]:
    """Queries, keys and values from one matrix, softmax(q k^T * scale + bias) v, projection.

    Returns:
        What is added to x, and where tokens are to be merged the keys [B, N, K], averaged over the heads, else "".
    """
    width, heads = layer.proj.in_features, layer.num_heads
    scale = (width // heads) ** -0.5 if layer.scale is None else layer.scale
    x = graph.linear(x, layer.qkv)
    keys = ""
    relative = graph.constant(layer.relative(places)[None]) if layer.relative else ""
    if graph.precision == "int8" and isinstance(layer.q_norm, nn.Identity):
        q, k, v = (graph.slice(x, i * width, (i + 1) * width, 2) for i in range(3))
        if merging.num_due:
            split = graph.node("Reshape", k, graph.constant([0, 0, heads, width // heads]))
            keys = graph.reduce("ReduceMean", split, 2)
        x = graph.fused_attention(q, k, v, heads, scale, relative or merging.score_bias())
        return graph.linear(x, layer.proj), keys
    x = graph.node("Reshape", x, graph.constant([0, 0, 3 * heads, width // heads]))
    x = graph.node("Transpose", x, perm=[0, 2, 1, 3])  # [B, 3A, N, K]
    q, k, v = (graph.slice(x, i * heads, (i + 1) * heads, 1) for i in range(3))
    q, k = graph.norm(q, layer.q_norm), graph.norm(k, layer.k_norm)
    if merging.num_due:
        keys = graph.reduce("ReduceMean", k, 1)
    x = _attend(graph, q, k, v, scale, relative or merging.log_sizes())
    return graph.linear(graph.node("Reshape", x, graph.constant([0, 0, width])), layer.proj), keys


def _attend(graph: Graph, q: str, k: str, v: str, scale: float, bias: str) -> str:
    """[B, A, N, K] each to [B, N, A, K]; the bias, if there is one, is added to the scores."""
    scores = graph.node("MatMul", q, graph.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.node("Mul", scores, graph.number(scale))
    if bias:
        scores = graph.node("Add", scores, bias)
    return graph.node("Transpose", graph.node("MatMul", graph.node("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])


def _mlp(graph: Graph, layer: nn.Module, x: str) -> str:
    if isinstance(layer, SwiGLU):
        gate = graph.linear(x, layer.gate)
        gate = graph.node("Mul", gate, graph.node("Sigmoid", gate))
        return graph.linear(graph.node("Mul", gate, graph.linear(x, layer.up)), layer.fc2)
    assert isinstance(layer, MLP)
    x = graph.linear(x, layer.fc1)
    if layer.activation is quick_gelu:
        x = graph.node("Mul", x, graph.node("Sigmoid", graph.node("Mul", x, graph.number(1.702))))
    else:
        x = graph.gelu(x, by_tanh=layer.activation is gelu_tanh)
    return graph.linear(x, layer.fc2)


def _pool(graph: Graph, model: ViT, tokens: str, merging: Merging) -> str:
    """What is classified, [B, D] or [B, 2D]."""
    config = model.config
    patches = graph.after(tokens, config.num_prefix_tokens, 1)
    if model.attn_pool is not None:
        return _attention_pooling(graph, model.attn_pool, patches, merging)
    if config.pooling in ("cls", "cls_dist"):
        pooled = graph.token(tokens, 0)
    elif config.pooling == "cls_mean":
        pooled = graph.node("Concat", graph.token(tokens, 0), merging.mean(patches), axis=-1)
    elif config.pooling == "max":
        pooled = graph.reduce("ReduceMax", patches, 1)
    else:
        pooled = merging.mean(patches)
        if config.pooling == "mean_max":
            pooled = graph.node("Add", pooled, graph.reduce("ReduceMax", patches, 1))
            pooled = graph.node("Mul", pooled, graph.number(0.5))
    return graph.norm(pooled, model.fc_norm)


def _attention_pooling(graph: Graph, layer: AttentionPooling, patches: str, merging: Merging) -> str:
    """The learned query attends to every patch (arXiv:2106.04560)."""
    heads, width = layer.num_heads, layer.proj.in_features
    q = graph.constant(layer.q(layer.latent).unflatten(-1, (heads, -1)).transpose(1, 2))
    x = graph.node("Reshape", graph.linear(patches, layer.kv), graph.constant([0, 0, 2 * heads, width // heads]))
    x = graph.node("Transpose", x, perm=[0, 2, 1, 3])
    k, v = (graph.slice(x, i * heads, (i + 1) * heads, 1) for i in range(2))
    x = _attend(graph, q, k, v, (width // heads) ** -0.5, merging.log_sizes(patches_alone=True))
    x = graph.linear(graph.node("Reshape", x, graph.constant([0, 0, width])), layer.proj)
    x = graph.node("Add", x, _mlp(graph, layer.mlp, graph.norm(x, layer.norm)))
    return graph.token(x, 0)


def _classify(graph: Graph, features: str, head: nn.Module) -> str:
    return graph.linear(features, head) if isinstance(head, nn.Linear) else features
