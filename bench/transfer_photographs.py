"""Does fine-tuning beat its own baselines on few photographs? The default, the linear probe and k-NN, on many splits.

    python bench/transfer_photographs.py --photographs DIR [--group held-out] [--splits 5] [--out FILE]

DIR has one photograph for each ImageNet class, named n01440764_tench.JPEG and so on, as the repository
EliSchwartz/imagenet-sample-images has them. They are grouped by meaning into a few classes. For each split a third of
each class is for testing, chosen by the split's number, and read once; of the rest each run holds out its tenth. The
three runs are the commands that a person types, with nothing set.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from vitrail import recipes
from vitrail.run import environment
from vitrail.runtime.device import pick_device

GROUPS_FILE = Path(__file__).parent / "photograph_groups.json"
RECIPES = ("finetune", "linear-probe", "knn")


def photographs(folder: Path, names: list[str]) -> list[Path]:
    """The files of the classes that are named, by WordNet number."""
    found = {file.name.split("_", 1)[0]: file for file in folder.iterdir() if file.suffix.lower() in (".jpeg", ".jpg")}
    if missing := [name for name in names if name not in found]:
        raise SystemExit(f"{folder} has no photograph of {len(missing)} classes, as {missing[0]}")
    return [found[name] for name in names]


def lay_out(folder: Path, groups: dict[str, list[Path]], split: int) -> Path:
    """A data folder of links: train/CLASS and test/CLASS."""
    for name, files in groups.items():
        order = sorted(files)
        random.Random(f"{split}{name}").shuffle(order)
        num_test = round(len(order) / 3)
        for part, chosen in (("test", order[:num_test]), ("train", order[num_test:])):
            (folder / part / name).mkdir(parents=True)
            for file in chosen:
                (folder / part / name / file.name).symlink_to(file.resolve())
    return folder


def test_accuracy(weights: str, recipe: str, data: Path, run: Path) -> float:
    """What one command reaches on the test split."""
    command = ["finetune", weights, "--data", str(data), "--recipe", recipe, "--run", str(run)]
    done = subprocess.run([sys.executable, "-m", "vitrail", *command], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"vitrail {' '.join(command)}: {done.stderr.strip()}")
    return float(json.loads((run / "evaluation.json").read_text())["test"]["accuracy"])


def told(values: list[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "stdev": spread, "standard_error": spread / math.sqrt(len(values))}


def main() -> None:
    all_groups = json.loads(GROUPS_FILE.read_text())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--group", choices=tuple(all_groups), default="held-out")
    parser.add_argument("--weights", default="builtin:cifar100-conv")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    groups = {name: photographs(args.photographs, numbers) for name, numbers in all_groups[args.group].items()}
    known = environment(recipes.get("finetune"), pick_device("cpu"))
    rows: list[dict[str, float]] = []
    for split in range(args.splits):
        with tempfile.TemporaryDirectory() as temporary:
            data = lay_out(Path(temporary) / "photographs", groups, split)
            rows.append({r: test_accuracy(args.weights, r, data, Path(temporary) / r) for r in RECIPES})
        print(split, "  ".join(f"{name} {value:.4f}" for name, value in rows[-1].items()), flush=True)
        answer = {
            "weights": args.weights,
            "group": args.group,
            "num_photographs": {name: len(files) for name, files in groups.items()},
            "splits": rows,
            **{name: known[name] for name in ("versions", "commit", "cpu")},
            **{name: told([row[name] for row in rows]) for name in RECIPES},
            "finetune_minus_linear_probe": told([row["finetune"] - row["linear-probe"] for row in rows]),
            "finetune_minus_knn": told([row["finetune"] - row["knn"] for row in rows]),
        }
        if args.out:
            args.out.write_text(json.dumps(answer, indent=1) + "\n")
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
