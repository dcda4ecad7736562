"""What a run leaves of its best model: what the model files say about themselves, and the answers image by image."""

from dataclasses import replace

from vitrail import weights
from vitrail.config import Preprocessing, RunConfig, to_json
from vitrail.model import ViT
from vitrail.run import Environment, RunDir
from vitrail.training.evaluate import Evaluation
from vitrail.training.pretraining import Reconstruction


def model_card(
    config: RunConfig,
    model: ViT,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    measured: Evaluation | Reconstruction,
    step: int,
    environment: Environment,
) -> weights.Card:
    """What a model file of a run says about itself."""
    init = environment.init
    start = f"pretrained without labels ({config.pretrain.objective})" if config.is_pretraining else ""
    return weights.Card(
        geometry=model.config,
        classes=classes,
        preprocessing=preprocessing,
        recipe=to_json(config),
        metrics={**measured.figures, "step": step},
        provenance={
            "source": "fine-tuned" if init else start or "trained from scratch",
            **({"init": init.to_json()} if init else {}),
            **({"teacher": environment.teacher} if environment.teacher else {}),
            "kind": model.config.kind,
            "versions": environment.versions,
            "commit": environment.commit,
            "data": environment.data,
        },
    )


def save_predictions(run_dir: RunDir, evaluation: Evaluation, data: str, step: int) -> None:
    """Write what the best model answered for each image of a split.

    Args:
        data: the data set, as --data takes it.
        step: optimiser steps that the model had taken.
    """
    found = evaluation.predictions
    if found:
        replace(found, data=data, step=step).save(run_dir.predictions_path(found.split))
