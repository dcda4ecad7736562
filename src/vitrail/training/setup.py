"""What a run needs around its loop: the whole geometry, room on the disk, what is known about data and model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from vitrail import weights
from vitrail.config import (
    ArchitectureConfig,
    OptimConfig,
    Preprocessing,
    RunConfig,
    ScheduleConfig,
    ViTConfig,
    to_json,
)
from vitrail.data import ImageSet
from vitrail.distributed import World
from vitrail.errors import ConfigError, ImageError, RunError, shown
from vitrail.model import ViT
from vitrail.training.evaluate import Evaluation
from vitrail.training.precision import autocast_dtype

# Largest class over smallest, from which on the plan speaks of it.
_IMBALANCE = 10


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


def check_has_features(config: RunConfig) -> None:
    """Raise ConfigError when only a classifier, or little beside it, would move over a trunk of random weights."""
    means = {
        "probe.method": config.probe.method if config.probe.method != "none" else "",
        "optim.freeze": "trunk" if config.optim.freeze == "trunk" else "",
        "optim.lora-rank": config.optim.lora_rank,
    }
    found = next((f"{name} {value}" for name, value in means.items() if value), "")
    if found and not config.init.weights:
        raise ConfigError(
            "There are no pretrained weights whose features this run could use.",
            got=f"{found} on random weights",
            do=f"vitrail finetune WEIGHTS --data SPEC --recipe {config.recipe or 'linear-probe'}",
        )


def class_weights(config: OptimConfig, train_set: ImageSet, device: torch.device) -> Float32[Tensor, "L"] | None:
    """How much an example of each class counts in the loss, 1 in the mean over the examples; None: all the same."""
    if config.class_weights == "none":
        return None
    counts = np.bincount(train_set.labels, minlength=len(train_set.classes))
    values = len(train_set) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(values.astype(np.float32)).to(device)


def imbalance(config: RunConfig, train_set: ImageSet) -> list[str]:
    """A line where the classes are of very different size, or are evened out; else nothing."""
    counts = np.bincount(train_set.labels, minlength=len(train_set.classes))
    counts = np.where(counts, counts, len(train_set) + 1)  # a class without images has no part in this
    few, many = int(counts.argmin()), int(np.where(counts > len(train_set), 0, counts).argmax())
    ratio = counts[many] / counts[few]
    measures = {
        "--data.balance sampling": config.data.balance == "sampling",
        "--optim.class-weights balanced": config.optim.class_weights == "balanced",
    }
    used = [name for name, is_used in measures.items() if is_used and config.probe.method == "none"]
    if ratio <= _IMBALANCE and not used:
        return []
    advice = f"evened out by {used[0]}" if used else f"{' or '.join(measures)} evens that out"
    if config.probe.method != "none":
        advice = "a probe counts every image once"
    return [
        f"imbalance      {ratio:.3g} times: {counts[many]} training images of {shown(train_set.classes[many])}, "
        f"{counts[few]} of {shown(train_set.classes[few])}; {advice}"
    ]


def check_same_data(spec: str, stored: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise RunError when the data are not those that the run was started with."""
    for split, described in found.items():
        if stored.get(split, {}).get("fingerprint") != described["fingerprint"]:
            raise RunError(
                f"{spec}: the {split} split is not the one that this run was started with.",
                got=f"{described['num_examples']} examples, fingerprint {described['fingerprint'][:16]}",
                expected=f"fingerprint {stored.get(split, {}).get('fingerprint', 'of no such split')[:16]}",
                do="Put the data back as they were, or start a new run.",
            )


def plan(
    config: RunConfig,
    model: ViT,
    train_set: ImageSet,
    held_out: ImageSet,
    test_set: ImageSet | None,
    total_steps: int,
    device: torch.device,
    path: Path,
    world: World,
    linear: str = "",
) -> list[str]:
    """What is about to happen, in a line; one more for several processes, and for classes of very different size."""
    parameters = sum(p.numel() for p in model.parameters())
    chosen = "chosen and " if config.evaluation.every_epochs and config.evaluation.split == "test" else ""
    used = str(autocast_dtype(config.compute, device) or "fp32").removeprefix("torch.")
    then = f", the best model then once on {len(test_set)} of the test split" if test_set else ""
    work = f"{total_steps} step{'' if total_steps == 1 else 's'} of {config.data.batch_size}"
    if config.probe.method != "none":
        what = {"linear": "a linear probe", "knn": f"the {config.probe.num_neighbors} nearest"}[config.probe.method]
        seen = config.probe.max_examples
        work = f"{what} of {f'the features of {seen} of them' if seen < len(train_set.labels) else 'their features'}"
    lines = [
        f"{model.config.kind}, {parameters / 1e6:.2f} M parameters, {_classes(train_set)}; "
        f"{len(train_set.labels)} training images, {work}; "
        f"{chosen}measured on {len(held_out.labels)} images of the {config.evaluation.split} split{then}; "
        f"{device}, {used}{f', linear layers by {linear}' if linear else ''}; {path}"
    ]
    if world.size > 1:
        lines.append(processes_line(config, world))
    return [*lines, *imbalance(config, train_set)]


def processes_line(config: RunConfig, world: World) -> str:
    """How several processes share a step."""
    sizes = sorted({world.share_size(config.data.batch_size, rank) for rank in range(world.size)})
    return (
        f"{world.size} processes ({config.parallel.strategy}, {world.backend}): {' or '.join(map(str, sizes))} of the "
        f"{config.data.batch_size} images of a step on each"
    )


def check_not_shorter(before: int, now: int) -> None:
    """Raise ConfigError when a run that goes on would have fewer steps than it was started, or extended, with."""
    if now < before:
        raise ConfigError(
            "A run that is resumed can be made longer, not shorter.",
            got=f"{now} steps",
            expected=f"at least {before}, as before",
            do="Leave --schedule.epochs and --schedule.steps out, or stop earlier with --schedule.max-steps.",
        )


def longer_line(before: int, now: int, step: int) -> str:
    """What a run does that is resumed with more steps than it had."""
    return (
        f"longer: {now} steps in place of {before}; from step {step} on, learning rate and image sizes are those of a "
        f"schedule of {now} steps"
    )


def finished_line(step: int, schedule_steps: int, schedule: ScheduleConfig, epochs: int) -> str:
    """What a run says that is resumed and has nothing left to do."""
    more = f"--schedule.epochs above {epochs}, or --schedule.steps above {schedule_steps}"
    if schedule.max_steps and schedule.max_steps < schedule_steps:
        more = "--schedule.max-steps 0"
    return (
        f"the run is finished: {step} of {schedule_steps} steps are done, and nothing is trained now; to train it "
        f"longer: --resume {more}"
    )


def _classes(train_set: ImageSet, most: int = 10) -> str:
    """How many classes there are, and the names of the first ones."""
    names = ", ".join(shown(name, 40) for name in train_set.classes[:most])
    return f"{len(train_set.classes)} classes ({names}{', ...' if len(train_set.classes) > most else ''})"


def needed_bytes(config: RunConfig, path: Path) -> int:
    """Room for two model files and all checkpoints of weights, two moments and an average, less what is there."""
    with torch.device("meta"):
        model = ViT(ViTConfig(**vars(config.model), image_size=config.data.image_size))
    weights_bytes = 4 * sum(p.numel() for p in model.parameters())
    there = sum(f.lstat().st_size for f in path.rglob("*.safetensors")) if path.is_dir() else 0
    checkpoints = config.checkpoint.keep + config.checkpoint.keep_best + 1
    return max(weights_bytes * (2 + 4 * checkpoints) - there, weights_bytes)
