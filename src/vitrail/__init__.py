"""From images to a Vision Transformer you can trust and ship.

    import vitrail

    vitrail.train("digits", "runs/digits")                                   # from scratch, by the name of a recipe
    vitrail.pretrain("unsorted/", "runs/images")                             # from images without labels
    vitrail.finetune("builtin:cifar100-conv", "photos/", "runs/mine")        # pretrained weights, images of your own
    vitrail.evaluate("runs/mine", "photos/").accuracy                        # right answers over all images
    vitrail.calibrate("runs/mine", reject=0.05)                              # honest confidence, and "unknown"
    vitrail.predict("runs/mine", "new_photos/")[0].label                      # images to ranked classes
    vitrail.report("runs/mine").verdict.headline                              # can it be used? writes report.html
    vitrail.compare("runs/mine", "runs/other").verdict                        # is one better, on the same images?
    vitrail.explain("runs/mine", "new_photos/", out="explained")              # where in each image the class was read
    vitrail.export("runs/mine", "mine.onnx")                                  # one file; predicts without torch
    vitrail.features("runs/mine", "new_photos/")                              # images to embeddings, [images, width]
    vitrail.check_data("photos/", near=True)["near"]["kinds"]                 # leaks, copies, doubtful labels

    model, card = vitrail.load("google/vit-base-patch16-224", num_labels=10)  # a torch module; what is known about it
    vitrail.save("model.safetensors", model, card)

Every error that a user can cause is a `VitrailError`, whose message says what to do. The names load on first use, so
that `import vitrail` and `vitrail --help` do without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "train",
    "pretrain",
    "finetune",
    "evaluate",
    "calibrate",
    "predict",
    "explain",
    "export",
    "features",
    "report",
    "compare",
    "load_data",
    "check_data",
    "load",
    "save",
    "Card",
    "ViT",
    "ViTConfig",
    "record_attention",
    "Predictor",
    "ExportedPredictor",
    "BatchPredictor",
    "Prediction",
    "Ranked",
    "ExportOptions",
    "Exported",
    "Explanations",
    "Explanation",
    "Faithfulness",
    "EngineOptions",
    "recipes",
    "RunConfig",
    "RunResult",
    "Evaluation",
    "DataConfig",
    "ImageSet",
    "Preprocessing",
    "VitrailError",
    "ConfigError",
    "DataError",
    "ImageError",
    "InputError",
    "WeightsError",
    "RunError",
    "SaveError",
    "RankLost",
    "Interrupted",
]

if TYPE_CHECKING:
    from vitrail import recipes
    from vitrail.api import (
        calibrate,
        check_data,
        compare,
        evaluate,
        explain,
        export,
        features,
        finetune,
        load_data,
        predict,
        pretrain,
        report,
        train,
    )
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
    from vitrail.explanation import Explanation, Explanations, Faithfulness
    from vitrail.exporting import Exported, ExportOptions
    from vitrail.model import ViT, record_attention
    from vitrail.predictor import BatchPredictor, ExportedPredictor, Prediction, Predictor, Ranked
    from vitrail.runtime import EngineOptions
    from vitrail.training import Evaluation, RunResult
    from vitrail.weights import Card, load, save

_HOMES = {
    "vitrail.api": (
        "calibrate",
        "check_data",
        "compare",
        "evaluate",
        "explain",
        "export",
        "features",
        "finetune",
        "load_data",
        "predict",
        "pretrain",
        "report",
        "train",
    ),
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
    "vitrail.explanation": ("Explanation", "Explanations", "Faithfulness"),
    "vitrail.model": ("ViT", "record_attention"),
    "vitrail.exporting": ("ExportOptions", "Exported"),
    "vitrail.predictor": ("BatchPredictor", "ExportedPredictor", "Prediction", "Predictor", "Ranked"),
    "vitrail.runtime": ("EngineOptions",),
    "vitrail.weights": ("Card", "load", "save"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module("vitrail.recipes")
    if name in _HOME_OF:
        try:
            return getattr(importlib.import_module(_HOME_OF[name]), name)
        except ImportError as error:
            from vitrail.errors import without_training

            if (explained := without_training(error)) is None:
                raise
            raise explained from error
    raise AttributeError(f"module 'vitrail' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
