"""Does pretraining without labels pay? Few labelled images of CIFAR-10 and many without, against the labels alone.

    python bench/pretraining.py --data-root DIR [--labels 50] [--images 45000] [--epochs 40] [--steps 300] [--seeds 3]

`pretrain-cpu` learns from the images without labels. Then, with so many labels of each class:

    probe            a linear probe on the features of the pretrained encoder
    probe of random  the same on those of random weights
    finetuned        from the pretrained encoder, by the recipe finetune-cpu
    scratch          from random weights, by the recipe cifar10-cpu, for so many steps
    scratch, longer  the same for as long as pretraining and fine-tuning took together

The measure is accuracy on 5,000 training images that nothing learns from, with labels or without, of the final
weights: no epoch is chosen. Each seed has other labelled images. Time is in CPU seconds over all threads, from reading
the images to the accuracy, so that other work on the machine disturbs little.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from results_file import Results

from vitrail import recipes, weights
from vitrail.config import RunConfig, ViTConfig
from vitrail.data import preprocessing_for
from vitrail.model import ViT
from vitrail.training import train
from vitrail.training.transfer import with_weights

CLASSES = 10
MARGIN = 1.3
"""Reading and measuring take as long in a long run as in a short one."""


def write_sets(
    table: pa.Table, folder: Path, num_images: int, num_labels: int, num_held_out: int, seed: int
) -> tuple[Path, Path]:
    """The folders of the images without labels and of those with, the same validation split in both.

    Args:
        num_labels, num_held_out: of each class.
    """
    labels = np.array(table.column("label"))
    places = [np.flatnonzero(labels == label) for label in range(CLASSES)]
    held_out = np.concatenate([of_class[-num_held_out:] for of_class in places])
    others = np.setdiff1d(np.arange(len(labels)), held_out)
    random = np.random.default_rng(seed)
    chosen = np.concatenate([random.permutation(of_class[:-num_held_out])[:num_labels] for of_class in places])
    images = np.union1d(chosen, random.permutation(others)[: max(0, num_images - len(chosen))])
    for name, train_rows in (("images", images), ("labelled", np.sort(chosen))):
        (folder / name).mkdir(parents=True)
        pq.write_table(table.take(train_rows), folder / name / "train-00000-of-00001.parquet")
        pq.write_table(table.take(np.sort(held_out)), folder / name / "validation-00000-of-00001.parquet")
    return folder / "images", folder / "labelled"


def on(config: RunConfig, spec: Path, seed: int) -> RunConfig:
    """The same run on other data, measured once, at its end, on the validation split."""
    evaluation = replace(config.evaluation, split="val", every_epochs=0, patience=0)
    data = replace(config.data, spec=str(spec))
    return replace(config, seed=seed, data=data, evaluation=evaluation)


def of_steps(config: RunConfig, steps: int) -> RunConfig:
    """The same run of another length."""
    return replace(config, schedule=replace(config.schedule, steps=steps, min_steps=0))


def timed(config: RunConfig, run: Path) -> dict[str, float]:
    """Accuracy of a run, of one without labels its loss; its CPU seconds, its steps."""
    start = time.process_time()
    result = train(config, run)
    score = result.evaluation.get("accuracy", result.evaluation["loss"])
    return {"score": score, "seconds": round(time.process_time() - start, 1), "steps": result.steps}


def save_random(config: RunConfig, path: Path, seed: int) -> Path:
    """A model file of the architecture's random weights, without a classifier."""
    torch.manual_seed(seed)
    preprocessing = preprocessing_for(config.data, (32, 32))
    model = ViT(ViTConfig.of(config.model, preprocessing.image_size, num_labels=0))
    weights.save(path, model, weights.Card(geometry=model.config, classes=(), preprocessing=preprocessing))
    return path


def one_seed(seed: int, table: pa.Table, folder: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Everything once: for each name its accuracy, or loss, and its seconds."""
    images, labelled = write_sets(table, folder / "data", args.images, args.labels, args.held_out, seed)
    found: dict[str, dict[str, float]] = {}

    def run(name: str, config: RunConfig) -> float:
        found[name] = timed(config, folder / name)
        seconds = found[name]["seconds"]
        print(f"seed {seed}  {name:16s} {found[name]['score']:.4f}  {seconds:7.1f} s", flush=True)
        return seconds

    start = recipes.get("pretrain-cpu")
    start = replace(start, schedule=replace(start.schedule, epochs=args.epochs))
    seconds = run("pretrained", on(start, images, seed))
    encoder = str(folder / "pretrained" / "last.safetensors")
    probe = recipes.get("linear-probe")
    run("probe", on(with_weights(probe, encoder), labelled, seed))
    random = str(save_random(start, folder / "random.safetensors", seed))
    run("probe of random", on(with_weights(probe, random), labelled, seed))
    seconds += run("finetuned", on(with_weights(recipes.get(args.recipe), encoder), labelled, seed))
    scratch = of_steps(recipes.get(args.scratch), args.steps)
    once = run("scratch", on(scratch, labelled, seed))
    longer = of_steps(scratch, max(args.steps, math.ceil(MARGIN * args.steps * seconds / once)))
    run("scratch, longer", on(longer, labelled, seed))
    return found


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} +- {deviation:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=50, help="of each class")
    parser.add_argument("--images", type=int, default=45_000, help="without labels")
    parser.add_argument("--epochs", type=int, default=40, help="of pretraining")
    parser.add_argument("--recipe", default="finetune-cpu", help="of fine-tuning")
    parser.add_argument("--scratch", default="cifar10-cpu", help="recipe of training from scratch")
    parser.add_argument("--steps", type=int, default=300, help="of training from scratch")
    parser.add_argument("--held-out", type=int, default=500, help="of each class, to measure on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder of the result (default: bench/results)")
    args = parser.parse_args()
    files = sorted((args.data_root / "cifar10").glob("train-*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    results, seeds = Results("pretraining", out=args.out), list[dict[str, dict[str, float]]]()
    for seed in range(args.seeds):
        with results.part(f"seed {seed}") as part, tempfile.TemporaryDirectory() as folder:
            seeds.append(one_seed(seed, table, Path(folder), args))
            part[f"seed {seed}"] = seeds[-1]
    with results.part("settings") as part:
        names = ("labels", "images", "epochs", "recipe", "scratch", "steps", "held_out")
        part.update({name: getattr(args, name) for name in names})
    print("| | accuracy; of pretrained, its loss | seconds |\n|---|---|---|")
    for name in seeds[0] if seeds else ():
        score, seconds = ([one[name][of] for one in seeds] for of in ("score", "seconds"))
        print(f"| {name} | {spread(score)} | {statistics.mean(seconds):.0f} |")
    results.end()


if __name__ == "__main__":
    main()
