"""What a report costs: time by the clock and of the processor, peak memory, size; each in a fresh process.

    .venv/bin/python bench/report.py [--smoke]

Answers that are made up, with all logits and without pictures: 10,000 images of 100 classes, 2,400 images of 1,200
classes, 50,000 images of 1,000 classes. Out: Markdown on stdout, bench/results/report.json. Linux. About two minutes.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from results_file import Results

from tests.support.answered import drawn_answers, made_run

CASES = ((10_000, 100), (2_400, 1_200), (50_000, 1_000))
REPEATS = 3
PROGRAM = """
import sys, time
start = time.perf_counter()
from vitrail.cli import main
status = main(["report", sys.argv[1]])
print("took", time.perf_counter() - start, time.process_time(), "torch" in sys.modules, file=sys.stderr)
with open("/proc/self/status") as file:
    print(next(line for line in file if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(status)
"""


def cost(run: Path) -> dict[str, float]:
    """Seconds with the start of Python's modules, and MiB at the peak."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, run], capture_output=True, text=True, check=True)
    words = done.stderr.split()
    assert words[words.index("took") + 3] == "False", "torch was imported"
    return {
        "seconds": float(words[words.index("took") + 1]),
        "processor_seconds": float(words[words.index("took") + 2]),
        "mib": int(words[words.index("VmHWM:") + 1]) / 1024,
        "page_kib": (run / "report.html").stat().st_size / 1024,
        "json_kib": (run / "report.json").stat().st_size / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--smoke", action="store_true", help="one small case, once, no file")
    smoke = parser.parse_args().smoke
    results = Results("report", keep=not smoke)
    header = ("images", "classes", "seconds", "processor seconds", "peak MiB", "page KiB", "JSON KiB")
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    with tempfile.TemporaryDirectory() as folder:
        for images, classes in ((400, 10),) if smoke else CASES:
            with results.part(f"{images} images, {classes} classes") as answer:
                run = Path(folder) / f"{images}-{classes}"
                made_run(run, drawn_answers(images, classes))
                found = [cost(run) for _ in range(1 if smoke else REPEATS)]
                row: dict[str, Any] = {name: statistics.median(one[name] for one in found) for name in found[0]}
                row["range_seconds"] = [min(one["seconds"] for one in found), max(one["seconds"] for one in found)]
                answer[f"{images}x{classes}"] = row
                told = " | ".join(
                    f"{row[name]:.1f}" for name in ("seconds", "processor_seconds", "mib", "page_kib", "json_kib")
                )
                print(f"| {images:,} | {classes:,} | {told} |")
    results.end()


if __name__ == "__main__":
    main()
