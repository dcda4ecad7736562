"""Is a teacher worth its time? A plain ViT that learns from a conv teacher, and controls that train as long without it.

    python bench/distillation.py --data-root DIR [--seeds 0 1 2] [--teacher RUN] [--count-teacher] [--runs runs/distill]

Every run trains on the same 45,000 images of CIFAR-10 and is measured on the same 5,000 held out of the training set
(`--split test`: on all 50,000, and measured on the test set, once everything is chosen). For each seed:

    plain      the student's recipe for --epochs
    distilled  the same, with the teacher asked about every view
    control    the student's recipe for as many epochs as take at least as long as `distilled`

`--count-teacher` adds a control that is given the teacher's training time as well. With the first seed the distilled
run is repeated with kept answers, which says what the cache saves; its accuracy is the same to the last digit.

Time is in CPU seconds over all threads, from reading the images to the final weights, so that other work on the machine
disturbs little; wall seconds are in the result too. Out: every run as JSON in bench/results/, rows of means on stdout.
A run that is whole is not repeated, one that was stopped is begun again. Three seeds of the recipes as they are take
about two hours on two quiet cores.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

# As the command line does: threads that spin starve each other. Before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from results_file import Results

from vitrail import recipes
from vitrail.config import DistillConfig, RunConfig
from vitrail.training import train


@dataclass(frozen=True)
class Measured:
    """A run: accuracy, CPU and wall seconds from start to end, epochs."""

    accuracy: float
    cpu_seconds: float
    wall_seconds: float
    epochs: int


def measured_once(recipe: str, epochs: int, seed: int, split: str, root: Path) -> RunConfig:
    """A recipe for so many epochs (0: its own), measured once, at its end."""
    config = recipes.get(recipe)
    evaluation = replace(config.evaluation, split=split, every_epochs=0)  # type: ignore[arg-type]
    schedule = replace(config.schedule, epochs=epochs or config.schedule.epochs)
    data = replace(config.data, root=str(root))
    return replace(config, seed=seed, data=data, evaluation=evaluation, schedule=schedule)


def run_once(config: RunConfig, path: Path) -> Measured:
    """Train, or read what an earlier call measured."""
    measured = path / "measured.json"
    if not measured.exists():
        shutil.rmtree(path, ignore_errors=True)  # of a run that was stopped
        wall, cpu = time.perf_counter(), time.process_time()
        result = train(config, path)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        found = Measured(result.evaluation["accuracy"], round(cpu, 1), round(wall, 1), result.epochs)
        measured.write_text(json.dumps(asdict(found)))
    found = Measured(**json.loads(measured.read_text()))
    print(f"{path.name:20s} {found.accuracy:.4f}  {found.epochs:3d} epochs  {found.cpu_seconds:7.1f} CPU s", flush=True)
    return found


def as_long(plain: Measured, seconds: float) -> int:
    """Epochs that take at least so many CPU seconds."""
    return math.ceil(plain.epochs * seconds / plain.cpu_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--student", default="cifar10-cpu", help="recipe")
    parser.add_argument("--epochs", type=int, default=0, help="of the student (0: the recipe's)")
    parser.add_argument("--teacher", help="a run that is there already, with the same split")
    parser.add_argument("--teacher-recipe", default="cifar10-cpu-conv")
    parser.add_argument("--teacher-epochs", type=int, default=0, help="0: the recipe's")
    parser.add_argument("--weight", type=float, default=DistillConfig.weight)
    parser.add_argument("--temperature", type=float, default=DistillConfig.temperature)
    parser.add_argument("--count-teacher", action="store_true", help="a control with the teacher's time as well")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/distillation"))
    args = parser.parse_args()
    if args.teacher and args.count_teacher:
        parser.error("--count-teacher needs the teacher's time: leave --teacher out")
    os.environ["XDG_CACHE_HOME"] = str(args.runs.absolute() / "cache")  # answers of this benchmark alone
    results = Results(f"distillation-{args.student}")
    found: dict[str, list[Measured]] = {}

    def measure(name: str, config: RunConfig, seed: int) -> Measured:
        measured = run_once(config, args.runs / f"{name}-{seed}")
        found.setdefault(name, []).append(measured)
        return measured

    def student(epochs: int, seed: int, **distill: object) -> RunConfig:
        config = measured_once(args.student, epochs, seed, args.split, args.data_root)
        return replace(config, distill=DistillConfig(**distill))  # type: ignore[arg-type]

    teacher_seconds = 0.0
    if not args.teacher:
        config = measured_once(args.teacher_recipe, args.teacher_epochs, 0, args.split, args.data_root)
        teacher_seconds = measure("teacher", config, 0).cpu_seconds
    distill = {
        "teacher": args.teacher or str(args.runs / "teacher-0"),
        "weight": args.weight,
        "temperature": args.temperature,
    }
    for seed in args.seeds:
        with results.part(f"seed {seed}") as answer:
            plain = measure("plain", student(args.epochs, seed), seed)
            distilled = measure("distilled", student(args.epochs, seed, **distill), seed)
            if seed == args.seeds[0]:
                measure("kept", student(args.epochs, seed, **distill), seed)
            measure("control", student(as_long(plain, distilled.cpu_seconds), seed), seed)
            if args.count_teacher:
                epochs = as_long(plain, distilled.cpu_seconds + teacher_seconds)
                measure("control-of-both", student(epochs, seed), seed)
            answer["runs"] = {name: [asdict(one) for one in runs] for name, runs in found.items()}
    results.answer |= {"student": args.student, "split": args.split, "seeds": args.seeds, **distill}
    results.answer["teacher"] = args.teacher or args.teacher_recipe
    for name, runs in found.items():
        scores = [one.accuracy for one in runs]
        spread = f" +- {statistics.stdev(scores):.2%}" if len(scores) > 1 else ""
        seconds = statistics.mean(one.cpu_seconds for one in runs)
        print(f"| {name} | {runs[0].epochs} | {statistics.mean(scores):.2%}{spread} | {seconds:.0f} |")
    results.end()


if __name__ == "__main__":
    main()
