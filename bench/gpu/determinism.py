"""The same run twice: how far two runs of equal settings differ, and whether a checkpoint equals what it was made of.

    PYTHONPATH=src python bench/gpu/determinism.py [--steps 100] [--smoke]

A small ViT on the handwritten digits (no download), fp32 and bf16: two runs from the same seed, and one that stops
half-way and goes on from its checkpoint. Largest difference of any weight. Out: Markdown, gpu-determinism.json in OUT.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from results_file import save

import vitrail
from vitrail import recipes
from vitrail.config import RunConfig


def weights_of(config: RunConfig, run: Path, *, resume: bool = False) -> dict[str, torch.Tensor]:
    vitrail.train(config, run, resume=resume)
    return vitrail.load(run / "last.safetensors")[0].state_dict()


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--smoke", action="store_true", help="four steps on the CPU, nothing saved")
    args = parser.parse_args()
    device, steps = ("cpu", 4) if args.smoke else ("cuda", args.steps)
    results = {}
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    print("| precision | two equal runs differ by | interrupted and resumed differs by |\n|---|---|---|")
    for precision in ("fp32",) if args.smoke else ("fp32", "bf16"):
        config = recipes.get("digits")
        compute = replace(config.compute, device=device, precision=precision)
        config = replace(config, compute=compute, schedule=replace(config.schedule, max_steps=steps))
        half = replace(config, schedule=replace(config.schedule, max_steps=steps // 2))
        with tempfile.TemporaryDirectory() as folder:
            first, second = (weights_of(config, Path(folder) / name) for name in ("a", "b"))
            weights_of(half, Path(folder) / "c")
            resumed = weights_of(config, Path(folder) / "c", resume=True)
        results[precision] = {"equal_runs": difference(first, second), "resumed": difference(first, resumed)}
        print(
            f"| {precision} | {results[precision]['equal_runs']:.3g} | {results[precision]['resumed']:.3g} |",
            flush=True,
        )
        if not args.smoke:
            save("gpu-determinism", {"steps": steps, **results}, device=torch.device(device), out=out)
    if not args.smoke:
        print(save("gpu-determinism", {"steps": steps, **results}, device=torch.device(device), out=out))


if __name__ == "__main__":
    main()
