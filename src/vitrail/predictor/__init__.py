"""Images to ranked labels, with the preprocessing and the class names that travel in the model file.

`Predictor` runs a model in torch or another engine, `ExportedPredictor` a file that `vitrail export` wrote, without
torch. The names load on first use, so that an exported file is used where torch is not installed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.predictor.answers import Prediction, Ranked
    from vitrail.predictor.batch import BatchPredictor
    from vitrail.predictor.exported import ExportedPredictor
    from vitrail.predictor.exported_file import ExportedFile, is_exported, read_exported
    from vitrail.predictor.image_like import ImageLike, decode, listed, name_of
    from vitrail.predictor.live import Predictor, preprocessing_at

__all__ = [
    "BatchPredictor",
    "ExportedFile",
    "ExportedPredictor",
    "ImageLike",
    "Prediction",
    "Predictor",
    "Ranked",
    "decode",
    "is_exported",
    "listed",
    "name_of",
    "preprocessing_at",
    "read_exported",
]

_MODULES = {
    "answers": ("Prediction", "Ranked"),
    "batch": ("BatchPredictor",),
    "exported": ("ExportedPredictor",),
    "exported_file": ("ExportedFile", "is_exported", "read_exported"),
    "image_like": ("ImageLike", "decode", "listed", "name_of"),
    "live": ("Predictor", "preprocessing_at"),
}
_HOMES = {name: f"vitrail.predictor.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitrail.predictor' has no attribute {name!r}")
