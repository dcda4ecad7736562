"""Which settings make ONNX Runtime's products of integers right on this processor: tried, not looked up.

Where a processor has no dot product of bytes (AVX2, and AVX-512 without VNNI), ONNX Runtime multiplies uint8 with int8
by instructions that add pairs of products in 16 bits and cut off what is larger: wrong numbers, and no error. A setting
of its sessions turns int8 weights into uint8 when a file is opened; the kernels for these add in 32 bits and give the
very integers that a processor with dot products gives. On such a processor they are less than half as fast as its own,
and ONNX Runtime does not tell the two kinds apart: so the products themselves are tried, with numbers whose pairs 16
bits cannot hold.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from vitrail.errors import ConfigError
from vitrail.runtime.libraries import onnxruntime

PRODUCT = "DynamicQuantizeMatMul"
"""ONNX Runtime's product of fp32 activations, which it rounds to uint8, with weights of 8 bits."""
MICROSOFT = "com.microsoft"

Settings: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values of a session's settings."""
Product: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""fp32 [M, K] and int8 [K, N] to fp32 [M, N]."""

_FASTEST_FIRST: tuple[Settings, ...] = ((), (("session.x64quantprecision", "1"),))


@functools.cache
def exact_settings() -> Settings:
    """With which settings products of integers are right in this process: the fastest, found by trying.

    Raises:
        ConfigError: with none.
    """
    for settings in _FASTEST_FIRST:
        if is_exact(functools.partial(product, settings=settings)):
            return settings
    raise ConfigError(
        "ONNX Runtime's products of 8-bit integers are wrong on this processor.",
        got="other sums than those of the same integers in 64 bits",
        do="Leave out --precision int8.",
    )


def product(activations: np.ndarray, weights: np.ndarray, *, settings: Settings = ()) -> np.ndarray:
    """One product by ONNX Runtime, [M, K] and int8 [K, N] to [M, N]; each weight stands for itself."""
    onnx: Any = importlib.import_module("onnx")
    helper, fp32 = onnx.helper, onnx.TensorProto.FLOAT
    size, width = weights.shape
    graph = helper.make_graph(
        [helper.make_node(PRODUCT, ["x", "weights", "scale"], ["y"], domain=MICROSOFT)],
        "product",
        [helper.make_tensor_value_info("x", fp32, ["rows", size])],
        [helper.make_tensor_value_info("y", fp32, ["rows", width])],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.ones(width, np.float32), "scale"),
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
    file = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return session(file, settings, threads=1).run(None, {"x": activations})[0]


def session(file: bytes | str, settings: Settings, threads: int) -> Any:
    """ONNX Runtime on the bytes of a file, or its path, on the CPU."""
    library = onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    for name, value in settings:
        options.add_session_config_entry(name, value)
    return library.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def is_exact(multiply: Product) -> bool:
    """Whether a product is that of the integers, for random numbers and for the largest there are.

    Activations are whole numbers from 0 to 255 and from -128 to 127, so that rounding them to uint8 changes nothing;
    sums stay below 2**24, so that fp32 holds them. One row is a case of its own: other kernels run it.
    """
    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, (259, 67)).astype(np.int8)
    weights[:, 0], weights[:, 1] = 127, -127
    activations = random.integers(0, 256, (9, 259)).astype(np.float32)
    activations[1] = 255
    activations[2] = random.integers(200, 256, 259)
    activations[:, :2] = 0, 255  # every row spans the range, also where it is alone
    for lowest in (0, 128):
        for rows in (activations, activations[1:2], activations[2:3]):
            expected = (rows - lowest).astype(np.int64) @ weights.astype(np.int64)
            if not np.array_equal(multiply(rows - lowest, weights), expected):
                return False
    return True
