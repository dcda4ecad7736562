"""Training and inference on one GPU: batches, compiled or not, beside the reference loop, timm, transformers.

    PYTHONPATH=src python bench/gpu/throughput.py {b16,small192,small384} [--seconds 2] [--rounds 3] [--smoke]

bf16 (the reference: fp16 with gradient scaling), one batch that lies on the device, AdamW. For ours and each peer
that is installed: eager and compiled, each batch of the sweep, images a second, share of the measured bf16 matrix
peak, peak memory. A contender that fails (out of memory, no compiler) is named with its reason. Out: Markdown,
gpu-throughput-CASE.json in OUT (default bench/results).
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from reference import plain
from results_file import Results
from torch import nn

from vitrail.bench import peers, rate_of
from vitrail.bench.ceiling import BACKWARD, forward_operations, matrix_peak
from vitrail.bench.report import plain_steps
from vitrail.config import ComputeConfig, RunConfig, ViTConfig
from vitrail.model import ViT

DEADLINE_S = 480.0


def small(width: int, depth: int) -> ViTConfig:
    heads = width // 64
    return ViTConfig(image_size=32, patch_size=4, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
                     num_labels=10)  # fmt: skip


CASES = {
    "b16": (ViTConfig.named("B/16", num_labels=10), (32, 128, 256, 512)),
    "small192": (small(192, 9), (512, 2048, 8192)),
    "small384": (small(384, 12), (512, 2048, 4096)),
    "smoke": (small(64, 1), (2,)),
}


def reference_step(geometry: ViTConfig, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], int]:
    """The reference's loop on a ready batch: manual attention, fp16 autocast, scaling, loss read each step."""
    plain.IMAGE_SIZE = images.shape[-1]
    model = plain.PlainViT(geometry.num_labels, geometry.hidden_size, geometry.num_hidden_layers,
                           geometry.num_attention_heads, geometry.patch_size).to(images.device)  # type: ignore[arg-type]  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(images.device.type, enabled=images.is_cuda)

    def step() -> int:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, dtype=torch.float16, enabled=images.is_cuda):
            loss = nn.functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()
        return len(images)

    return step


def our_step(geometry: ViTConfig, images: torch.Tensor, labels: torch.Tensor, compiled: bool) -> Callable[[], int]:
    config = RunConfig()
    optim = replace(config.optim, name="adamw", lr=1e-3, clip_norm=0.0, ema_decay=0.0)
    compute = ComputeConfig(precision="bf16", compile=compiled)
    return plain_steps(replace(config, optim=optim, compute=compute), geometry, images, labels)


def peer_step(
    name: str, geometry: ViTConfig, images: torch.Tensor, labels: torch.Tensor, compiled: bool
) -> Callable[[], int]:
    model = peers.build(name, geometry).to(images.device)
    model = torch.compile(model) if compiled else model  # type: ignore[assignment]
    return peers.trainer(model, images, labels, torch.bfloat16)


def inference(geometry: ViTConfig, images: torch.Tensor, compiled: bool) -> Callable[[], int]:
    model = ViT(geometry).to(images.device).eval()
    model = torch.compile(model) if compiled else model  # type: ignore[assignment]

    @torch.inference_mode()
    def work() -> int:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            model(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        return len(images)

    return work


def measured(
    make: Callable[[], Callable[[], int]], seconds: float, rounds: int, device: torch.device
) -> dict[str, Any]:
    """Rates of some turns, seconds until warm, peak memory; or why it failed."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.compiler.reset()
    try:
        start = time.perf_counter()
        work = make()
        for _ in range(3):
            work()
        warm = time.perf_counter() - start
        rates = sorted(rate_of(work, seconds) for _ in range(rounds))
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]}
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    return {"images_per_second": rates[len(rates) // 2], "rates": rates, "warm_up_s": warm, "peak_memory_mib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", default="smoke", choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a tiny model on the CPU, nothing saved")
    args = parser.parse_args()
    started = time.perf_counter()
    if args.smoke:
        args.case, args.seconds, args.rounds = "smoke", 0.0, 1
    device = torch.device("cpu" if args.smoke else "cuda")
    geometry, batches = CASES[args.case]
    peak = matrix_peak(
        device, torch.bfloat16 if device.type == "cuda" else torch.float32, seconds=0.1 if args.smoke else 3
    )
    operations, rows = forward_operations(geometry), []
    print(f"{args.case}: matrix peak {peak / 1e12:.3f} TFLOP/s")
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    results = Results(f"gpu-throughput-{args.case}", device=device, out=out, keep=not args.smoke)
    results.answer.update(matrix_peak_tflops=peak / 1e12, rows=rows)
    print("\n| contender | batch | images/s | of peak | MiB | warm-up s |")
    print("|---|---|---|---|---|---|")
    for batch in batches:
        images = torch.randn(batch, 3, geometry.image_size, geometry.image_size, device=device)  # type: ignore[arg-type]
        labels = torch.randint(geometry.num_labels, (batch,), device=device)
        made: dict[str, Callable[[], Callable[[], int]]] = {}
        for compiled in (False,) if args.smoke else (True, False):
            word = "compiled" if compiled else "eager"
            made[f"vitrail {word}"] = lambda c=compiled, i=images, t=labels: our_step(geometry, i, t, c)
            made[f"vitrail inference {word}"] = lambda c=compiled, i=images: inference(geometry, i, c)
            for name in () if args.smoke else peers.installed():
                made[f"{name} {word}"] = lambda n=name, c=compiled, i=images, t=labels: peer_step(n, geometry, i, t, c)
        made["reference fp16"] = lambda i=images, t=labels: reference_step(geometry, i, t)
        for name, make in made.items():
            if time.perf_counter() - started > DEADLINE_S:
                rows.append({"contender": name, "batch": batch, "failed": "no time left"})
                continue
            found = measured(make, args.seconds, args.rounds, device)
            passes = 1 if "inference" in name else 1 + BACKWARD
            rate = found.get("images_per_second")
            found["share_of_peak"] = rate * operations * passes / peak if rate else None
            rows.append({"contender": name, "batch": batch, **found})
            results.write()
            if rate:
                print(f"| {name} | {batch} | {rate:,.0f} | {found['share_of_peak']:.1%} | "
                      f"{found['peak_memory_mib'] or 0:,.0f} | {found['warm_up_s']:.1f} |", flush=True)  # fmt: skip
            else:
                print(f"| {name} | {batch} | {found['failed']} | | | |", flush=True)
    results.end()


if __name__ == "__main__":
    main()
