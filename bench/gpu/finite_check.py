"""What the look at the gradient's norm costs: each step waits for the device to say whether its gradient was finite.

    PYTHONPATH=src python bench/gpu/finite_check.py [--seconds 4] [--rounds 5] [--smoke]

Whole steps with their input and augmentation, bf16, in turn: as they are, and without the look, which is the most
that reading it a step late could gain. Out: Markdown, gpu-finite-check.json in OUT (default bench/results).
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from results_file import Results

from vitrail import data, recipes
from vitrail.bench import rate_of
from vitrail.bench.phases import Training, random_images
from vitrail.config import ComputeConfig, ViTConfig
from vitrail.model import ViT
from vitrail.training.step import TrainStep


def unread(step: TrainStep, loss: torch.Tensor) -> str:
    """`TrainStep._update` without the look."""
    torch.nn.utils.get_total_norm([p.grad for p in step.model.parameters() if p.grad is not None])
    for optimizer in step.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one small batch on the CPU, nothing saved")
    args = parser.parse_args()
    if args.smoke:
        args.seconds, args.rounds = 0.0, 1
    device = torch.device("cpu" if args.smoke else "cuda")
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    results = Results("gpu-finite-check", device=device, out=out, keep=not args.smoke)
    rows = results.answer["rows"] = []
    print("| images in a step | as it is, images/s | without the look | ratio |\n|---|---|---|---|")
    for batch in (8,) if args.smoke else (128, 512, 2048):
        config = recipes.get("cifar10")
        compute = ComputeConfig(device=device.type, precision="bf16")
        config = replace(config, data=replace(config.data, batch_size=batch), compute=compute)
        preprocessing = data.preprocessing_for(config.data)
        images = random_images(2 * batch, 10, preprocessing)
        model = ViT(ViTConfig.of(config.model, preprocessing.image_size, num_labels=10)).to(device)
        training, rates = Training(config, model, images, preprocessing), {"read": [], "unread": []}
        for _ in range(args.rounds):
            rates["read"].append(rate_of(training.step, args.seconds))
            with patch.object(TrainStep, "_update", unread):
                rates["unread"].append(rate_of(training.step, args.seconds))
        read, without = (sorted(found)[len(found) // 2] for found in rates.values())
        rows.append({"batch_size": batch, **rates})
        print(f"| {batch} | {read:,.0f} | {without:,.0f} | {without / read:.3f} |", flush=True)
        results.write()
    results.end()


if __name__ == "__main__":
    main()
