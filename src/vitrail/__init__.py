"""vitrail: from images to a Vision Transformer you can trust and ship.

The public names load on first use, so that `import vitrail` and `vitrail --help` do without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Card",
    "Predictor",
    "Preprocessing",
    "RunConfig",
    "ViT",
    "ViTConfig",
    "VitrailError",
    "evaluate",
    "load",
    "recipes",
    "save",
    "train",
]

if TYPE_CHECKING:
    from vitrail import recipes
    from vitrail.config import Preprocessing, RunConfig, ViTConfig
    from vitrail.errors import VitrailError
    from vitrail.model import ViT
    from vitrail.predict import Predictor
    from vitrail.training import evaluate, train
    from vitrail.weights import Card, load, save

_ROOMS = {
    "Card": "vitrail.weights",
    "Predictor": "vitrail.predict",
    "Preprocessing": "vitrail.config",
    "RunConfig": "vitrail.config",
    "ViT": "vitrail.model",
    "ViTConfig": "vitrail.config",
    "VitrailError": "vitrail.errors",
    "evaluate": "vitrail.training",
    "load": "vitrail.weights",
    "save": "vitrail.weights",
    "train": "vitrail.training",
}


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module("vitrail.recipes")
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'vitrail' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
