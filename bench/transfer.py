"""Is transfer real? Shipped weights fine-tuned on 5,000 CIFAR-10 images against training from scratch for as long.

    python bench/transfer.py --data-root DIR [--weights builtin:cifar100-conv] [--seeds 3] [--out FILE]

The training set is the first 500 images of each class; the measure is accuracy on all 10,000 test images, of the final
weights: nothing is chosen on them. Two controls have the architecture of the weights, and at least as long as
fine-tuning with its probes took: `random` is the same recipe from random weights, without probes; `scratch` is our best
recipe for training from scratch on two cores, whose images begin small and therefore make more epochs.

Time is the wall time of the whole run, from reading the images to the test accuracy, so the machine must be quiet; CPU
seconds over all threads are in the result too. About nine minutes on two quiet cores with three epochs.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

# As the command line does: threads that spin starve each other. Before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitrail import recipes
from vitrail.config import InitConfig, ProbeConfig, RunConfig
from vitrail.run import environment
from vitrail.runtime.device import pick_device
from vitrail.training import train
from vitrail.training.transfer import with_weights

PER_CLASS = 500
TRIALS = (2, 6)
# More than the trials say is needed, so that controls have at least as long.
MARGIN = 1.05


@dataclass(frozen=True)
class Measured:
    """A run: test accuracy, CPU and wall seconds from start to end, epochs."""

    accuracy: float
    cpu_seconds: float
    wall_seconds: float
    epochs: int


def subset(root: Path, target: Path) -> Path:
    """CIFAR-10 as a folder of Parquet files, with the first images of each class for training and all for testing."""
    table = pa.concat_tables([pq.read_table(f) for f in sorted((root / "cifar10").glob("train-*.parquet"))])
    labels = np.array(table.column("label"))
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == k)[:PER_CLASS] for k in range(10)]))
    target.mkdir()
    pq.write_table(table.take(chosen), target / "train-00000-of-00001.parquet")
    for file in (root / "cifar10").glob("test-*.parquet"):
        (target / file.name).write_bytes(file.read_bytes())
    return target


def measured_once(config: RunConfig, spec: Path, seed: int) -> RunConfig:
    """The same run on the subset, measured once, at its end, on the test set."""
    evaluation = replace(config.evaluation, split="test", every_epochs=0, patience=0)
    return replace(config, seed=seed, data=replace(config.data, spec=str(spec)), evaluation=evaluation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--weights", default="builtin:cifar100-conv")
    parser.add_argument("--recipe", default="finetune-cpu")
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning")
    parser.add_argument("--scratch", default="cifar10-cpu-conv", help="recipe of training from scratch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs: list[dict[str, object]] = []

    def write(answer: dict[str, object]) -> None:
        if args.out:
            args.out.write_text(json.dumps(answer, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        spec = subset(args.data_root, Path(folder) / "data")

        def run(config: RunConfig, name: str, seed: int) -> Measured:
            wall, cpu = time.perf_counter(), time.process_time()
            result = train(measured_once(config, spec, seed), Path(folder) / f"{name}-{seed}")
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            measured = Measured(result.evaluation["accuracy"], cpu, wall, result.epochs)
            runs.append({"name": name, "seed": seed, **asdict(measured)})
            write({"runs": runs})
            print(
                f"{name:12s} seed {seed}  {measured.accuracy:.4f}  {measured.epochs:3d} epochs  "
                f"{cpu:6.1f} CPU s  {wall:6.1f} s",
                flush=True,
            )
            return measured

        def controls(config: RunConfig, name: str, wanted: float) -> list[Measured]:
            """Runs of at least so many seconds: two short ones tell what the first epoch and each more cost."""

            def of(epochs: int) -> RunConfig:
                return replace(config, schedule=replace(config.schedule, epochs=epochs))

            fewer, more = (run(of(epochs), f"{name}-{epochs}", 0).wall_seconds for epochs in TRIALS)
            an_epoch = (more - fewer) / (TRIALS[1] - TRIALS[0])
            epochs = TRIALS[0] + math.ceil((MARGIN * wanted - fewer) / an_epoch)
            return [run(of(max(1, epochs)), name, s) for s in range(args.seeds)]

        probes = {name: run(with_weights(recipes.get(name), args.weights), name, 0) for name in ("knn", "linear-probe")}
        recipe = recipes.get(args.recipe)
        recipe = replace(recipe, schedule=replace(recipe.schedule, epochs=args.epochs, min_steps=0))
        tuned = [run(with_weights(recipe, args.weights), "finetune", s) for s in range(args.seeds)]
        wanted = max(r.wall_seconds for r in tuned)
        plain = replace(with_weights(recipe, args.weights), init=InitConfig(), probe=ProbeConfig())
        random = controls(plain, "random", wanted)
        best = recipes.get(args.scratch)
        scratch = controls(replace(best, model=with_weights(best, args.weights).model), "scratch", wanted)

    def mean(results: list[Measured]) -> float:
        return statistics.mean(r.accuracy for r in results)

    def told(results: list[Measured]) -> dict[str, object]:
        scores = [r.accuracy for r in results]
        return {
            "accuracy": scores,
            "mean": mean(results),
            "stdev": statistics.stdev(scores) if len(scores) > 1 else 0.0,
            "cpu_seconds": [round(r.cpu_seconds, 1) for r in results],
            "wall_seconds": [round(r.wall_seconds, 1) for r in results],
            "epochs": results[0].epochs,
        }

    known = environment(measured_once(recipes.get("finetune"), spec, 0), pick_device("cpu"))
    answer = {
        "weights": args.weights,
        "recipe": args.recipe,
        "scratch_recipe": args.scratch,
        "num_train": 10 * PER_CLASS,
        "num_test": 10_000,
        "knn": told([probes["knn"]]),
        "linear-probe": told([probes["linear-probe"]]),
        "finetune": told(tuned),
        "random": told(random),
        "scratch": told(scratch),
        "gain_over_random": mean(tuned) - mean(random),
        "gain_over_scratch": mean(tuned) - mean(scratch),
        "controls_had_as_long": min(r.wall_seconds for r in random + scratch) >= wanted,
        **{name: known[name] for name in ("versions", "commit", "cpu")},
        "runs": runs,
    }
    print(json.dumps(answer, indent=1))
    write(answer)


if __name__ == "__main__":
    main()
