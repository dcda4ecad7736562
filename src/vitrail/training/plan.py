"""What is about to happen in a run, in the words of a few lines: the plan that is shown before the first step."""

from pathlib import Path

import numpy as np
import torch

from vitrail.config import RunConfig
from vitrail.data import ImageSet
from vitrail.distributed import World
from vitrail.errors import ImageError, shown
from vitrail.model import ViT
from vitrail.training.precision import autocast_dtype
from vitrail.training.pretraining import plan_line
from vitrail.training.reporting import sizes_line, stages
from vitrail.training.run import Run, Sets
from vitrail.training.teacher import teacher_lines

# Largest class over smallest, from which on the plan speaks of it.
_IMBALANCE = 10


def plan(run: Run) -> list[str]:
    """What is about to happen in a run that trains."""
    config, times, sets = run.config, run.timetable, run.sets
    steps = f"{times.total_steps} step{'' if times.total_steps == 1 else 's'} of {config.data.batch_size}"
    lines = work_lines(
        config, sets, run.train_step.model, steps, run.device, run.run_dir.path, linear=run.train_step.linear
    )
    if run.world.size > 1:
        lines.insert(1, processes_line(config, run.world))
    lines += teacher_lines(config, run.environment.teacher)
    if times.passes_per_epoch > 1:
        lines.append(
            f"epochs         {times.epochs} instead of {config.schedule.epochs}: so few images are repeated until "
            f"there are {config.schedule.min_steps} steps (schedule.min-steps)"
        )
    if len(grows := stages(config, times)) > 1:
        lines.append(sizes_line(config, grows))
    return [*lines, *sets.train.notes, *unreadable_lines(sets.train.errors)]


def probe_plan(config: RunConfig, sets: Sets, model: ViT, device: torch.device, path: Path) -> list[str]:
    """What is about to happen in a run that fits a probe."""
    what = {"linear": "a linear probe", "knn": f"the {config.probe.num_neighbors} nearest"}[config.probe.method]
    seen = config.probe.max_examples
    work = f"{what} of {f'the features of {seen} of them' if seen < len(sets.train) else 'their features'}"
    lines = work_lines(config, sets, model, work, device, path)
    return [*lines, *sets.train.notes, *unreadable_lines(sets.train.errors)]


def work_lines(
    config: RunConfig, sets: Sets, model: ViT, work: str, device: torch.device, path: Path, *, linear: str = ""
) -> list[str]:
    """Model, data and work in a line; one more for classes of very different size."""
    parameters = sum(p.numel() for p in model.parameters())
    chosen = "chosen and " if config.evaluation.every_epochs and config.evaluation.split == "test" else ""
    relative = " with relative positions" if model.config.relative_positions else ""
    used = str(autocast_dtype(config.compute, device) or "fp32").removeprefix("torch.")
    what = plan_line(config) if config.is_pretraining else _classes(sets.train)
    then = f", the best model then once on {len(sets.test)} of the test split" if sets.test else ""
    return [
        f"{model.config.kind}{relative}, {parameters / 1e6:.2f} M parameters, {what}; "
        f"{len(sets.train)} training images, {work}; "
        f"{chosen}measured on {len(sets.held_out)} images of the {config.evaluation.split} split{then}; "
        f"{device}, {used}{f', linear layers by {linear}' if linear else ''}; {path}",
        *imbalance(config, sets.train),
    ]


def processes_line(config: RunConfig, world: World) -> str:
    """How several processes share a step."""
    sizes = sorted({world.share_size(config.data.batch_size, rank) for rank in range(world.size)})
    return (
        f"{world.size} processes ({config.parallel.strategy}, {world.backend}): {' or '.join(map(str, sizes))} of the "
        f"{config.data.batch_size} images per step on each"
    )


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
    advice = f"balanced by {used[0]}" if used else f"{' or '.join(measures)} balances them"
    if config.probe.method != "none":
        advice = "a probe counts every image once"
    return [
        f"imbalance      {ratio:.3g} times: {counts[many]} training images of {shown(train_set.classes[many])}, "
        f"{counts[few]} of {shown(train_set.classes[few])}; {advice}"
    ]


def unreadable_lines(errors: tuple[ImageError, ...], most: int = 10) -> list[str]:
    """A line for each training image that cannot be read, and one for those beyond `most`."""
    lines = [f"skipped in training: {error}" for error in errors[:most]]
    if len(errors) > most:
        lines.append(f"skipped in training: {len(errors) - most} more, all in environment.json")
    return lines


def _classes(train_set: ImageSet, most: int = 10) -> str:
    """How many classes there are, and the names of the first ones."""
    names = ", ".join(shown(name, 40) for name in train_set.classes[:most])
    return f"{len(train_set.classes)} classes ({names}{', ...' if len(train_set.classes) > most else ''})"
