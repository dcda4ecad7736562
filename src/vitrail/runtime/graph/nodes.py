"""A graph of ONNX that grows node by node; values are known by name.

Shapes are those of the model, the batch first. Nodes are those of the standard (opset 20, or 17 for older
readers); products of integers are ONNX Runtime's own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from vitrail.runtime.integers import MICROSOFT, PRODUCT

OPSET = 20
_IR_VERSIONS = {17: 8, 20: 9}
Precision = Literal["fp32", "fp16", "int8"]


class Graph:
    """Nodes in the order in which they run, and the constants that they use.

    Args:
        precision: of matrix products with weights; fp16: weights and what they are multiplied with have 16 bits.
        largest_code: largest weight of int8. 127 where ONNX Runtime is opened with `vitrail.runtime.integers`; 64 where
            nobody knows what opens it: two products of 255 and 64 fit into 16 bits, into which processors without dot
            products of bytes add them.
        opset: version of the operators, 17 or more.
    """

    def __init__(self, precision: Precision = "fp32", *, largest_code: int = 127, opset: int = OPSET) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.precision, self.largest_code, self.opset = precision, largest_code, opset

    def node(self, kind: str, *inputs: str, domain: str = "", output: int = 0, **attributes: Any) -> str:
        """Add a node, and return the name of one of its outputs, the first; an input "" is left out."""
        name = f"{kind}_{len(self.nodes)}"
        outputs = [*(f"{name}_{number}" for number in range(output)), name]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name, domain=domain, **attributes))
        return name

    def file(
        self,
        inputs: Mapping[str, tuple[int, Sequence[int | str]]],
        outputs: Mapping[str, tuple[str, Sequence[int | str]]],
    ) -> bytes:
        """The whole ONNX file, the same bytes every time.

        Args:
            inputs: type and shape of each.
            outputs: value and shape of each, fp32.
        """
        renamed = [helper.make_node("Identity", [value], [name]) for name, (value, _) in outputs.items()]
        proto = helper.make_graph(
            [*self.nodes, *renamed],
            "vit",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        if self.precision == "int8":
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        # The version of the file's form that came with this set of operators: older readers know it.
        whole = helper.make_model(
            proto, opset_imports=opsets, ir_version=_IR_VERSIONS[self.opset], producer_name="vitrail"
        )
        onnx.checker.check_model(whole)
        return whole.SerializeToString()

    def constant(self, value: torch.Tensor | np.ndarray | list[int]) -> str:
        """Add a constant: fp32 numbers of the model, or int64 shapes and axes."""
        if isinstance(value, list):
            array = np.array(value, np.int64)
        else:
            array = value.detach().float().cpu().numpy() if isinstance(value, torch.Tensor) else value
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.copy(order="C"), name))
        return name

    def linear(self, x: str, layer: nn.Linear) -> str:
        """A product with the layer's weights, and its bias."""
        if self.precision == "int8":
            return self._linear_int8(x, layer)
        if self.precision == "fp16":
            half = self.node("Cast", x, to=TensorProto.FLOAT16)
            weight = self.constant(layer.weight.detach().float().cpu().numpy().T.astype(np.float16))
            x = self.node("Cast", self.node("MatMul", half, weight), to=TensorProto.FLOAT)
        else:
            x = self.node("MatMul", x, self.constant(layer.weight.T))
        bias = layer._parameters["bias"]
        return x if bias is None else self.node("Add", x, self.constant(bias))

    def _linear_int8(self, x: str, layer: nn.Linear) -> str:
        """Weights as symmetric int8 with a scale for each output, activations as uint8 with a scale of the moment.

        The file is the same for every processor; `vitrail.runtime.integers` has what it must be opened with.
        """
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / self.largest_code
        codes = (weight / scale[:, None]).round().to(torch.int8)
        inputs = [x, self.constant(codes.T.contiguous().numpy()), self.constant(scale), ""]
        if (bias := layer._parameters["bias"]) is not None:
            inputs.append(self.constant(bias))
        return self.node(PRODUCT, *inputs, domain=MICROSOFT)

    def fused_attention(self, q: str, k: str, v: str, num_heads: int, scale: float, bias: str) -> str:
        """Attention of [B, N, D] each as one node of ONNX Runtime's; bias [B, 1, N, N] is added to the scores."""
        inputs = [q, k, v] if not bias else [q, k, v, "", "", bias]
        return self.node("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=num_heads, scale=scale)

    def norm(self, x: str, layer: nn.Module) -> str:
        """LayerNorm, or nothing."""
        if isinstance(layer, nn.Identity):
            return x
        assert isinstance(layer, nn.LayerNorm)
        weight, bias = self.constant(layer.weight), self.constant(layer.bias)
        return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=layer.eps)

    def slice(self, x: str, start: int, stop: int, axis: int, step: int = 1) -> str:
        """Part of an axis; stop may lie beyond the end."""
        return self.node("Slice", x, *(self.constant([value]) for value in (start, stop, axis, step)))

    def number(self, value: float) -> str:
        """A constant without axes."""
        return self.constant(np.array(value, np.float32))

    def filled(self, like: str, value: float) -> str:
        """Equal numbers in the shape of another value."""
        number = numpy_helper.from_array(np.array([value], np.float32))
        return self.node("ConstantOfShape", self.node("Shape", like), value=number)

    def after(self, x: str, start: int, axis: int) -> str:
        """An axis from `start` to its end."""
        return self.slice(x, start, np.iinfo(np.int64).max, axis) if start else x

    def token(self, x: str, number: int) -> str:
        """One token of each image: [B, N, D] to [B, D]."""
        return self.node("Gather", x, self.constant(np.array(number, np.int64)), axis=1)

    def reduce(self, kind: str, x: str, axis: int, *, keep: bool = False) -> str:
        """ReduceMean, ReduceMax, ReduceSum, ... over one axis, which is gone then or has the length 1."""
        if self.opset < 18 and kind != "ReduceSum":
            return self.node(kind, x, axes=[axis], keepdims=int(keep))
        return self.node(kind, x, self.constant([axis]), keepdims=int(keep))

    def gelu(self, x: str, *, by_tanh: bool) -> str:
        """GELU, exact or by its approximation (arXiv:1606.08415), which older operators spell out."""
        if self.opset >= 20:
            return self.node("Gelu", x, approximate="tanh" if by_tanh else "none")
        if by_tanh:
            cube = self.node("Mul", self.node("Mul", x, x), self.node("Mul", x, self.number(0.044715)))
            inner = self.node("Mul", self.node("Add", x, cube), self.number(math.sqrt(2 / math.pi)))
            bent = self.node("Tanh", inner)
        else:
            bent = self.node("Erf", self.node("Mul", x, self.number(math.sqrt(0.5))))
        half = self.node("Mul", x, self.number(0.5))
        return self.node("Mul", half, self.node("Add", bent, self.number(1.0)))
