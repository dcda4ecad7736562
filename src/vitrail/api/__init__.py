"""The public functions: train, finetune, evaluate, predict, features, load_data, check_data.

The commands of the same names call them, so that a program and the command line do the same. Nothing is printed unless
`progress=True`.
"""

from vitrail.api.datasets import DOCTORS_MODEL, Split, check_data, load_data
from vitrail.api.inference import Model, evaluate, features, predict, trained_on
from vitrail.api.runs import finetune, finetune_start, fitted_to_splits, stored_config, train

__all__ = [
    "DOCTORS_MODEL",
    "Model",
    "Split",
    "check_data",
    "evaluate",
    "features",
    "finetune",
    "finetune_start",
    "fitted_to_splits",
    "load_data",
    "predict",
    "stored_config",
    "train",
    "trained_on",
]
