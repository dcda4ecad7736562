"""vitrail: from images to a Vision Transformer you can trust and ship.

The public names load on first use, so that `import vitrail` and `vitrail --help` do without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Card",
    "ConfigError",
    "DataConfig",
    "DataError",
    "EngineOptions",
    "Evaluation",
    "ImageError",
    "ImageSet",
    "InputError",
    "Interrupted",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "RankLost",
    "Ranked",
    "RunConfig",
    "RunError",
    "RunResult",
    "SaveError",
    "ViT",
    "ViTConfig",
    "VitrailError",
    "WeightsError",
    "evaluate",
    "features",
    "finetune",
    "load",
    "load_data",
    "predict",
    "recipes",
    "record_attention",
    "save",
    "train",
]

if TYPE_CHECKING:
    from vitrail import recipes
    from vitrail.api import evaluate, features, finetune, load_data, predict, train
    from vitrail.config import DataConfig, Preprocessing, RunConfig, ViTConfig
    from vitrail.data import ImageSet
    from vitrail.errors import (
        ConfigError,
        DataError,
        ImageError,
        InputError,
        Interrupted,
        RankLost,
        RunError,
        SaveError,
        VitrailError,
        WeightsError,
    )
    from vitrail.model import ViT, record_attention
    from vitrail.predictor import Prediction, Predictor, Ranked
    from vitrail.runtime import EngineOptions
    from vitrail.training import Evaluation, RunResult
    from vitrail.weights import Card, load, save

_HOMES = {
    "vitrail.api": ("evaluate", "features", "finetune", "load_data", "predict", "train"),
    "vitrail.config": ("DataConfig", "Preprocessing", "RunConfig", "ViTConfig"),
    "vitrail.data": ("ImageSet",),
    "vitrail.training": ("Evaluation", "RunResult"),
    "vitrail.errors": (
        "ConfigError",
        "DataError",
        "ImageError",
        "InputError",
        "Interrupted",
        "RankLost",
        "RunError",
        "SaveError",
        "VitrailError",
        "WeightsError",
    ),
    "vitrail.model": ("ViT", "record_attention"),
    "vitrail.predictor": ("Prediction", "Predictor", "Ranked"),
    "vitrail.runtime": ("EngineOptions",),
    "vitrail.weights": ("Card", "load", "save"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module("vitrail.recipes")
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'vitrail' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
