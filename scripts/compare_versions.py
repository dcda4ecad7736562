"""Compare the runs of two versions of vitrail, bit for bit: `python scripts/compare_versions.py OTHER_TREE`.

Small runs of many kinds are made by the source trees of both versions on this machine: weights, losses and scores
have to be equal. Then this version goes on with runs that the other one was interrupted in, and has to end
where the other ends. Takes a few minutes; the digits that come with scikit-learn are all the data it needs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.numpy import load_file

HERE = Path(__file__).parents[1]
SMALL = "--data digits --data.image-size 16 --data.batch-size 200 --checkpoint.every-steps 3 --schedule.epochs"
TRAIN, TUNE = f"train digits {SMALL} 2", "finetune builtin:cifar100-conv"
RUNS = {
    "muon": TRAIN,
    "adamw": f"{TRAIN} --optim.name adamw --optim.lr 1e-3 --optim.ema-decay .9 --optim.clip-norm 1"
    " --model.embedding-dropout .1 --model.attention-dropout .1 --model.projection-dropout .1",
    "convolutions": f"train cifar10-cpu-conv {SMALL} 2 --model.num-hidden-layers 2",
    "mixing": f"{TRAIN} --augment.mixup .3 --augment.cutmix 1 --augment.policy rand-augment --augment.erasing .3",
    "selection": f"{TRAIN} --evaluation.split val --evaluation.every-epochs 1 --evaluation.test-best True",
    "micro-batches": f"{TRAIN} --compute.accumulation-steps 3 --compute.precision bf16",
    "two processes": f"{TRAIN} --nproc 2",
    "fine-tuning": f"{TUNE} {SMALL} 1",
    "gradual": f"{TUNE} {SMALL} 1 --recipe finetune-gradual",
    "linear probe": f"{TUNE} --data digits --recipe linear-probe",
    "neighbours": f"{TUNE} --data digits --recipe knn",
}
INTERRUPTED = ("muon", "adamw", "selection", "fine-tuning", "two processes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="root of a checkout of the other version")
    parser.add_argument("--only", action="append", choices=RUNS, help="one kind of run; can be repeated")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work, names, wrong = Path(folder), args.only or list(RUNS), 0
        for name in names:
            for version, tree in (("theirs", args.other.resolve()), ("ours", HERE)):
                vitrail(tree, *RUNS[name].split(), "--run", work / version / name)
            wrong += told(name, differences(work / "theirs" / name, work / "ours" / name))
        for name in (name for name in INTERRUPTED if name in names):
            run = work / "resumed" / name
            several = ["--nproc", "2"] if "--nproc" in RUNS[name] else []
            vitrail(args.other.resolve(), *RUNS[name].split(), "--run", run, fault=f"train:7:{int(bool(several))}:kill")
            vitrail(HERE, "train", "--resume", "--run", run, *several)
            wrong += told(f"{name}, killed there and resumed here", differences(work / "theirs" / name, run))
    return min(wrong, 1)


def vitrail(tree: Path, *words: object, fault: str = "") -> None:
    """Run a command by the sources of a tree; with a `fault` it has to fail."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}  # noqa: TID251
    command = [sys.executable, "-m", "vitrail", *map(str, words)]
    if fault:
        environment["VITRAIL_FAULT"] = fault
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tree, check=False)
    if bool(done.returncode) != bool(fault):
        sys.exit(f"{' '.join(command)} in {tree} ended with {done.returncode}:\n{done.stderr}")


def differences(theirs: Path, ours: Path) -> list[str]:
    """What of two finished runs is not equal: model files, the last checkpoint, losses, scores."""
    found = []
    files = sorted(p.relative_to(theirs) for p in theirs.glob("*.safetensors"))
    last = [max((run / "checkpoints").glob("step-*"), default=run) for run in (theirs, ours)]
    if last[0] != theirs:
        files += sorted(p.relative_to(last[0]) for p in last[0].glob("*.safetensors"))
    for file in files:
        mine, other = (
            (root / file, folder / file) for root, folder in zip((ours, theirs), reversed(last), strict=True)
        )
        a, b = (load_file(next(path for path in pair if path.exists())) for pair in (mine, other))
        if a.keys() != b.keys() or any(a[key].tobytes() != b[key].tobytes() for key in a):
            found.append(str(file))
    for file in ("metrics.jsonl", "evaluation.json"):
        a, b = ((run / file).read_text() if (run / file).exists() else "" for run in (theirs, ours))
        found += [file] if a != b else []
    return found


def told(name: str, found: list[str]) -> bool:
    print(f"{'equal' if not found else 'DIFFERENT'}  {name}  {', '.join(found)}", flush=True)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
