"""Training speed of the recipe reference-scratch, beside the reference system written plainly.

    .venv/bin/python bench/reference_scratch.py [--rounds 5] [--seconds 60] [--device auto] [--batch-size 32]

Whole steps, input included: decoded CIFAR-10 images in, weights moved. The contenders take turns, each first in every
second round. On a GPU a contender first takes untimed steps for three seconds, so that what its workers prepared in
the other's turn is used up; on a CPU that is a hundredth of a step. A turn lasts at least --seconds and one step.

Out: a Markdown table on stdout, and everything as JSON in bench/results/. Keep the machine quiet.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference.plain import PlainTraining

from vitrail import data, recipes
from vitrail.augment import Augment
from vitrail.config import RunConfig, ViTConfig
from vitrail.model import ViT
from vitrail.run import describe_environment
from vitrail.runtime.device import pick_device
from vitrail.training.linear_kernels import choose_linear_kernels
from vitrail.training.optim import build_optimizers
from vitrail.training.step import TrainStep

RESULTS = Path(__file__).with_name("results")
SETTLE_S = 3.0


class OurTraining:
    """The same training from our rooms; `step()` returns the number of images it took."""

    def __init__(self, config: RunConfig, images: data.ImageSet, device: torch.device, batch_size: int) -> None:
        preprocessing = data.preprocessing_for(config.data)
        self.images, self.device, self.batch_size = images, device, batch_size
        self.epoch, self.num_steps, self.batches = 0, 0, self.one_epoch(0)
        self.augment = Augment(config.augment, preprocessing, seed=config.seed)
        model = (
            ViT(
                ViTConfig.of(
                    config.model,
                    preprocessing.image_size,
                    num_channels=preprocessing.num_channels,
                    num_labels=len(images.classes),
                )
            )
            .to(device)
            .train()
        )
        optimizers, linear = (
            build_optimizers(model, config.optim),
            choose_linear_kernels(config.compute, model, batch_size).by,
        )
        self.train_step = TrainStep(model, optimizers, config.optim, config.compute, seed=0, linear=linear)

    def one_epoch(self, epoch: int) -> Iterator[data.Batch]:
        order = data.epoch_order(0, epoch, len(self.images.labels))
        whole = order[: len(order) // self.batch_size * self.batch_size]
        return data.batches(self.images, whole, self.batch_size, device=self.device)

    def step(self) -> int:
        batch = next(self.batches, None)
        if batch is None:
            self.epoch += 1
            self.batches = self.one_epoch(self.epoch)
            batch = next(self.batches)
        pixel_values = self.augment(batch.images, batch.ids, self.epoch)
        self.train_step(pixel_values, batch.labels, self.num_steps, 1.0).item()
        self.num_steps += 1
        return len(batch.labels)


def images_per_second(step: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Take whole steps for at least `seconds`, at least one."""
    synchronize(device)
    started, images, elapsed = time.perf_counter(), 0, 0.0
    while not images or elapsed < seconds:
        images += step()
        synchronize(device)
        elapsed = time.perf_counter() - started
    return images / elapsed


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    contenders: dict[str, Callable[[], int]],
    rounds: int,
    seconds: float,
    device: torch.device,
    on_round: Callable[[dict[str, list[float]]], object],
) -> dict[str, list[float]]:
    """Let the contenders take turns; images per second of each, one value a round."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for step in contenders.values():
        step()  # first touch: workers start, kernels are chosen
    for number in range(rounds):
        for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
            if device.type == "cuda":
                images_per_second(contenders[name], SETTLE_S, device)
            rates[name].append(images_per_second(contenders[name], seconds, device))
            print(f"round {number + 1}/{rounds} {name}: {rates[name][-1]:.3f} img/s", file=sys.stderr)
        on_round(rates)
    return rates


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Median and range of each contender, and of the ratio ours / reference within a round."""
    ratios = [ours / reference for ours, reference in zip(rates["vitrail"], rates["reference"], strict=True)]
    spread = {name: {"median": statistics.median(v), "min": min(v), "max": max(v)} for name, v in rates.items()}
    return {**spread, "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    machine, found = result["environment"], result["summary"]
    rows = [
        f"reference-scratch, whole training steps: ViT-B/16 at 224, batch {result['batch_size']}, "
        f"{result['precision']}, {machine['cpu']['name']}, {machine['cpu']['threads']} threads, {machine['device']}, "
        f"torch {machine['versions']['torch']}, commit {machine['commit']}, {result['date']}; "
        f"{result['rounds']} interleaved rounds of at least {result['seconds']:g} s",
        "",
        "| | median | min | max |",
        "|---|---|---|---|",
    ]
    for name, unit in (("reference", "img/s"), ("vitrail", "img/s"), ("ratio", "x")):
        rows.append(
            f"| {name} ({unit}) | " + " | ".join(f"{found[name][k]:.3f}" for k in ("median", "min", "max")) + " |"
        )
    return "\n".join(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (5)")
    parser.add_argument("--seconds", type=float, default=60.0, help="shortest turn (60)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step (32, as the recipe)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    device = pick_device(args.device)
    config = recipes.get("reference-scratch")
    images = data.load(config.data, ("train",), progress=True)["train"]
    plain = PlainTraining(np.asarray(images.images), images.labels, device, args.batch_size)
    ours = OurTraining(config, images, device, args.batch_size)
    path = RESULTS / f"reference-scratch-{device.type}.json"
    RESULTS.mkdir(exist_ok=True)
    result: dict[str, Any] = {
        "name": "reference-scratch",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "batch_size": args.batch_size,
        "precision": "fp16" if device.type == "cuda" else "fp32",
        "environment": describe_environment(config, device).to_json(),
    }

    def write(rates: dict[str, list[float]]) -> None:
        result.update(images_per_second=rates, summary=summary(rates))
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    measure({"reference": plain.step, "vitrail": ours.step}, args.rounds, args.seconds, device, write)
    print(table(result))
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
