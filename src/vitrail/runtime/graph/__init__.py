"""A ViT as an ONNX graph, written node by node from its geometry and weights; no tracing."""

from vitrail.runtime.graph.vit import onnx_bytes

__all__ = ["onnx_bytes"]
