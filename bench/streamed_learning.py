"""Does a model learn as much from class-sorted shards, in the streamed order, as from images in memory in any order?

    python bench/make_tars.py cifar10 TARS --per-class
    python bench/streamed_learning.py --tars TARS [--recipe cifar10-cpu] [--epochs 3] [--seeds 0 1 2] [--ways 3]

CIFAR-10 as ten shards a split, each of one class: the worst case for an order that reads chunks. The same recipe and
seeds, three ways: from memory; streamed with the default lanes and window, which hold all of so small a set; streamed
with 8 lanes and 2 chunks a window, where about an eighth of the set is in use at a time. The test set is read once
a run.

Out: bench/results/streamed_learning.json.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from results_file import Results

import vitrail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tars", type=Path, required=True)
    parser.add_argument("--recipe", default="cifar10-cpu")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", type=int, choices=(2, 3), default=3, help="2: without the third, the slowest")
    args = parser.parse_args()
    ways: dict[str, dict[str, object]] = {
        "memory": {"data.spec": "cifar10"},
        "streamed": {"data.spec": str(args.tars)},
        "streamed, 8 lanes of 2": {"data.spec": str(args.tars), "data.lanes": 8, "data.window": 2},
    }
    results = Results("streamed_learning")
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for way, settings in list(ways.items())[: args.ways]:
                run = Path(folder, f"{seed}-{way.replace(' ', '-')}")
                every = {"schedule.epochs": args.epochs, "evaluation.every_epochs": args.epochs, "seed": seed}
                result = vitrail.train(args.recipe, run, settings=every | settings)
                found[way].append(result.final.accuracy)
                print(f"seed {seed}, {way}: {found[way][-1]:.4f} in {result.train_seconds:.0f} s", flush=True)
                with results.part("accuracy") as answer:
                    answer |= {"recipe": args.recipe, "epochs": args.epochs}
                    answer["test_accuracy"] = {
                        name: {
                            "seeds": values,
                            "mean": statistics.mean(values),
                            "spread": statistics.stdev(values) if len(values) > 1 else None,
                        }
                        for name, values in found.items()
                        if values
                    }
    results.end()


if __name__ == "__main__":
    main()
