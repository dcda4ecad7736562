"""Start-up: how long until help, a model, an answer; each time in a fresh process, contenders taking turns.

    python bench/startup.py [--rounds 7]

About five minutes on two quiet cores. transformers is left out where it is not installed.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.results_file import Results

ROOT = Path(__file__).resolve().parent.parent
PATHS = f"import sys; sys.path[:0] = [{str(ROOT / 'src')!r}, {str(ROOT)!r}]\n"
CLI = PATHS + "from vitrail.cli import main\nsys.exit(main(sys.argv[1:]))"
# A model of the same geometry for both: two layers, width 64, patch 8, images of 32 x 32, random weights.
MAKE_OURS = """
import vitrail, vitrail.config
config = vitrail.ViTConfig(image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                           mlp_ratio=4.0, num_labels=10)
card = vitrail.Card(geometry=config, classes=tuple("abcdefghij"),
                    preprocessing=vitrail.Preprocessing(image_size=(32, 32), decode_size=(32, 32)))
vitrail.save(sys.argv[1], vitrail.ViT(config), card)
"""
MAKE_THEIRS = """
import tests.support.torchvision_operators
import transformers as t
t.ViTForImageClassification(t.ViTConfig(image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=2,
    num_attention_heads=4, intermediate_size=256, num_labels=10)).save_pretrained(sys.argv[1])
t.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(sys.argv[1])
"""
PIPELINE = """
import tests.support.torchvision_operators
from transformers import pipeline
print(pipeline("image-classification", sys.argv[1])(sys.argv[2]))
"""


def seconds(code: str, *arguments: str) -> float:
    """From start to end of a process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, timeout=300)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, theirs, image = f"{folder}/ours.safetensors", f"{folder}/theirs", f"{folder}/image.png"
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(image)
        seconds(PATHS + MAKE_OURS, model)
        cases: dict[str, tuple[str, ...]] = {
            "vitrail --help": (CLI, "--help"),
            "vitrail recipes": (CLI, "recipes"),
            "import torch": ("import torch",),
            "a model of ours exists": (PATHS + "import vitrail; vitrail.ViT(vitrail.ViTConfig.named('Ti/16'))",),
            "vitrail predict, one image": (CLI, "predict", model, image),
        }
        if importlib.util.find_spec("transformers"):
            seconds(PATHS + MAKE_THEIRS, theirs)
            cases["transformers pipeline, one image"] = (PATHS + PIPELINE, theirs, image)
        for case in cases.values():  # files come into memory, modules are compiled
            seconds(*case)
        times: dict[str, list[float]] = {name: [] for name in cases}
        results = Results("startup", out=args.out)
        results.answer["seconds"] = times
        for number in range(args.rounds):
            names = list(cases)
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                times[name].append(seconds(*cases[name]))
            results.write()
    ratios: dict[str, float] = {}
    for name, base in (
        ("a model of ours exists", "import torch"),
        ("vitrail predict, one image", "transformers pipeline, one image"),
    ):
        if base in times:
            ratios[f"{name} / {base}"] = statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))
    lines = ["| start-up | seconds, median | min to max |", "|---|---|---|"]
    lines += [f"| {n} | {statistics.median(t):.2f} | {min(t):.2f} to {max(t):.2f} |" for n, t in times.items()]
    lines += ["", "| median ratio within a round | |", "|---|---|"]
    lines += [f"| {name} | {ratio:.2f} |" for name, ratio in ratios.items()]
    text = "\n".join(lines) + "\n"
    results.answer["ratios"] = ratios
    path = results.write()
    assert path
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
