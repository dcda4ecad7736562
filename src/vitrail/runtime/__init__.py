"""A model as a function from images to logits: by torch, ONNX Runtime or OpenVINO, exactly or at a stated cost.

The names load on first use, so that an engine runs an exported file without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "choice": ("Chosen", "EngineOptions", "choose"),
    "engines": ("Runtime", "start", "torch_runtime"),
    "measure": ("find_batch_size",),
    "merging": ("merged_logits",),
    "translated": ("Translated",),
}
_HOMES = {name: f"vitrail.runtime.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitrail.runtime' has no attribute {name!r}")
