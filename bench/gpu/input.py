"""The input side on a GPU: augmentation alone, and what a step of a recipe waits for.

    PYTHONPATH=src python bench/gpu/input.py [--seconds 3] [--smoke]

For the recipes cifar10 and reference-scratch on random pixels: images a second through the augmentation on the
device; then fractions of a training step (data wait, transfer, augment, forward, backward, optimiser). A clock that
waits for the device after each phase removes its overlap, so the data wait is an upper bound. Out: Markdown,
gpu-input.json in OUT (default bench/results).
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from results_file import save

from vitrail import data, recipes
from vitrail.augment import Augment
from vitrail.bench import rate_of
from vitrail.bench.phases import Training, random_images
from vitrail.model import ViT
from vitrail.training.setup import model_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--smoke", action="store_true", help="the digits on the CPU, nothing saved")
    args = parser.parse_args()
    device, results = torch.device("cpu" if args.smoke else "cuda"), {}
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    for name in ("digits",) if args.smoke else ("cifar10", "reference-scratch"):
        config = recipes.get(name)
        size = config.data.batch_size
        preprocessing = data.preprocessing_for(config.data, None if args.smoke else (32, 32))
        image_set = random_images(16 if args.smoke else 20 * size, 10, preprocessing)
        augment = Augment(config.augment, preprocessing, seed=0)
        images = torch.from_numpy(image_set.images[:size]).to(device)
        ids = torch.arange(len(images), device=device)

        def work(augment: Augment = augment, images: torch.Tensor = images, ids: torch.Tensor = ids) -> int:
            augment(images, ids, 0)
            if images.is_cuda:
                torch.cuda.synchronize()
            return len(images)

        work()
        rate = rate_of(work, 0.0 if args.smoke else args.seconds)
        config = replace(config, data=replace(config.data, batch_size=min(size, len(image_set))))
        model = ViT(model_config(config.model, preprocessing, image_set.classes)).to(device)
        training = Training(config, model, image_set, preprocessing)
        for _ in range(1 if args.smoke else 5):
            training.step()
        steps = rate_of(training.step, 0.0 if args.smoke else args.seconds)
        clock = training.time_phases()
        rate_of(training.step, 0.0 if args.smoke else args.seconds)
        results[name] = {"augmented_per_second": rate, "trained_per_second": steps, "fractions": clock.fractions()}
        if not args.smoke:
            save("gpu-input", results, device=device, out=out)
        print(
            f"\n{name}: augmentation {rate:,.0f} img/s, training {steps:,.0f} img/s\n\n| phase | of a step |\n|---|---|"
        )
        for phase, part in clock.fractions().items():
            print(f"| {phase} | {part:.1%} |", flush=True)
    if not args.smoke:
        print(save("gpu-input", results, device=device, out=out))


if __name__ == "__main__":
    main()
