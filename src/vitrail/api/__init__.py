"""The public functions: train, finetune, evaluate, predict and the rest, one each for what a user wants.

The commands of the same names call them, so that a program and the command line do the same. Nothing is printed unless
`progress=True`. The names load on first use, so that a report is made without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.api.comparisons import compare
    from vitrail.api.confidence import calibrate
    from vitrail.api.datasets import DOCTORS_MODEL, Split, check_data, load_data
    from vitrail.api.explaining import explain
    from vitrail.api.exporting import export
    from vitrail.api.inference import Model, evaluate, features, predict, trained_on
    from vitrail.api.reports import report
    from vitrail.api.runs import (
        check_is_pretraining,
        finetune,
        finetune_start,
        fitted_to_splits,
        opened,
        pretrain,
        stored_config,
        train,
    )

__all__ = [
    "DOCTORS_MODEL",
    "Model",
    "Split",
    "calibrate",
    "check_data",
    "check_is_pretraining",
    "compare",
    "evaluate",
    "explain",
    "export",
    "features",
    "finetune",
    "finetune_start",
    "fitted_to_splits",
    "load_data",
    "opened",
    "predict",
    "pretrain",
    "report",
    "stored_config",
    "train",
    "trained_on",
]

_MODULES = {
    "comparisons": ("compare",),
    "confidence": ("calibrate",),
    "datasets": ("DOCTORS_MODEL", "Split", "check_data", "load_data"),
    "explaining": ("explain",),
    "exporting": ("export",),
    "inference": ("Model", "evaluate", "features", "predict", "trained_on"),
    "reports": ("report",),
    "runs": (
        "check_is_pretraining",
        "finetune",
        "finetune_start",
        "fitted_to_splits",
        "opened",
        "pretrain",
        "stored_config",
        "train",
    ),
}
_HOMES = {name: f"vitrail.api.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitrail.api' has no attribute {name!r}")
