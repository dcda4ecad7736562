"""Whether two runs are the same to the last byte."""

import json
from pathlib import Path

COMPARED = ("metrics.jsonl", "best.safetensors", "last.safetensors", "evaluation.json", "config.json")


def differences(a: Path, b: Path) -> list[str]:
    """Files of two finished runs that differ: logs, models, and the last checkpoint but for what a clock said."""
    found = [name for name in COMPARED if (a / name).read_bytes() != (b / name).read_bytes()]
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
