"""A ViT as an ONNX graph, written node by node from its geometry and weights; no tracing."""

from vitrail.runtime.graph.nodes import OPSET, Graph
from vitrail.runtime.graph.vit import add_vit, onnx_bytes

__all__ = ["OPSET", "Graph", "add_vit", "onnx_bytes"]
