"""Files to models and back: the self-describing model file, and the audited reader of every other family.

The names load on first use, so that what a model file says about itself is read without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.weights.card import Card, builtin_names, head_left_out, is_own, read_card, stored_parameters
    from vitrail.weights.file_kinds import kind_of
    from vitrail.weights.modelfile import build_model, num_parameters, save
    from vitrail.weights.new_geometry import Head
    from vitrail.weights.reader import load, load_card
    from vitrail.weights.writer import Written, write

__all__ = [
    "Card",
    "Head",
    "Written",
    "builtin_names",
    "build_model",
    "head_left_out",
    "is_own",
    "kind_of",
    "load",
    "load_card",
    "num_parameters",
    "read_card",
    "save",
    "stored_parameters",
    "write",
]

_MODULES = {
    "new_geometry": ("Head",),
    "card": ("Card", "builtin_names", "head_left_out", "is_own", "read_card", "stored_parameters"),
    "file_kinds": ("kind_of",),
    "modelfile": ("build_model", "num_parameters", "save"),
    "reader": ("load", "load_card"),
    "writer": ("Written", "write"),
}
_HOMES = {name: f"vitrail.weights.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitrail.weights' has no attribute {name!r}")
