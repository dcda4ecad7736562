"""What do the recipes of fine-tuning reach with a DINOv2 S/14 on CIFAR-10, and in how much time and memory?

    python bench/dinov2_cifar.py --weights FOLDER [--images 45000] [--split val] [--recipes finetune random]
        [--image-size 98] [--epochs 3] [--lr-factor 1] [--runs DIR] [--out DIR]

Each recipe has a process of its own. The training images are the first ones of each class; for --split val, the next
ones are held out and measured, for comparing settings; --split test measures the 10,000 test images, once everything
has been chosen. Of a run, the weights after the last step are measured: no epoch is chosen. The row linear-probe is
fitted on all images.

`random` is the control: the architecture and the recipe finetune from random weights, at one learning rate for all
layers, for at least as long as the slowest of the runs before it.

Minutes are those of the whole process, from reading the images to the last measurement, so the machine must be quiet;
processor minutes over all threads are in the result too. A recipe whose row the result file has already is not measured
again while images, split, size and factor stay the same. `--runs DIR` keeps the images and the models.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

# As the command line does: threads that spin starve each other. Before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from results_file import Results

import tests.support.torchvision_operators  # noqa: F401  (before peft, which imports torchvision where it is)
from vitrail import recipes
from vitrail.bench.fresh import in_fresh_process, peak_memory_mib
from vitrail.config import InitConfig, ProbeConfig, RunConfig, from_json, to_json
from vitrail.training import train
from vitrail.training.transfer import with_weights

PROBE, RANDOM = "linear-probe", "random"
TRIAL_STEPS = 20
# More than the trial says is needed, so that the control has at least as long.
MARGIN = 1.05
LONGEST_S = 24 * 3600.0


def subset(root: Path, target: Path, num_train: int, num_val: int) -> Path:
    """CIFAR-10 as Parquet: the first images of each class for training, the next ones as val, and the test set."""
    table = pa.concat_tables([pq.read_table(f) for f in sorted((root / "cifar10").glob("train-*.parquet"))])
    labels = np.array(table.column("label"))
    of_class = [np.flatnonzero(labels == k) for k in range(10)]
    first, end = num_train // 10, (num_train + num_val) // 10
    if end > min(map(len, of_class)):
        sys.exit(f"--images {num_train} and --val {num_val} are more than the {len(labels)} training images")
    target.mkdir(exist_ok=True)
    for name, part in (("train", slice(0, first)), ("validation", slice(first, end))):
        if part.stop > part.start:
            chosen = np.sort(np.concatenate([places[part] for places in of_class]))
            pq.write_table(table.take(chosen), target / f"{name}-00000-of-00001.parquet")
    for file in (root / "cifar10").glob("test-*.parquet"):
        (target / file.name).write_bytes(file.read_bytes())
    return target


def work(settings: str, folder: str) -> None:
    """Train in this process and print what came of it."""
    config = from_json(RunConfig, json.loads(settings))
    result = train(config, folder)
    answer = {
        "accuracy": result.evaluation["accuracy"],
        "num_examples": result.evaluation["num_examples"],
        "epochs": result.epochs,
        "steps": result.steps,
        "train_seconds": round(result.train_seconds, 3),
        "cpu_minutes": round(time.process_time() / 60, 2),
        "peak_mib": round(peak_memory_mib()),
    }
    print(json.dumps(answer))


def measure(config: RunConfig, folder: Path) -> dict[str, Any]:
    """The same in a process of its own, with its minutes."""
    code = "import dinov2_cifar; dinov2_cifar.work(*sys.argv[1:])"
    answer, seconds = in_fresh_process(code, json.dumps(to_json(config)), str(folder), timeout_s=LONGEST_S)
    return {**answer, "minutes": round(seconds / 60, 2)}


def of_recipe(name: str, args: argparse.Namespace, spec: Path) -> RunConfig:
    """A recipe on these weights and images, measured once, at its end."""
    config = with_weights(recipes.get(name), args.weights)
    schedule = replace(config.schedule, epochs=args.epochs, steps=0, min_steps=0) if args.epochs else config.schedule
    probe = replace(config.probe, max_examples=args.images) if name == PROBE else config.probe
    optim = replace(config.optim, lr=config.optim.lr * args.lr_factor)
    return replace(
        config,
        data=replace(config.data, spec=str(spec), image_size=args.image_size, resize_size=0, decode_size=32),
        schedule=schedule,
        evaluation=replace(config.evaluation, split=args.split, every_epochs=0, patience=0),
        probe=probe,
        optim=optim,
    )


def from_random_weights(config: RunConfig, folder: Path, seconds: float) -> dict[str, Any]:
    """The same architecture without its weights, for at least so many seconds of training."""
    plain = replace(config, init=InitConfig(), probe=ProbeConfig(), optim=replace(config.optim, layer_decay=1.0))
    trial = measure(
        replace(plain, schedule=replace(plain.schedule, steps=TRIAL_STEPS, epochs=1)), folder.with_name("trial")
    )
    steps = math.ceil(MARGIN * seconds * TRIAL_STEPS / trial["train_seconds"])
    return measure(replace(plain, schedule=replace(plain.schedule, steps=steps)), folder)


def show(row: dict[str, Any]) -> None:
    """A line of the table."""
    accuracy = f"{row['accuracy']:.4f} of {row['num_examples']}"
    print(
        f"| {row['recipe']} | {accuracy} | {row['epochs']} | {row['minutes']:.1f} | {row['cpu_minutes']:.1f} | "
        f"{row['peak_mib']} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", required=True, help="folder of a DINOv2 S/14, as vitrail finetune takes it")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("VITRAIL_DATA"), help="where cifar10/ lies")
    parser.add_argument("--images", type=int, default=45000, help="of the training set")
    parser.add_argument("--val", type=int, default=5000, help="held out of the rest, with --split val")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--recipes", nargs="+", default=[PROBE, "finetune-last", "finetune", "lora", RANDOM])
    parser.add_argument("--image-size", type=int, default=98)
    parser.add_argument("--epochs", type=int, default=0, help="0: as the recipes say")
    parser.add_argument("--lr-factor", type=float, default=1.0, help="times the recipes' learning rates")
    parser.add_argument("--runs", type=Path, help="folder to keep images and runs in")
    parser.add_argument("--out", type=Path, help="another folder for the result")
    args = parser.parse_args()
    if not args.data_root:
        parser.error("--data-root or VITRAIL_DATA must say where cifar10/ lies")
    results = Results("dinov2_cifar", out=args.out)
    settings = {"weights": Path(args.weights).name, "images": args.images, "split": args.split}
    settings |= {"image_size": args.image_size, "lr_factor": args.lr_factor}
    earlier = results.earlier()
    rows: list[dict[str, Any]] = earlier.get("runs", []) if settings.items() <= earlier.items() else []
    results.answer |= {**settings, "runs": rows}
    with tempfile.TemporaryDirectory() as place:
        folder = args.runs or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        spec = subset(Path(args.data_root), folder / "data", args.images, args.val if args.split == "val" else 0)
        print(
            "| recipe | accuracy | epochs | minutes | processor minutes | MiB |\n|---|---|---|---|---|---|", flush=True
        )
        for name in dict.fromkeys(args.recipes):
            with results.part(name):
                if name in {row["recipe"] for row in rows}:
                    continue
                if name == RANDOM:
                    longest = 60 * max(row["minutes"] for row in rows)
                    measured = from_random_weights(of_recipe("finetune", args, spec), folder / name, longest)
                else:
                    measured = measure(of_recipe(name, args, spec), folder / name)
                rows.append({"recipe": name, "threads": torch.get_num_threads(), **measured})
                show(rows[-1])
    results.end()


if __name__ == "__main__":
    main()
