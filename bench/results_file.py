"""Where a benchmark leaves what it measured: JSON in bench/results/, and a table for people."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from vitrail.run.environment import commit, cpu_name, versions_of

RESULTS = Path(__file__).with_name("results")
PEERS = ("vitrail", "torch", "numpy", "pillow", "timm", "transformers", "torchvision", "onnxruntime", "openvino")


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """What a figure was measured on: hardware, threads, versions, commit."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device and device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "versions": versions_of(PEERS),
        "commit": commit(),
    }


def save(name: str, answer: dict[str, Any], *, device: torch.device | None = None, out: Path | None = None) -> Path:
    """Write bench/results/NAME.json, with the machine beside what was measured."""
    path = (out or RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(device), **answer}, indent=1) + "\n", encoding="utf-8")
    return path
