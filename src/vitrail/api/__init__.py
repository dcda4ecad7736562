"""What a program needs, one function each: train, finetune, evaluate, predict, features, load_data.

    vitrail.train("digits", "runs/digits")
    vitrail.finetune("builtin:cifar100-conv", "photos/", "runs/mine")
    vitrail.evaluate("runs/mine", "photos/").accuracy
    vitrail.predict("runs/mine", "photos/new/")[0].label
    vitrail.features("runs/mine", "photos/new/")                 # [images, width]

The commands of these names call the same functions. Nothing is printed unless `progress=True`.
"""

from vitrail.api.datasets import Split, load_data
from vitrail.api.inference import Model, evaluate, features, predict, trained_on
from vitrail.api.runs import finetune, finetune_start, fitted_to_splits, stored_config, train

__all__ = [
    "Model",
    "Split",
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
