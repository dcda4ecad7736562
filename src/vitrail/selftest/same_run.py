"""Whether two runs are the same to the last byte."""

import json
from pathlib import Path

COMPARED = ("metrics.jsonl", "best.safetensors", "last.safetensors", "evaluation.json", "config.json")
PREDICTIONS = "predictions-*.safetensors"


def differences(a: Path, b: Path) -> list[str]:
    """Files of two finished runs that differ: logs, models, and the last checkpoint but for what a clock said.

    Model files may name another commit: the source tree may change while runs are compared.
    """
    found = [name for name in COMPARED if model_content(a / name) != model_content(b / name)]
    answers = sorted({path.name for run in (a, b) for path in run.glob(PREDICTIONS)})
    found += [name for name in answers if _bytes(a / name) != _bytes(b / name)]
    ours, theirs = (sorted((run / "checkpoints").iterdir()) for run in (a, b))  # step-0000012, or step-0000012-1
    if [p.name[:12] for p in ours] != [p.name[:12] for p in theirs]:
        return [*found, f"checkpoints {[p.name for p in ours]} and {[p.name for p in theirs]}"]
    for mine, other in zip(ours, theirs, strict=True):
        for file in sorted(mine.iterdir()):
            same = file.read_bytes() == (other / file.name).read_bytes()
            if file.name == "state.json":
                states = [json.loads((path / "state.json").read_text()) for path in (mine, other)]
                same = [state.pop("train_seconds") >= 0 for state in states] == [True, True] and states[0] == states[1]
            if not same and file.name != "MANIFEST.json":  # it has the hash of state.json
                found.append(f"{mine.name}/{file.name}")
    return found


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def model_content(path: Path) -> object:
    """The bytes of a file; of a model file its header without the commit, and the bytes of its tensors."""
    raw = path.read_bytes()
    if path.suffix != ".safetensors":
        return raw
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    about = header.pop("__metadata__")
    described = json.loads(about["vitrail"])
    del described["provenance"]["commit"]
    return header, about["sha256"], described, raw[end:]
