"""The scripts of bench/ run in little, on a CPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bench import inference
from bench.results_file import Results
from vitrail.errors import Interrupted

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    "step.py",
    "step.py --precision bf16",
    "memory.py",
    "report.py",
    "whole_run.py",
    "gpu/throughput.py",
    "gpu/input.py",
    "gpu/determinism.py",
    "gpu/finite_check.py",
]
# The others behind the rows of the README, with as little work as their options allow.
LITTLE = {
    "startup.py": "--rounds 1 --out OUT",
    "checkpoint.py": "--rounds 1 --steps 2 --batch-size 1 --folder OUT",
    "folder.py": "--rounds 1 --images 64 --out OUT",
    "input.py": "--rounds 1 --seconds 0 --cases small --out OUT",
    "inference.py": "--rounds 1 --seconds 0 --skip accuracy memory --out OUT",
    "recipe_seeds.py": "digits --seeds 0 --runs OUT/runs",
    "screen.py": "digits --epochs 1 --factors model.qk-norm=false,true --runs OUT/runs",
    "pretraining.py": "--data-root DATA --labels 2 --images 200 --held-out 3 --epochs 1 --steps 2 --seeds 1 --out OUT",
    "dinov2_cifar.py": "--weights builtin:cifar100-conv --images 100 --val 50 --image-size 32 --epochs 1 "
    "--recipes linear-probe finetune-last random --out OUT",
    "last_blocks.py": "builtin:cifar100-conv --images 64 --val 64 --image-size 32 --epochs 1 --rates 1e-3 --out OUT",
    "crops.py": "--photographs PHOTOGRAPHS --rounds 1 --images 8 --large 2 --steps 0",
}
SLOW = ("startup.py", "input.py")
"""Half a minute each: not in CI."""
# A tiny model in place of B/16, and results that do not replace the published ones.
LAUNCH = """
import pathlib, runpy, sys
script, out = map(pathlib.Path, sys.argv[1:3])
sys.path[:0] = [str(script.parent), str(script.parent.parent)]
import bench.results_file, results_file
from vitrail.config import ViTConfig
results_file.RESULTS = bench.results_file.RESULTS = out
named = ViTConfig.named
ViTConfig.named = lambda name, **changes: named(name, **changes, num_hidden_layers=1)
sys.argv = [str(script), *sys.argv[3:]]
runpy.run_path(str(script), run_name="__main__")
"""


@pytest.mark.long
@pytest.mark.timeout(400)  # on a busy machine; alone, up to half a minute
@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow if one in SLOW else ()) for one in LITTLE])
def test_in_little(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    if name in ("folder.py", "input.py", "dinov2_cifar.py", "last_blocks.py"):
        env["VITRAIL_DATA"] = str(request.getfixturevalue("cifar_root"))
    words = LITTLE[name]
    if "DATA" in words:
        words = words.replace("DATA", str(request.getfixturevalue("cifar_root")))
    if "PHOTOGRAPHS" in words:
        photographs = tmp_path / "photographs"
        photographs.mkdir()
        Image.linear_gradient("L").resize((500, 375)).convert("RGB").save(photographs / "gradient.jpg")
    options = words.replace("PHOTOGRAPHS", str(tmp_path / "photographs")).replace("OUT", str(tmp_path)).split()
    command = [sys.executable, "-c", LAUNCH, str(ROOT / "bench" / name), str(tmp_path), *options]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=390)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| " in done.stdout
    (written,) = tmp_path.glob("*.json")
    assert json.loads(written.read_text())["machine"]["versions"]["torch"]


def test_every_script_behind_a_row_of_the_readme_is_tried() -> None:
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    named = set(re.findall(r"`bench/(\w+\.py)", "\n".join(rows)))
    assert len(named) > 5
    assert named - {*SCRIPTS, *LITTLE} == {"transfer.py"}, "nine minutes of training, and no option for less"


@pytest.mark.timeout(400)  # on a busy machine; alone, up to three quarters of a minute
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "gpu" in name else pytest.mark.long) for name in SCRIPTS]
)
def test_smoke(name: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    script, *options = name.split()
    command = [sys.executable, str(ROOT / "bench" / script), *options, "--smoke"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=390)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|---" in done.stdout
    assert "failed" not in done.stdout


def test_every_piece_of_the_overview_is_in_the_readme() -> None:
    script = ROOT / "bench" / "gpu" / "run.sh"
    done = subprocess.run(["bash", str(script), "all-pieces"], capture_output=True, text=True, check=True)
    pieces = done.stdout.split()
    text = (ROOT / "bench" / "gpu" / "README.md").read_text(encoding="utf-8")
    assert len(pieces) == 12
    assert all(f"`{piece}`" in text for piece in pieces)


def test_results_are_written_as_they_come(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results("some", out=tmp_path)
    with results.part("first") as answer:
        answer["first"] = 1
    assert json.loads((tmp_path / "some.json").read_text())["first"] == 1
    with results.part("second") as answer:
        answer["half"] = 2
        raise ValueError("no data")
    with results.part("third") as answer:
        answer["third"] = 3
    with pytest.raises(SystemExit) as ended:
        results.end()
    assert ended.value.code not in (None, 0)
    told = json.loads((tmp_path / "some.json").read_text())
    assert (told["first"], told["half"], told["third"]) == (1, 2, 3)
    assert told["failed"] == {"second": "ValueError: no data"}
    assert "machine" in told
    assert "failed: second" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("interrupt", "ending"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (Interrupted("Stopped.", signal_number=2, do="Go on."), SystemExit)],
)
def test_an_interrupted_benchmark_leaves_what_it_has(
    interrupt: BaseException, ending: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises(ending), Results("some", out=tmp_path).part("first") as answer:
        answer["begun"] = 1
        raise interrupt
    assert json.loads((tmp_path / "some.json").read_text())["begun"] == 1


def test_a_trial_leaves_nothing(tmp_path: Path) -> None:
    results = Results("some", out=tmp_path, keep=False)
    with results.part("first") as answer:
        answer["first"] = 1
    results.end()
    assert not list(tmp_path.iterdir())


def test_speed_is_kept_where_accuracy_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_data(name: str, spec: str, root: str) -> None:
        raise OSError("cifar100 is not there")

    monkeypatch.setattr(inference, "contenders", lambda: {"ours": lambda: None})
    monkeypatch.setattr(inference, "speed", lambda runs, batch, rounds, seconds: ({"rate": batch}, f"batch {batch}"))
    monkeypatch.setattr(inference, "accuracy", no_data)
    monkeypatch.setattr(inference, "memory", lambda name: 100.0)
    monkeypatch.setattr("sys.argv", ["inference.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        inference.main()
    assert ended.value.code not in (None, 0)
    told = json.loads((tmp_path / "inference.json").read_text())
    assert (told["batch 1"], told["batch 8"]) == ({"rate": 1}, {"rate": 8})
    assert told["peak_memory_mib"] == {"ours": 100.0}
    assert set(told["failed"]) == {"accuracy of builtin:cifar100", "accuracy of builtin:cifar100-conv"}
    assert "batch 8" in (tmp_path / "inference.md").read_text()
