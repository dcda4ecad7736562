"""What a run is: all that stays the same from its first step to its last, and the little that changes."""

from dataclasses import dataclass

import torch

from vitrail import data
from vitrail.config import Preprocessing, RunConfig
from vitrail.data import ImageSet, Source
from vitrail.distributed import World
from vitrail.errors import RunError
from vitrail.run import Environment, RunDir, Score
from vitrail.training.inputs import Inputs
from vitrail.training.schedule import Timetable
from vitrail.training.step import TrainStep


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The images of a run, and how they become the model's input.

    Args:
        held_out: what the best epoch is chosen on.
        test: measured once with the best model; None: it is not.
    """

    train: ImageSet
    held_out: ImageSet
    test: ImageSet | None
    preprocessing: Preprocessing

    @property
    def all(self) -> tuple[ImageSet, ...]:
        """Every set that there is."""
        return (self.train, self.held_out, *((self.test,) if self.test else ()))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, on what, and where."""

    config: RunConfig
    run_dir: RunDir
    world: World
    device: torch.device
    sets: Sets
    train_step: TrainStep
    inputs: Inputs
    timetable: Timetable
    environment: Environment
    progress: bool


@dataclass
class State:
    """What changes during a run besides tensors; all of it is saved with a checkpoint.

    Args:
        stale: evaluations in a row, after the middle of the schedule, without a better one.
        final, best: of the last and the best evaluation; None before the first.
    """

    step: int = 0
    num_examples_seen: int = 0
    train_seconds: float = 0.0
    evaluated_step: int = -1
    best_step: int = 0
    stale: int = 0
    skipped_in_a_row: int = 0
    final: Score | None = None
    best: Score | None = None


def load_sets(config: RunConfig, world: World, source: Source | None = None, *, progress: bool) -> Sets:
    """Load the data; on each machine the first process does before the others, who find what it left."""
    splits: dict[str, ImageSet] = {}
    for turn in (True, False):
        if (world.local_rank == 0) == turn:
            wanted = ("train", config.evaluation.split, *(("test",) if config.evaluation.test_best else ()))
            random_crops = config.augment.resized_crop < 1 and config.probe.method == "none"
            splits = data.load(
                config.data, wanted, source=source, progress=progress, random_crops=random_crops,
                shared=world.size > 1, needs_labels=not config.is_pretraining,
            )  # fmt: skip
        world.gather(None)
    return Sets(
        train=splits["train"],
        held_out=splits[config.evaluation.split],
        test=splits["test"] if config.evaluation.test_best else None,
        preprocessing=data.preprocessing_for(config.data),
    )


def fingerprints(sets: Sets) -> dict[str, dict[str, object]]:
    """What environment.json says about the data: fingerprint, count and unreadable files of each split."""
    return {
        s.split: {
            "fingerprint": s.fingerprint,
            "num_examples": len(s.labels),
            "errors": [{"path": error.name, "error": error.reason} for error in s.errors],
        }
        for s in sets.all
    }


def check_same_data(spec: str, stored: dict[str, dict[str, object]], found: dict[str, dict[str, object]]) -> None:
    """Raise RunError when the data are not those that the run was started with."""
    for split, described in found.items():
        before = stored.get(split, {}).get("fingerprint")
        if before != described["fingerprint"]:
            raise RunError(
                f"{spec}: the {split} split is not the one that this run was started with.",
                got=f"{described['num_examples']} examples, fingerprint {str(described['fingerprint'])[:16]}",
                expected=f"fingerprint {str(before or 'of no such split')[:16]}",
                do="Restore the data as they were (and data.ram-budget-mib, which decides how images are kept), or "
                "start a new run.",
            )
