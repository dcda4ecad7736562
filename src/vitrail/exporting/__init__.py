"""A model as one file that needs no torch, compared with the model before it gets its name."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.exporting.export import Exported, ExportOptions, export_model
    from vitrail.exporting.gate import LEAST_IMAGES, Images
    from vitrail.exporting.synthetic import synthetic_photographs

__all__ = ["LEAST_IMAGES", "ExportOptions", "Exported", "Images", "export_model", "synthetic_photographs"]

_MODULES = {
    "export": ("ExportOptions", "Exported", "export_model"),
    "gate": ("LEAST_IMAGES", "Images"),
    "synthetic": ("synthetic_photographs",),
}
_HOMES = {name: f"vitrail.exporting.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitrail.exporting' has no attribute {name!r}")
