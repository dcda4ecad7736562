"""A process of a run dies, stands still, is told to stop or computes nonsense: the others end, or go on, alike."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vitrail
from vitrail.process_identity import ProcessIdentity, start_of, this_machine
from vitrail.run import RunDir
from vitrail.selftest.fork_server import ForkServer
from vitrail.selftest.same_run import differences

SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"batch_size": 128},
    "optim": {"name": "adamw", "ema_decay": 0.9},
    "schedule": {"epochs": 2, "max_steps": 16},
    "evaluation": {"every_epochs": 1},
    "checkpoint": {"every_steps": 3},
    "parallel": {"timeout_seconds": 6.0, "silence_seconds": 2.0},  # a process that is stopped is found first
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
JOBS = "tests.support.jobs"
MOST_SECONDS = 10.0
LAYERS = ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.1.mlp.fc2", "head")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Path:
    """The run of two processes that nothing happened to."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert server.run(f"{JOBS}:train_tiny", {"run": str(path), "sections": SECTIONS}, ranks=2).statuses == [0, 0]
    return path


def _goes_on(server: ForkServer, run: Path, whole: Path) -> None:
    arguments = {"run": str(run), "resume": True, "sections": SECTIONS}
    assert server.run(f"{JOBS}:train_tiny", arguments, ranks=2).statuses == [0, 0]
    assert differences(whole, run) == []


def _fails(server: ForkServer, run: Path, fault: str) -> tuple[list[int | None], float, str]:
    """Statuses, seconds from the fault to the end of the last process, and what they said."""
    log = run.with_suffix(".log")
    arguments = {"run": str(run), "fault": fault, "sections": SECTIONS}
    ended = server.run(f"{JOBS}:train_with_fault", arguments, ranks=2, log=log)
    seconds = time.time() - float(Path(f"{run}.fault").read_text())
    return ended.statuses, seconds, log.read_text(errors="replace")


def _check_fault(server: ForkServer, tmp_path: Path, whole: Path, place: str, rank: int, action: str) -> None:
    run = tmp_path / f"{place.replace(':', '-')}-{rank}-{action}"
    statuses, seconds, said = _fails(server, run, f"{place}:{rank}:{action}")
    # Ten times the time-out is allowed in the first step; later twice the slowest step, which counts on a busy machine.
    assert seconds < (3 * MOST_SECONDS if action == "hang" else MOST_SECONDS), (action, seconds)
    other = statuses[1 - rank]
    if action == "term":
        assert statuses == [143, 143]
        assert "the state is saved" in said
    elif action in ("kill", "stop"):
        assert statuses[rank] == -signal.SIGKILL, "a stopped process is killed by the others"
        assert other == 75
        assert any(text in said for text in ("of this run is gone", "does not answer", f"rank {rank} (process "))
    elif action == "hang":
        assert statuses == [75, 75]
        assert re.search(r"rank \d made no progress for [\d.]+ s, in \w+ step \d+:", said)
        assert "faults.py" in said, "the place where it stands is named"
    else:
        assert statuses[rank] == 1
        assert other in (1, 75)
    _goes_on(server, run, whole)


@pytest.mark.parametrize(
    ("place", "rank", "action"),
    [
        ("train:8", 0, "kill"), ("evaluate:12", 1, "term"), ("train:16", 0, "exit"),
        *(
            pytest.param(*fault, marks=pytest.mark.long)
            for fault in (
                ("train:1", 1, "kill"), ("train:8", 0, "stop"), ("evaluate:12", 1, "stop"), ("train:8", 1, "hang"),
                ("start:0", 0, "stop"), ("start:0", 1, "stop"), ("start:0", 0, "kill"), ("train:1", 0, "stop"),
            )
        ),
    ],
)  # fmt: skip
@pytest.mark.timeout(300)
def test_a_fault_of_one_process_ends_all_within_seconds(
    server: ForkServer, whole: Path, tmp_path: Path, place: str, rank: int, action: str
) -> None:
    _check_fault(server, tmp_path, whole, place, rank, action)


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_without_the_heartbeat_the_time_out_notices_a_stopped_process(
    server: ForkServer, tmp_path: Path, rank: int
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    sections = SECTIONS | {"parallel": {"timeout_seconds": 2.0}}
    arguments = {"run": str(run), "fault": f"train:8:{rank}:stop", "sections": sections}
    ended = server.run(f"{JOBS}:train_with_fault", arguments, ranks=2, log=log, timeout=2 * MOST_SECONDS)
    assert (ended.statuses[1 - rank], ended.statuses[rank]) == (75, None), "there is no launcher that would kill it"
    assert f"rank {1 - rank} made no progress for" in log.read_text(errors="replace")


@pytest.mark.long
def test_a_job_that_was_suspended_goes_on(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    suspender = threading.Thread(target=_suspend_often, args=(run, 3, 5.0))
    suspender.start()
    ended = server.run(f"{JOBS}:train_slowly", {"run": str(run), "sections": SECTIONS}, ranks=2, log=log)
    suspender.join()
    assert ended.statuses == [0, 0], log.read_text()
    assert ended.seconds > 15.0
    assert differences(whole, run) == []


def _suspend_often(run: Path, times: int, seconds: float) -> None:
    """Stop both processes of a job and let them go on, again and again."""
    files = [Path(f"{run}.process{rank}") for rank in range(2)]
    until = time.monotonic() + 60
    while not all(file.exists() for file in files) and time.monotonic() < until:
        time.sleep(0.05)
    processes = [int(file.read_text()) for file in files]
    for _ in range(times):
        time.sleep(1.0)
        for signal_number, wait in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
            for process in processes:
                os.kill(process, signal_number)
            time.sleep(wait)


@pytest.mark.parametrize("slow_rank", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_process_that_starts_slowly_is_waited_for(server: ForkServer, tmp_path: Path, slow_rank: int) -> None:
    log = tmp_path / "log"
    ended = server.run(f"{JOBS}:join_slowly", {"slow_rank": slow_rank, "seconds": 4.0}, ranks=3, log=log)
    assert ended.statuses == [0, 0, 0], log.read_text()
    assert ended.seconds > 4.0


def test_only_processes_of_the_same_machine_are_killed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = ProcessIdentity(child.pid, socket.gethostname(), this_machine(), start_of(child.pid))
    replace(here, machine=f"{this_machine()} another container").kill()
    replace(here, process_started="0").kill()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.5)
    here.kill()
    assert child.wait(timeout=10) == -signal.SIGKILL
    here.kill()
    assert child.stdin is not None
    child.stdin.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_faults_at_sixty_random_places(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(60):
        place = f"train:{draw.randint(1, 16)}" if draw.random() < 0.8 else "evaluate:12"
        folder = tmp_path / str(number)
        folder.mkdir()
        action = draw.choice(("kill", "stop", "hang", "term", "exit"))
        _check_fault(server, folder, whole, place, draw.randint(0, 1), action)


# ---- numbers that are not finite ---------------------------------------------------------------------------------


def _check_nan(server: ForkServer, run: Path, rank: int, layer: str, step: int, backward: bool, strategy: str) -> None:
    sections = SECTIONS | {"parallel": {"strategy": strategy}}
    arguments = {
        "run": str(run), "rank": rank, "layer": layer, "step": step, "backward": backward, "sections": sections,
    }  # fmt: skip
    ended = server.run(f"{JOBS}:train_with_nan", arguments, ranks=2, log=run.with_suffix(".log"))
    assert ended.statuses == [0, 0], run.with_suffix(".log").read_text()
    found = [record for record in RunDir(run).read_metrics() if "skipped" in record]
    assert [record["step"] for record in found] == [step], "found in that step, and in no other"
    named = found[0]["skipped"]
    ranks = [entry["rank"] for entry in named]
    assert ranks == ([0, 1] if backward and strategy == "fsdp" else [rank]), "FSDP sums gradients as they come"
    assert named[0]["where"] == f"the output of {layer}" if not backward else "gradient" in named[0]["where"]
    assert len(named[0]["ids"]) == (15 if step == 12 else 64), "1438 images: the twelfth batch has 30"
    for path in (run / "best.safetensors", run / "last.safetensors"):
        model, _ = vitrail.load(path)
        assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
@pytest.mark.parametrize(("rank", "layer", "step", "backward"), [(1, LAYERS[1], 5, False), (0, LAYERS[2], 9, True)])
def test_nan_on_one_process_is_skipped_on_all_and_named(
    server: ForkServer, tmp_path: Path, rank: int, layer: str, step: int, backward: bool, strategy: str
) -> None:
    _check_nan(server, tmp_path / "run", rank, layer, step, backward, strategy)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nan_at_a_hundred_random_places(server: ForkServer, tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(100):
        place = draw.randint(0, 1), draw.choice(LAYERS), draw.randint(1, 16), draw.random() < 0.5
        _check_nan(server, tmp_path / str(number), *place, draw.choice(("ddp", "fsdp")))


# ---- the command line: a launcher and its processes --------------------------------------------------------------

COMMAND = [
    sys.executable, "-m", "vitrail", "train", "digits", "--nproc", "2", "--schedule.epochs", "3",
    "--checkpoint.every-steps", "5",
]  # fmt: skip


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}", **more}


def _processes_of(run: Path) -> list[int]:
    """Numbers of the living processes whose command line names this run."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if str(run).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.timeout(300)
def test_processes_end_with_their_launcher(tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--run", str(run), "--compute.num-threads", "1"]
    launcher = subprocess.Popen(
        [*COMMAND, *arguments, "--schedule.epochs", "300"], env=_environment(), stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while len(RunDir(run).read_metrics()) < 8 and time.monotonic() < until:
        time.sleep(0.1)
    assert len(_processes_of(run)) == 3
    launcher.kill()
    launcher.wait()
    killed = time.monotonic()
    while _processes_of(run) and time.monotonic() - killed < 30:
        time.sleep(0.05)
    assert time.monotonic() - killed < MOST_SECONDS
    assert _processes_of(run) == []
    stop = ["--resume", "--schedule.max-steps", "60"]
    again = subprocess.run(
        [*COMMAND[:6], "2", "--run", str(run), *stop, "--json"], env=_environment(), capture_output=True, check=False
    )
    assert again.returncode == 0, again.stderr.decode()[-2000:]
    assert json.loads(again.stdout)["steps"] >= 8


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_restart_goes_on_by_itself(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    for path, more, fault in ((whole, [], ""), (run, ["--max-restarts", "1"], "train:23:1:kill")):
        command = [*COMMAND, "--compute.num-threads", "1", "--run", str(path), "--json", *more]
        ended = subprocess.run(command, env=_environment(VITRAIL_FAULT=fault), capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr.decode()[-2000:]
        assert json.loads(ended.stdout)["best"]["accuracy"] > 0
    assert differences(whole, run) == []
    assert [entry["step"] for entry in RunDir(run).read_environment()["resumed"]] == [20]
