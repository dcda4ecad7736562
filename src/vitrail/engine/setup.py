"""What a run needs around its loop: the whole geometry, room on the disk, what is known about data and model."""

from typing import Any

import torch

from vitrail import weights
from vitrail.config import ArchitectureConfig, Preprocessing, RunConfig, ViTConfig, to_json
from vitrail.data import ImageSet
from vitrail.engine.evaluate import Evaluation
from vitrail.errors import ImageError
from vitrail.model import ViT


def model_config(architecture: ArchitectureConfig, preprocessing: Preprocessing, classes: tuple[str, ...]) -> ViTConfig:
    """The whole geometry: what the recipe chose, and what the data decides."""
    return ViTConfig(
        **{name: getattr(architecture, name) for name in ArchitectureConfig.__dataclass_fields__},
        image_size=preprocessing.image_size,
        num_channels=preprocessing.num_channels,
        num_labels=len(classes),
    )


def model_card(
    config: RunConfig,
    model: ViT,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    evaluation: Evaluation,
    step: int,
    environment: dict[str, Any],
) -> weights.Card:
    """What a model file of a run says about itself."""
    init, measured = environment["init"], evaluation
    score = {"split": measured.split, "num_examples": measured.num_examples, "num_correct": measured.num_correct}
    return weights.Card(
        geometry=model.config,
        classes=classes,
        preprocessing=preprocessing,
        recipe=to_json(config),
        metrics={**score, "accuracy": measured.accuracy, "loss": measured.loss, "step": step},
        provenance={
            "source": "fine-tuned" if init else "trained from scratch",
            **({"init": init} if init else {}),
            "kind": model.config.kind,
            **{name: environment[name] for name in ("versions", "commit", "data")},
        },
    )


def fingerprints(*image_sets: ImageSet) -> dict[str, Any]:
    """What environment.json says about the data: fingerprint, count and unreadable files of each split."""
    return {
        s.split: {
            "fingerprint": s.fingerprint,
            "num_examples": len(s.labels),
            "errors": [{"path": error.name, "error": error.reason} for error in s.errors],
        }
        for s in image_sets
    }


def skipped(errors: tuple[ImageError, ...], most: int = 10) -> list[str]:
    """A line for each training image that cannot be read, and one for those beyond `most`."""
    lines = [f"skipped in training: {error}" for error in errors[:most]]
    if len(errors) > most:
        lines.append(f"skipped in training: {len(errors) - most} more, all in environment.json")
    return lines


def needed_bytes(config: RunConfig) -> int:
    """Room for two model files and keep + 1 checkpoints of weights, two moments and an average."""
    with torch.device("meta"):
        model = ViT(ViTConfig(**vars(config.model), image_size=config.data.image_size))
    weights_bytes = 4 * sum(p.numel() for p in model.parameters())
    return weights_bytes * (2 + 4 * (config.checkpoint.keep + 1))
