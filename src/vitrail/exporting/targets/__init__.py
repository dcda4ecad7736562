"""The kinds of exported models: which files each of them is, and what runs them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.exporting.targets.target import Part, Target

KINDS = ("onnx", "hf", "openvino", "torch", "triton")
_HOMES = {
    "onnx": ("target", "Target"),
    "hf": ("hf", "HuggingFace"),
    "openvino": ("openvino_ir", "OpenVino"),
    "torch": ("torch_program", "TorchProgram"),
    "triton": ("triton", "Triton"),
}

__all__ = ["KINDS", "Part", "Target", "target_class"]


def target_class(kind: str) -> "type[Target]":
    """What writes the files of a kind."""
    module, name = _HOMES[kind]
    return getattr(importlib.import_module(f"vitrail.exporting.targets.{module}"), name)


def __getattr__(name: str) -> Any:
    if name in ("Part", "Target"):
        return getattr(importlib.import_module("vitrail.exporting.targets.target"), name)
    raise AttributeError(f"module 'vitrail.exporting.targets' has no attribute {name!r}")
