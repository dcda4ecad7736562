"""A model as a function from images to logits: by torch, ONNX Runtime or OpenVINO, exactly or at a stated cost."""

from vitrail.runtime.choice import Chosen, EngineOptions, choose
from vitrail.runtime.engines import Runtime, start, torch_runtime
from vitrail.runtime.measure import find_batch_size
from vitrail.runtime.merging import merged_logits
from vitrail.runtime.translated import Translated

__all__ = [
    "Chosen",
    "EngineOptions",
    "Runtime",
    "Translated",
    "choose",
    "find_batch_size",
    "merged_logits",
    "start",
    "torch_runtime",
]
