"""Random crops cut out of the photographs' files, against random crops of a decoded centre crop: accuracy over seeds.

    python bench/photograph_crops.py WEIGHTS --photographs DIR [--image-size 98] [--seeds 3] [--epochs 6]

DIR has one photograph for each ImageNet class, named n01440764_tench.JPEG and so on, as the repository
EliSchwartz/imagenet-sample-images has them: 1,000 files of 300 to several thousand pixels a side. They fall into eight
classes by their WordNet numbers. For each seed half of each class is for training, a tenth to choose the best epoch on,
and the rest for testing, read once. All ways train the same recipe on the same split with the same seed.
"""

import argparse
import csv
import math
import random
import statistics
import tempfile
from pathlib import Path

from results_file import Results

import vitrail

GROUPS = {
    "fish": [(0, 7), (389, 398)],
    "bird": [(7, 25), (80, 101), (127, 147)],
    "reptile": [(25, 69)],
    "invertebrate": [(69, 80), (107, 127), (300, 330)],
    "mammal": [(101, 107), (147, 151), (269, 300), (330, 389)],
    "dog": [(151, 269)],
    "food or plant": [(924, 970), (984, 999)],
    "thing": [(398, 924), (970, 984), (999, 1000)],
}
"""Places in the list of ImageNet's classes, sorted by WordNet number."""
WAYS: dict[str, dict[str, object]] = {
    "files": {"data.store": "files"},
    "whole, in memory": {"data.store": "memory"},
    "centre crop": {},
}


def write_manifest(path: Path, photographs: list[Path], seed: int) -> None:
    """A CSV file with a stratified split."""
    rows: list[tuple[str, str, str]] = []
    for name, ranges in GROUPS.items():
        files = [photographs[place] for start, stop in ranges for place in range(start, stop)]
        random.Random(f"{seed} {name}").shuffle(files)
        for place, file in enumerate(files):
            share = place / len(files)
            rows.append((str(file.resolve()), name, "train" if share < 0.5 else "val" if share < 0.6 else "test"))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=98)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--resized-crop", type=float, default=0.35, help="smallest area of a crop")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    args = parser.parse_args()
    photographs = sorted(args.photographs.glob("n*.JPEG"))
    assert len(photographs) == 1000, f"{len(photographs)} photographs"
    results = Results(f"photograph_crops_{Path(args.weights).name.replace(':', '_')}")
    found: dict[str, list[float]] = {way: [] for way in args.ways}
    seconds: dict[str, list[float]] = {way: [] for way in args.ways}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            manifest = Path(folder, f"{seed}.csv")
            write_manifest(manifest, photographs, seed)
            for way in args.ways:
                size = {"data.decode_size": args.image_size} if way == "centre crop" else {}
                settings = {
                    "data.image_size": args.image_size, "data.batch_size": 32, "schedule.epochs": args.epochs,
                    "schedule.min_steps": 0, "compute.precision": "fp32", "probe.baseline": False, "seed": seed,
                    "evaluation.patience": 0, "augment.crop_padding": 0, "augment.resized_crop": args.resized_crop,
                    **size, **WAYS[way],
                }  # fmt: skip
                run = Path(folder, f"{seed}-{way.replace(' ', '-')}")
                result = vitrail.finetune(args.weights, str(manifest), run, settings=settings)
                test = vitrail.evaluate(run, str(manifest), split="test")
                found[way].append(test.accuracy)
                seconds[way].append(result.train_seconds)
                print(f"seed {seed}, {way}: {test.accuracy:.4f} in {seconds[way][-1]:.0f} s", flush=True)
                with results.part("accuracy") as answer:
                    answer |= {"image_size": args.image_size, "epochs": args.epochs, "resized_crop": args.resized_crop}
                    answer["test_accuracy"] = {
                        name: {
                            "seeds": values,
                            "mean": statistics.mean(values),
                            "spread": statistics.stdev(values) if len(values) > 1 else math.nan,
                        }
                        for name, values in found.items()
                        if values
                    }
                    answer["train_seconds"] = seconds
    results.end()


if __name__ == "__main__":
    main()
