"""Where a benchmark leaves what it measured: JSON in bench/results/, written anew after each part."""

import contextlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vitrail.errors import Interrupted
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


class Results:
    """What a benchmark measures, in the file after each part; a part that fails is named there, and the others go on.

    Args:
        name: of the file in bench/results/.
        out: another folder.
        keep: False for a trial that leaves no file.
    """

    def __init__(self, name: str, *, device: torch.device | None = None, out: Path | None = None, keep: bool = True):
        self.answer: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self._name, self._device, self._out, self._keep = name, device, out, keep

    def earlier(self) -> dict[str, Any]:
        """What the file has from an earlier call; nothing when there is none."""
        path = (self._out or RESULTS) / f"{self._name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if self._keep and path.exists() else {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[dict[str, Any]]:
        """One part; what it puts into the dictionary is kept, whatever happens to other parts, or to this one."""
        try:
            yield self.answer
        except Interrupted as error:  # what training makes of Ctrl-C
            sys.exit(str(error))
        except Exception as error:
            traceback.print_exc()
            print(f"failed: {name}", file=sys.stderr)
            self.failed[name] = f"{type(error).__name__}: {error}"
        finally:  # after Ctrl-C too
            self.write()

    def write(self) -> Path | None:
        """Write all that is there."""
        if not self._keep:
            return None
        answer = {**self.answer, **({"failed": self.failed} if self.failed else {})}
        return save(self._name, answer, device=self._device, out=self._out)

    def end(self) -> None:
        """Say where everything is; exit status 1 if a part failed."""
        path = self.write()
        if path:
            print(path)
        if self.failed:
            sys.exit(f"failed: {', '.join(self.failed)}")
