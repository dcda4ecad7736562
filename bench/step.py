"""Training steps: ours beside the reference written plainly, timm and transformers.

    .venv/bin/python bench/step.py [--precision bf16] [--rounds 7] [--seconds 3] [--cases small6 small12 b16] [--smoke]

Each contender is a process of its own (ours tells the allocator to keep memory, which must not help the others) and
waits while another one works. One batch that lies ready; forward, backward, AdamW with the same settings; fp32, or with
--precision bf16 under autocast (on a processor that has instructions for it), ours in fp32 beside them.
About seven minutes on two quiet cores. Out: Markdown on stdout, bench/results/step.json or step-bf16.json.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line does, for all alike
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import torch
from results_file import Results
from torch import nn

from vitrail.bench import compare, peak_memory_mib, peers
from vitrail.bench.ceiling import BACKWARD, forward_operations, matrix_peak
from vitrail.bench.report import plain_steps
from vitrail.config import RunConfig, ViTConfig
from vitrail.model import ViT
from vitrail.training.machine import keep_freed_memory
from vitrail.training.precision import has_cpu_bf16

NAMES = ("vitrail", "reference", "timm", "transformers")
IN_FP32 = "vitrail in fp32"


def small(depth: int, width: int = 192) -> ViTConfig:
    return ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        num_labels=10,
    )


CASES = {
    "small6": (small(6), 128),
    "small12": (small(12), 128),
    "b16": (ViTConfig.named("B/16", num_labels=10), 8),
    "smoke": (small(1, 64), 4),
}


def prepared(name: str, case: str, precision: str = "fp32") -> tuple[Callable[[], int], nn.Module | None, torch.Tensor]:
    """A contender's training step, its model for evaluation, and the images."""
    geometry, batch = CASES[case]
    torch.manual_seed(0)
    images = torch.randn(batch, 3, geometry.image_size, geometry.image_size)  # type: ignore[arg-type]
    labels = torch.randint(geometry.num_labels, (batch,))
    if name == "vitrail":
        keep_freed_memory()
        config = RunConfig()
        optim = replace(config.optim, name="adamw", lr=1e-3, weight_decay=0.05, clip_norm=0.0, ema_decay=0.0)
        compute = replace(config.compute, precision=precision)  # type: ignore[arg-type]
        return plain_steps(replace(config, optim=optim, compute=compute), geometry, images, labels), None, images
    if name == "reference":
        from reference import plain

        plain.IMAGE_SIZE = geometry.image_size  # type: ignore[assignment]
        model: nn.Module = plain.PlainViT(
            geometry.num_labels,
            geometry.hidden_size,
            geometry.num_hidden_layers,
            geometry.num_attention_heads,
            geometry.patch_size,  # type: ignore[arg-type]
        )
    else:
        import tests.support.torchvision_operators  # noqa: F401

        model = peers.build(name, geometry)
    return peers.trainer(model, images, labels, torch.bfloat16 if precision == "bf16" else None), model, images


def peak_of(name: str, case: str, work: str) -> dict[str, float]:
    """Peak memory of this process in MiB after three training steps, or three forward passes."""
    if work == "training":
        step = prepared(name, case)[0]
        for _ in range(3):
            step()
    else:
        if name == "vitrail":
            model, (geometry, batch) = ViT(CASES[case][0]), CASES[case]
            images = torch.randn(batch, 3, geometry.image_size, geometry.image_size)  # type: ignore[arg-type]
        else:
            _, model, images = prepared(name, case)
        assert model
        model.eval()
        with torch.inference_mode():
            for _ in range(3):
                model(images)
    return {"mib": peak_memory_mib()}


def serve(name: str, case: str, precision: str) -> None:
    """Take one step for each line on standard input; answer with the number of images."""
    work = prepared(name, case, precision)[0]
    answers = sys.stdout
    sys.stdout = sys.stderr
    for _ in sys.stdin:
        answers.write(f"{work()}\n")
        answers.flush()


class Contender:
    """A process that takes a step when it is asked to."""

    def __init__(self, name: str, case: str, precision: str) -> None:
        command = [sys.executable, __file__, "--serve", name, case, precision]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> int:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("a contender ended; its message is above")
        return int(answer)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="least length of a turn")
    parser.add_argument("--cases", nargs="+", default=["small6", "small12", "b16"], choices=list(CASES))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, one round, nothing saved")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    if args.smoke:
        args.cases, args.rounds, args.seconds = ["smoke"], 1, 0.0
    if args.precision == "bf16" and not has_cpu_bf16() and not args.smoke:
        parser.error("this processor has no instructions for bf16 (AVX-512 BF16, AMX)")
    installed = peers.installed()
    names = [name for name in NAMES if name not in peers.PEERS or name in installed]
    results = Results("step" if args.precision == "fp32" else f"step-{args.precision}", keep=not args.smoke)
    results.answer.update(rounds=args.rounds, seconds=args.seconds, cases={})
    for case in args.cases:
        with results.part(case) as answer:
            answer["cases"][case] = one_case(case, names, args)
    results.end()


def one_case(case: str, names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Let the contenders take turns on one model, and print what came out."""
    geometry, batch = CASES[case]
    contenders = {name: Contender(name, case, args.precision) for name in names}
    if args.precision != "fp32":
        contenders[IN_FP32] = Contender("vitrail", case, "fp32")
    dtype, seconds = torch.bfloat16 if args.precision == "bf16" else torch.float32, 0.1 if args.smoke else 3.0
    try:
        before = matrix_peak(torch.device("cpu"), dtype, seconds=seconds)
        found = compare(contenders, unit="images", rounds=args.rounds, seconds=args.seconds)
        peak = max(before, matrix_peak(torch.device("cpu"), dtype, seconds=seconds))
    finally:
        for contender in contenders.values():
            contender.close()
    others = [name for name in names if name != "vitrail"]
    best = found.fastest(others)
    share = found.figures["vitrail"].median * forward_operations(geometry) * (1 + BACKWARD) / peak
    result = {
        **found.to_json(best), "batch_size": batch, "matrix_peak_gflops": peak / 1e9, "share_of_peak": share,
    }  # fmt: skip
    ratio, low, high = found.ratio("vitrail", best)
    print(f"\n### {case}, batch {batch}\n\n{found.table(best)}\n")
    print(f"vitrail is {ratio:.2f} ({low:.2f} to {high:.2f}) times {best}, the fastest of the others;")
    print(f"{share:.0%} of the measured matrix peak of {peak / 1e9:.0f} GFLOP/s.", flush=True)
    return result


if __name__ == "__main__":
    main()
