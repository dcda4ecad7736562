"""Inference of ViT-B/16 at 224: every engine beside timm, transformers and the plain reference, and what speed costs.

    python bench/inference.py [--rounds 7] [--seconds 1] [--data-root DIR] [--trained RUN SPEC]

Three tables: images per second at batch 1 and 8, contenders taking turns; the accuracy of trained models under each
fast form, on the test images of CIFAR-100, and of SPEC for a model or run of your own; peak memory, each contender in a
process of its own. About seven minutes on two quiet cores. What is not installed is left out, and said.

A model with the 12 layers and 196 patches of a B/16, so that merging means the same, trained in a quarter of an hour:

    vitrail train cifar10-cpu --run runs/patches-196 --data.image-size 56 --model.num-hidden-layers 12 \
        --model.hidden-size 128 --schedule.epochs 4
    python bench/inference.py --trained runs/patches-196 cifar10
"""

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tests.support.torchvision_operators  # noqa: F401  (before timm and transformers)
from bench.reference.plain import PlainViT
from bench.results_file import Results
from vitrail import data, weights
from vitrail.bench import compare, in_fresh_process
from vitrail.config import DataConfig, ViTConfig
from vitrail.config.checks import pair
from vitrail.model import ViT
from vitrail.runtime import Translated, merged_logits, start, torch_runtime
from vitrail.runtime.engines import missing
from vitrail.runtime.measure import rates_of
from vitrail.training import evaluate

ROOT = Path(__file__).resolve().parent.parent
NUM_LABELS = 1000
SIZE = (224, 224)
MERGED = (8, 16, 20)
TRAINED = (("builtin:cifar100", "cifar100"), ("builtin:cifar100-conv", "cifar100"))
FEW_PATCHES, MERGED_OF_FEW = 100, (2, 4)
PEERS = ("timm", "transformers")
Run = Callable[[Tensor], Tensor]


@functools.cache
def ours() -> ViT:
    torch.manual_seed(0)
    return ViT(ViTConfig.named("B/16", num_labels=NUM_LABELS)).eval()


def reference() -> Run:
    return PlainViT(NUM_LABELS).eval()


def timm_model() -> Run:
    timm: Any = importlib.import_module("timm")
    return timm.create_model("vit_base_patch16_224", num_classes=NUM_LABELS).eval()


def transformers_model() -> Run:
    transformers: Any = importlib.import_module("transformers")
    model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=NUM_LABELS)).eval()
    return lambda images: model(images).logits


def translated(engine: str, *, int8: bool = False, merge: int = 0) -> Run:
    return start(engine, Translated(ours(), SIZE, int8=int8, merge=merge).file())


def merging(count: int) -> Run:
    return functools.partial(merged_logits, ours(), count=count)


def contenders() -> dict[str, Callable[[], Run]]:
    """Name to what builds it; only what is installed."""
    peers = {"timm": timm_model, "transformers": transformers_model}
    found: dict[str, Callable[[], Run]] = {n: make for n, make in peers.items() if importlib.util.find_spec(n)}
    found["reference"] = reference
    found["ours torch"] = lambda: torch_runtime(ours(), SIZE)
    for engine in ("onnx", "openvino"):
        if not missing(engine):
            found[f"ours {engine}"] = functools.partial(translated, engine)
    if not missing("onnx"):
        found["ours int8"] = functools.partial(translated, "onnx", int8=True)
    for count in MERGED:
        found[f"ours merge {count}"] = functools.partial(merging, count)
    for engine in ("onnx", "openvino"):
        if not missing(engine):
            found[f"ours {engine}, merge {MERGED[1]}"] = functools.partial(translated, engine, merge=MERGED[1])
    if not missing("onnx"):
        found[f"ours int8, merge {MERGED[1]}"] = functools.partial(translated, "onnx", int8=True, merge=MERGED[1])
    absent = ({*peers} - {*found}) | {e for e in ("onnx", "openvino") if missing(e)}
    print("not installed:", ", ".join(sorted(absent)) or "nothing")
    return found


def speed(runs: dict[str, Run], batch: int, rounds: int, seconds: float) -> tuple[dict[str, Any], str]:
    images = torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(0))

    def work(run: Run) -> int:
        with torch.inference_mode():
            run(images)
        return batch

    works = {name: functools.partial(work, run) for name, run in runs.items()}
    result = compare(works, unit="images", rounds=rounds, seconds=seconds)
    peers = [name for name in PEERS if name in runs] or ["reference"]
    base = result.fastest(peers)
    return result.to_json(base), f"batch {batch}, against the faster peer\n\n{result.table(base)}"


def accuracy(name: str, spec: str, root: str) -> tuple[dict[str, Any], list[str]]:
    """Accuracy of a trained model and its speed, in each form."""
    model, card = weights.load(name)
    size = pair(model.config.image_size)
    image_set = data.load(
        DataConfig(spec=spec, root=root), ("test",), classes=card.classes, preprocessing=card.preprocessing
    )["test"]
    forms: dict[str, Run] = {"torch fp32": torch_runtime(model, size)}
    if not missing("onnx"):
        forms["onnx fp32"] = start("onnx", Translated(model, size).file())
        forms["onnx int8"] = start("onnx", Translated(model, size, int8=True).file())
    patches = model.config.grid[0] * model.config.grid[1]
    for count in MERGED_OF_FEW if patches < FEW_PATCHES else MERGED:
        forms[f"merge {count}"] = torch_runtime(model, size, count)
        if not missing("onnx"):
            forms[f"onnx merge {count}"] = start("onnx", Translated(model, size, merge=count).file())
            both = Translated(model, size, int8=True, merge=count)
            forms[f"onnx int8, merge {count}"] = start("onnx", both.file())
    rates = rates_of(forms, Translated(model, size), 1 / 64)
    rows: dict[str, Any] = {}
    for form, run in forms.items():
        result = evaluate(model, image_set, card.preprocessing, batch_size=250, runtime=run)
        rows[form] = {"num_correct": result.num_correct, "accuracy": result.accuracy, "speed": rates[form]}
    plain = rows["torch fp32"]
    lines = [
        f"| {Path(name).name} | {form} | {row['num_correct']} | {100 * row['accuracy']:.2f} % "
        f"| {100 * (row['accuracy'] - plain['accuracy']):+.2f} | {row['speed'] / plain['speed']:.2f} |"
        for form, row in rows.items()
    ]
    return {"num_examples": result.num_examples, "patches": patches, "forms": rows}, lines


def memory(name: str) -> float:
    """Peak MiB of a process that builds one contender and runs batch 8 twice."""
    code = (
        f"import json, sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "from bench import inference\nimport torch\n"
        "from vitrail.bench import peak_memory_mib\n"
        "run = inference.contenders()[sys.argv[1]]()\n"
        "with torch.inference_mode():\n"
        "    for _ in range(2): run(torch.zeros(8, 3, 224, 224))\n"
        "print(json.dumps({'mib': peak_memory_mib()}))\n"
    )
    return in_fresh_process(code, name)[0]["mib"]


def write_tables(results: Results, tables: list[str]) -> None:
    """What there is so far, for people, beside the JSON."""
    path = results.write()
    assert path
    path.with_suffix(".md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--data-root", default="", help="where cifar100/ lies")
    parser.add_argument("--trained", nargs=2, action="append", default=[], metavar=("MODEL", "SPEC"))
    parser.add_argument("--skip", nargs="*", default=(), choices=("speed", "accuracy", "memory"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    made = contenders()
    results, tables = Results("inference", out=args.out), list[str]()

    def told(table: str) -> None:
        tables.append(table)
        write_tables(results, tables)
        print(f"\n{table}", flush=True)

    if "speed" not in args.skip:
        runs: dict[str, Run] = {}
        for name, make in made.items():
            with results.part(f"speed of {name}"):
                runs[name] = make()
        for batch in (1, 8):
            with results.part(f"batch {batch}") as answer:
                answer[f"batch {batch}"], table = speed(runs, batch, args.rounds, args.seconds)
                told(table)
        del runs
    if "accuracy" not in args.skip:
        lines = ["| model | form | right | accuracy | points | speed |", "|---|---|---|---|---|---|"]
        for name, spec in [*TRAINED, *args.trained]:
            with results.part(f"accuracy of {Path(name).name}") as answer:
                answer[Path(name).name], rows = accuracy(name, spec, args.data_root)
                lines += rows
        told("All test images; speed against torch fp32\n\n" + "\n".join(lines))
    if "memory" not in args.skip:
        peaks: dict[str, float] = {}
        for name in made:
            with results.part(f"memory of {name}") as answer:
                answer["peak_memory_mib"] = peaks
                peaks[name] = memory(name)
        told("\n".join(["| contender | peak MiB |", "|---|---|", *(f"| {n} | {v:.0f} |" for n, v in peaks.items())]))
    results.end()


if __name__ == "__main__":
    main()
