"""ONNX Runtime and OpenVINO, imported without what reports their use to their makers: nobody asked for a connection.

Both decide once, when they are imported. Where a program has imported one of them itself, nothing is changed.
"""

import importlib
import os
import sys
from typing import Any


def onnxruntime() -> Any:
    """ONNX Runtime. From 1.29 on it keeps an identifier of the machine on disk and sends what is run to Microsoft."""
    if "onnxruntime" in sys.modules:
        return sys.modules["onnxruntime"]
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # who has set it to 0 keeps it
    library = importlib.import_module("onnxruntime")
    if os.environ["ORT_DISABLE_TELEMETRY"] == "1":
        library.disable_telemetry_events()  # older versions, and Windows, where the variable is not read
    return library


def openvino() -> Any:
    """OpenVINO. Its import sends an event to a web analytics service; without the package for that it does not."""
    name = "openvino_telemetry"
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    before = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = None  # type: ignore[assignment]  # makes its import raise ImportError
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[name]
        sys.modules.update(before)
