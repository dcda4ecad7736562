"""A recipe's score and time over several seeds: the row that README publishes.

    .venv/bin/python bench/recipe_seeds.py cifar10-cpu [--seeds 0 1 2] [--runs runs/seeds]

Each seed is one `vitrail train RECIPE --seed N` in a process of its own, in RUNS/RECIPE-N; a run that is there already
is gone on with, or only read when it is finished. Out: every single value as JSON in bench/results/, mean and standard
deviation as a Markdown row on stdout. The seeds are named before the first run and none is left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from results_file import Results

KEYS = ("steps", "num_examples_seen", "train_seconds", "images_per_second")


def train(recipe: str, seed: int, run: Path) -> dict[str, Any]:
    """Train one seed, or read what it came to."""
    goes_on = ["--resume"] if (run / "config.json").exists() else []
    command = [
        sys.executable,
        "-m",
        "vitrail",
        "train",
        recipe,
        "--seed",
        str(seed),
        "--run",
        str(run),
        "--json",
        *goes_on,
    ]
    result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    evaluation = result["evaluation"]
    return {
        "seed": seed,
        "split": evaluation["split"],
        **{name: evaluation[name] for name in ("num_examples", "num_correct", "accuracy", "loss")},
        **{name: result[name] for name in KEYS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    args = parser.parse_args()
    results = Results(f"{args.recipe}-seeds")
    rows: list[dict[str, Any]] = []
    results.answer.update(recipe=args.recipe, seeds=rows)
    commit = ""
    for seed in args.seeds:
        run = args.runs / f"{args.recipe}-{seed}"
        with results.part(f"seed {seed}") as answer:
            rows.append(train(args.recipe, seed, run))
            environment = json.loads((run / "environment.json").read_text())
            answer["environment"] = {
                name: environment[name] for name in ("versions", "commit", "cpu", "device", "data")
            }
            rows[-1]["threads"] = environment["cpu"]["threads"]
            commit = environment["commit"]
    if not rows:
        results.end()
    accuracies = [row["accuracy"] for row in rows]
    seconds = [row["train_seconds"] for row in rows]
    spread = statistics.stdev(accuracies) if len(rows) > 1 else float("nan")
    print(
        f"| `{args.recipe}` | {statistics.mean(accuracies):.2%} +- {spread:.2%} ({len(rows)} seeds: "
        f"{', '.join(f'{value:.2%}' for value in accuracies)}) | {min(seconds):.0f} to {max(seconds):.0f} s | "
        f"{commit} |"
    )
    results.end()


if __name__ == "__main__":
    main()
