"""What saving costs the training loop: a state of 1 GB (ViT-B/16 with Adam's moments), ours beside torch.save.

    python bench/checkpoint.py [--rounds 4] [--steps 6] [--batch-size 2] [--folder DIR]

A turn is some training steps with one save after the second of them; `no save` is the same without. Cost is the time
of a turn less that of `no save` in the same round. `torch.save` writes with pickle, without hash, flush or rename. The
asynchronous save may still be writing when a turn ends; it is waited for outside the clock, as a run would not have to
unless it saves again at once, and the wait is reported. About eight minutes; the folder should be on a real disk.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from results_file import Results

from vitrail.config import ComputeConfig, OptimConfig, ViTConfig
from vitrail.model import ViT
from vitrail.run import save_checkpoint
from vitrail.run.saver import Saver, copy_tensors
from vitrail.training.machine import keep_freed_memory
from vitrail.training.optim import build_optimizers, optimizer_tensors
from vitrail.training.step import TrainStep


class Loop:
    """A few steps of training with a save among them."""

    def __init__(self, folder: Path, batch_size: int, steps: int) -> None:
        torch.manual_seed(0)
        model = ViT(ViTConfig.named("B/16", num_labels=10)).train()
        optim, compute = OptimConfig(name="adam", lr=1e-5), ComputeConfig()
        self.train_step = TrainStep(model, build_optimizers(model, optim), optim, compute, seed=0)
        self.images, self.labels = torch.randn(batch_size, 3, 224, 224), torch.zeros(batch_size, dtype=torch.int64)
        self.folder, self.steps, self.count = folder, steps, 0
        self.saver = Saver(asynchronous=True)
        self.waits: list[float] = []
        self.blocked: dict[str, list[float]] = {}

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"model": self.train_step.model.state_dict(), "optim": optimizer_tensors(self.train_step.optimizers)}

    def save(self, how: str) -> None:
        self.count += 1
        if how == "torch.save":
            torch.save({**self.tensors(), "step": self.count}, self.folder / "plain.pt")
        elif how != "no save":
            kept, step = copy_tensors(self.tensors()), self.count

            def write() -> None:
                save_checkpoint(self.folder / "ours", step, kept, {"step": step}, keep=1)

            if how == "ours, asynchronous":
                self.saver.submit(write)
            else:
                write()

    def turn(self, how: str) -> float:
        """Seconds of a turn."""
        started = time.perf_counter()
        for step in range(self.steps):
            self.train_step(self.images, self.labels, self.count, 1.0)
            if step == 1:
                began = time.perf_counter()
                self.save(how)
                self.blocked.setdefault(how, []).append(time.perf_counter() - began)
        seconds = time.perf_counter() - started
        began = time.perf_counter()
        self.saver.wait()
        self.waits.append(time.perf_counter() - began)
        return seconds


HOW = ("no save", "torch.save", "ours, asynchronous", "ours, waiting")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; default: a temporary one")
    args = parser.parse_args()
    keep_freed_memory()  # as `vitrail train` does, here for torch.save too
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        loop = Loop(Path(folder), args.batch_size, args.steps)
        loop.turn("torch.save")
        loop.blocked.clear()
        seconds: dict[str, list[float]] = {how: [] for how in HOW}
        results = Results("checkpoint-cost")
        results.answer.update(seconds=seconds, blocked=loop.blocked, waits=loop.waits)
        for number in range(args.rounds):
            for how in HOW[number % 4 :] + HOW[: number % 4]:
                seconds[how].append(loop.turn(how))
            results.write()
        size = sum(t.numel() * t.element_size() for group in loop.tensors().values() for t in group.values())
    costs = {how: [t - n for t, n in zip(seconds[how], seconds["no save"], strict=True)] for how in HOW[1:]}
    print(
        f"state {size / 2**30:.2f} GiB; longest wait for the asynchronous save after a turn {max(loop.waits):.1f} s\n"
    )
    print("| save | cost of a turn, s (median, min to max) | the loop stands still, s | ratio of cost to torch.save |")
    print("|---|---|---|---|")
    plain = statistics.median(costs["torch.save"])
    for how, cost in costs.items():
        middle, still = statistics.median(cost), statistics.median(loop.blocked[how])
        print(f"| {how} | {middle:.2f} ({min(cost):.2f} to {max(cost):.2f}) | {still:.2f} | {middle / plain:.2f} |")
    results.answer.update(state_bytes=size, costs=costs)
    results.end()


if __name__ == "__main__":
    main()
