"""How much of a whole run's wall time is inside the model's forward and backward pass, and where the rest goes.

    VITRAIL_DATA=... .venv/bin/python bench/whole_run.py [--recipe cifar10-cpu] [--epochs 2] [--smoke]

A real run of `vitrail.train` on CIFAR-10, shortened: the schedule with its growing images is that of the recipe, so
the shares are those of the whole. From the call of `train`, data loaded and decoded, to its return, everything saved.
About two minutes on two quiet cores. Out: Markdown on stdout, bench/results/whole-run.json.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line does
sys.path.insert(0, str(Path(__file__).resolve().parent))

from results_file import save

import vitrail
from vitrail import recipes
from vitrail.training import inputs, keeping, step

train = importlib.import_module("vitrail.training.train")  # the package has a function of this name
SECONDS = dict.fromkeys(("data loading", "augment", "forward", "backward", "optimiser", "evaluation", "saving"), 0.0)


def timed(owner: object, name: str, phase: str) -> None:
    """Count the time inside a function of the engine."""
    original = getattr(owner, name)

    def counted(*args: object, **kwargs: object) -> object:
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            SECONDS[phase] += time.perf_counter() - start

    setattr(owner, name, counted)


def count_steps() -> None:
    """Have every training step say when its forward, backward and update end."""
    original = step.TrainStep.__call__

    def counted(self: step.TrainStep, *args: object, **kwargs: object) -> object:
        last = time.perf_counter()

        def mark(phase: str) -> None:
            nonlocal last
            now = time.perf_counter()
            SECONDS[phase] += now - last
            last = now

        self.mark = mark
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    step.TrainStep.__call__ = counted  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cifar10-cpu")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="the digits, nothing saved")
    args = parser.parse_args()
    config = recipes.get("digits" if args.smoke else args.recipe)
    config = replace(config, schedule=replace(config.schedule, epochs=args.epochs))
    count_steps()
    timed(inputs.Inputs, "__call__", "augment")
    timed(train, "load_sets", "data loading")
    timed(keeping, "evaluate", "evaluation")
    timed(train.Checkpointer, "save", "saving")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        vitrail.train(config, Path(folder) / "run")
        wall = time.perf_counter() - start
    parts = {**SECONDS, "the rest": wall - sum(SECONDS.values())}
    print(
        f"{config.recipe}, {args.epochs} epochs: {wall:.1f} s\n\n| part | seconds | of the wall time |\n|---|---|---|"
    )
    for name, seconds in parts.items():
        print(f"| {name} | {seconds:.1f} | {seconds / wall:.1%} |")
    inside = (SECONDS["forward"] + SECONDS["backward"]) / wall
    print(f"\nforward and backward: {inside:.1%} of the wall time (goal: 85 %)")
    if not args.smoke:
        print(save("whole-run", {"recipe": config.recipe, "epochs": args.epochs, "wall_seconds": wall,
                                 "seconds": parts, "forward_and_backward": inside}))  # fmt: skip


if __name__ == "__main__":
    main()
