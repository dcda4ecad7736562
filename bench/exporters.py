"""The ONNX graph that vitrail writes by hand beside the one that torch's own exporter traces from the same model.

    pip install onnxscript
    python bench/exporters.py [--rounds 7] [--seconds 1]

For every model: whether the traced graph takes any batch, both graphs' logits against torch's at batches 1, 3 and 8,
nodes, bytes, seconds to write. For the larger ones also the speed in ONNX Runtime and OpenVINO, contenders taking
turns, and what onnxruntime's `quantize_dynamic` makes of the traced graph beside our int8. About fifteen minutes on two
cores. What is not installed is left out.
"""

import argparse
import functools
import importlib
import logging
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.results_file import Results
from tests.support.random_vit import random_vit, randomise
from vitrail import weights
from vitrail.bench import compare
from vitrail.config import ViTConfig
from vitrail.config.checks import pair
from vitrail.model import ViT
from vitrail.runtime import merged_logits, start
from vitrail.runtime.engines import missing
from vitrail.runtime.graph import OPSET, onnx_bytes

BATCHES = (1, 3, 8)
TOLERANCE = 1e-4
MERGED = 3
OTHER_SIZE = "another image size"
ODD: dict[str, dict[str, object]] = {
    "registers": {"num_registers": 3},
    "distilled": {"pooling": "cls_dist", "use_distillation_token": True},
    "non-square": {"image_size": (16, 32), "patch_size": (8, 4)},
    "grey": {"num_channels": 1},
    "map": {"pooling": "map", "use_class_token": False},
    "mean_max, fc_norm": {"pooling": "mean_max", "final_norm": "pooled"},
    "swiglu": {"activation": "swiglu"},
    "quick_gelu": {"activation": "quick_gelu"},
    "conv stem": {"stem_channels": (8, 16), "stem_strides": (2, 1), "stem_pools": (1, 2), "patch_size": 1},
    "qk-norm": {"qk_norm": True},
    "layer scale": {"layer_scale": 0.1},
    "sincos": {"position": "sincos"},
}


class Logits(nn.Module):
    """What is traced: images to logits, at one size; with `merge`, tokens are merged after each layer."""

    def __init__(self, model: ViT, size: tuple[int, int], merge: int = 0) -> None:
        super().__init__()
        self.model, self.merge, self.interpolate = model, merge, size != pair(model.config.image_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        if self.merge:
            return merged_logits(self.model, pixel_values, self.merge, interpolate=self.interpolate)
        return self.model(pixel_values, interpolate_pos_encoding=self.interpolate)["logits"]


def traced(model: ViT, size: tuple[int, int], *, merge: int = 0) -> bytes:
    """The same model by torch.export and torch's own translation, any batch."""
    example = torch.randn(2, model.config.num_channels, *size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Logits(model, size, merge).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["pixel_values"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def small(**changes: object) -> ViT:
    base = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    return random_vit(**{**base, "num_labels": 10, **changes})


def built_in(name: str) -> ViT:
    return weights.load(f"builtin:{name}")[0].eval()


def named(name: str) -> ViT:
    model = ViT(ViTConfig.named(name))
    randomise(model, std=0.02)
    return model.eval()


def images_of(model: ViT, size: tuple[int, int], batch: int) -> Tensor:
    return torch.randn(batch, model.config.num_channels, *size, generator=torch.Generator().manual_seed(batch))


def described(make: Callable[[], bytes], model: ViT, size: tuple[int, int], merge: int = 0) -> dict[str, Any]:
    """How a graph came out, and how far its logits are from torch's; "failed" where there is none."""
    begin = time.perf_counter()
    try:
        file = make()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).strip()[:200]}"}
    answer: dict[str, Any] = {"seconds": round(time.perf_counter() - begin, 2), "bytes": len(file)}
    graph = onnx.load_from_string(file)
    answer |= {"nodes": len(graph.graph.node), "opset": graph.opset_import[0].version, "ir": graph.ir_version}
    answer["batch"] = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param or "fixed"
    answer["source_paths"] = len(re.findall(rb'File "[^"]+\.py"', file))
    answer["same_bytes_again"] = make() == file
    plain = Logits(model, size, merge)
    try:
        run = start("onnx", file)
        for batch in BATCHES:
            images = images_of(model, size, batch)
            answer[f"difference_{batch}"] = relative(plain, run, images)
    except Exception as error:
        answer["failed"] = f"{type(error).__name__}: {str(error).strip()[:200]}"
    return answer


@torch.inference_mode()
def relative(plain: nn.Module, run: Callable[[Tensor], Tensor], images: Tensor) -> float:
    expected = plain(images)
    return float((run(images) - expected).abs().max() / expected.abs().max())


def quantized(file: bytes, **options: Any) -> bytes:
    """What onnxruntime's own tool makes of a graph."""
    tool: Any = importlib.import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        tool.quantize_dynamic(onnx.load_from_string(file), path, **options)
        return path.read_bytes()


def speed(model: ViT, rounds: int, seconds: float) -> dict[str, Any]:
    """Every form of a model, taking turns; integers in ONNX Runtime only."""
    size = pair(model.config.image_size)
    theirs, integers = traced(model, size), onnx_bytes(model, size, int8=True)
    files = {
        "onnx ours": onnx_bytes(model, size),
        "onnx traced": theirs,
        "onnx ours int8": integers,
        "onnx traced int8": quantized(theirs, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True),
        "onnx traced int8, the tool's defaults": quantized(theirs),
    }
    if not missing("openvino"):
        files |= {"openvino ours": files["onnx ours"], "openvino traced": theirs}
    runs = {name: start(name.split()[0], file) for name, file in files.items()}
    plain, images = Logits(model, size), images_of(model, size, 8)
    answer: dict[str, Any] = {
        name: {"bytes": len(files[name]), "difference": relative(plain, run, images)} for name, run in runs.items()
    }
    for batch in (1, 8):
        some = images[:batch]

        def work(run: Callable[[Tensor], Tensor], some: Tensor = some) -> int:
            run(some)
            return len(some)

        works = {name: functools.partial(work, run) for name, run in runs.items()}
        result = compare(works, unit="images", rounds=rounds, seconds=seconds)
        print(f"batch {batch}\n\n{result.table('onnx ours')}\n", flush=True)
        answer[f"batch_{batch}"] = result.to_json("onnx ours")
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    logging.disable(logging.WARNING)
    large = {f"builtin:{name}": functools.partial(built_in, name) for name in weights.builtin_names()}
    large |= {name: functools.partial(named, name) for name in ("S/16", "B/16")}
    odd = {name: functools.partial(small, **changes) for name, changes in ODD.items()}
    results = Results("exporters", out=arguments.out)
    for name, make in {**large, **odd, OTHER_SIZE: small, "merging": small}.items():
        with results.part(name) as answer:
            model, merge = make(), MERGED if name == "merging" else 0
            size = (48, 40) if name == OTHER_SIZE else pair(model.config.image_size)
            ours = described(functools.partial(onnx_bytes, model, size, merge=merge), model, size, merge)
            theirs = described(functools.partial(traced, model, size, merge=merge), model, size, merge)
            answer[name] = {"ours": ours, "traced": theirs}
            print(name, ours, theirs, sep="\n  ", flush=True)
    for name, make in large.items():
        with results.part(f"speed of {name}") as answer:
            print(f"{name}\n", flush=True)
            answer[f"speed of {name}"] = speed(make(), arguments.rounds, arguments.seconds)
    results.end()


if __name__ == "__main__":
    main()
