"""Peak memory of training and evaluation, ours and peers', each in a fresh process; and that it does not grow.

    .venv/bin/python bench/memory.py [--smoke]

B/16 at 224 with batch 8, and the small ViT with batch 128: three training steps, or three forward passes, of batches
that lie ready; the peak of the process, torch and libraries included. Then ten epochs of a small run: resident memory
after each. About five minutes on two cores. Out: Markdown on stdout, bench/results/memory.json. Linux.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from results_file import Results

from vitrail.bench import in_fresh_process, peers

PEAK = """
import json, sys
import step
print(json.dumps(step.peak_of(*sys.argv[1:])))
"""
GROWTH = """
import json, os, sys
from dataclasses import replace
import vitrail
from vitrail import recipes
from vitrail.training import loop
seen = []
original = loop.evaluate_if_due
def noted(*arguments):
    original(*arguments)
    pages = int(open("/proc/self/statm").read().split()[1])
    seen.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
loop.evaluate_if_due = noted
config = recipes.get("digits")
config = replace(config, schedule=replace(config.schedule, epochs=int(sys.argv[2])),
                 evaluation=replace(config.evaluation, every_epochs=1))
vitrail.train(config, sys.argv[1])
print(json.dumps({"mib": seen[1:]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny model and three epochs, nothing saved")
    args = parser.parse_args()
    names = ["vitrail", "reference", *peers.installed()]
    print("| model | work | " + " | ".join(f"{name}, MiB" for name in names) + " |")
    print("|---" * (len(names) + 2) + "|")
    results = Results("memory", keep=not args.smoke)
    peaks: dict[str, dict[str, float]] = {}
    results.answer["peak_mib"] = peaks
    for case in ["smoke"] if args.smoke else ["small6", "b16"]:
        for work in ("training", "evaluation"):
            found = peaks[f"{case} {work}"] = dict[str, float]()
            for name in names:
                with results.part(f"{case} {work}, {name}"):
                    found[name] = in_fresh_process(PEAK, name, case, work)[0]["mib"]
            cells = [f"{found[name]:,.0f}" if name in found else "failed" for name in names]
            print(f"| {case} | {work} | " + " | ".join(cells) + " |", flush=True)
    epochs = 3 if args.smoke else 10
    with results.part("memory by epoch") as answer, tempfile.TemporaryDirectory() as folder:
        resident = answer["resident_mib_by_epoch"] = in_fresh_process(GROWTH, f"{folder}/run", str(epochs))[0]["mib"]
        print("\nresident after each epoch, MiB: " + ", ".join(f"{value:.0f}" for value in resident))
        print(f"after the last over after the second: {resident[-1] / resident[1]:.3f}")
    results.end()


if __name__ == "__main__":
    main()
