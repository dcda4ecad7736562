"""The checks of `vitrail selftest`, and the faults of `vitrail selftest --faults`."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitrail import fsio, weights
from vitrail.config import ViTConfig
from vitrail.model import ViT
from vitrail.predictor import Predictor
from vitrail.run import load_checkpoint, newest_checkpoint, read_config
from vitrail.run.checkpoint import damage_of
from vitrail.selftest.fork_server import ForkServer
from vitrail.selftest.jobs import state_of
from vitrail.selftest.same_run import differences
from vitrail.selftest.tiny import tiny_run
from vitrail.training import train

# 12 steps in two epochs, with everything that has a state: average, Muon, dropout, mixing, sizes, accumulation.
EVERYTHING: dict[str, dict[str, Any]] = {
    "data": {"batch_size": 256},
    "optim": {"name": "muon", "ema_decay": 0.9},
    "augment": {"mixup": 0.2, "cutmix": 1.0, "erasing": 0.2},
    "schedule": {"epochs": 2, "progressive_scales": (0.5,), "progressive_until": (0.4,)},
    "evaluation": {"every_epochs": 1},
    "checkpoint": {"every_steps": 2, "keep": 2},
    "compute": {"accumulation_steps": 2},
}
_JOBS = "vitrail.selftest.jobs"


@dataclass(frozen=True)
class Check:
    """What a check came to.

    Args:
        points: faults that were injected, or things that were looked at.
        failures: what went wrong, a line each; empty when all is well.
        worst_seconds: the longest time from a fault to a run that was whole again; 0 where nothing was interrupted.
    """

    name: str
    points: int
    failures: tuple[str, ...]
    seconds: float
    worst_seconds: float = 0.0


def check_all(folder: Path) -> Iterator[Check]:
    """Model, data, training, model file, prediction, resuming: each once, in a folder that is empty.

    Yields:
        A check as soon as it is done.
    """
    yield _timed("model", _model)
    yield _timed("train", lambda: _train(folder / "run"))
    yield _timed("save and load", lambda: _reload(folder / "run"))
    with ForkServer() as server:
        yield from _kills(server, folder, points=2, seed=0, name="kill and resume")


def inject_faults(folder: Path, *, kills: int, seed: int = 0) -> Iterator[Check]:
    """Faults of every kind against a small run, in a folder that is empty.

    Args:
        kills: how many times a run is killed (SIGKILL) at a random moment.
        seed: of the moments.
    Yields:
        A check as soon as it is done.
    """
    with ForkServer() as server:
        yield from _kills(server, folder, points=kills, seed=seed, name="killed at random moments")
        yield _timed("died at every file operation of a save", lambda: _deaths(server, folder / "deaths"))
    yield _timed("flipped bits and truncations", lambda: _flips(folder / "whole", points=300, seed=seed))


def _timed(name: str, work: Callable[[], tuple[int, list[str]]]) -> Check:
    started = time.monotonic()
    points, failures = work()
    return Check(name, points, tuple(failures), time.monotonic() - started)


def _model() -> tuple[int, list[str]]:
    torch.manual_seed(0)
    model = ViT(ViTConfig(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2))
    out = model(torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1]))
    out["loss"].backward()
    bad = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    return 1, [f"no finite gradient of {name}" for name in bad if name != "mask_token"]


def _train(run: Path) -> tuple[int, list[str]]:
    result = train(tiny_run(schedule={"epochs": 8}, optim={"lr": 0.01}, compute={"num_threads": 1}), run)
    reached = result.evaluation["accuracy"]
    return 1, [] if reached > 0.3 else [f"the digits are learned to {reached:.3f} only"]


def _reload(run: Path) -> tuple[int, list[str]]:
    _, card = weights.load(run / "best.safetensors")
    predictor = Predictor(run)
    again = read_config(run / "config.json")
    right = tuple(predictor.labels) == card.classes and again.recipe == "digits"
    return 1, [] if right else ["the model file does not agree with the run"]


def _kills(server: ForkServer, folder: Path, *, points: int, seed: int, name: str) -> Iterator[Check]:
    """Kill runs up to three times each at any moment, finish them, and compare them with the undisturbed one."""
    draw, started, failures, killed, worst = random.Random(seed), time.monotonic(), list[str](), 0, 0.0
    whole = folder / "whole"
    length = server.run(f"{_JOBS}:train_tiny", {"run": str(whole), "sections": EVERYTHING}).seconds
    run, number = folder / "killed", 0
    while killed < points and not failures:
        number += 1
        for _ in range(draw.randint(1, 3)):
            ended = _resumed(server, run, kill_after=draw.uniform(0.02, length))
            killed += ended.statuses == [-9]
            if ended.statuses not in ([0], [-9]):
                failures.append(f"run {number} ended with {ended.statuses}")
        ended = _resumed(server, run)
        worst = max(worst, ended.seconds)
        if ended.statuses != [0]:
            failures.append(f"run {number} could not be finished: {ended.statuses}")
        elif different := differences(whole, run):
            failures.append(f"run {number} is another one: {', '.join(different)}")
        fsio.remove_dir(run)
    yield Check(name, killed, tuple(failures), time.monotonic() - started, worst)


def _resumed(server: ForkServer, run: Path, kill_after: float | None = None) -> Any:
    arguments = {"run": str(run), "resume": True, "sections": EVERYTHING}
    return server.run(f"{_JOBS}:train_tiny", arguments, kill_after=kill_after)


def _deaths(server: ForkServer, folder: Path) -> tuple[int, list[str]]:
    """Die before and after each operation of a save that follows another one: one of the two has to be whole."""
    job, failures = f"{_JOBS}:save_and_die", list[str]()
    server.run(job, {"directory": str(folder / "count"), "at": -1, "after": False})
    count = int((folder / "count" / "operations").read_bytes())
    for at in range(count):
        for after in (False, True):
            directory = folder / f"{at}-{after}"
            ended = server.run(job, {"directory": str(directory), "at": at, "after": after})
            newest, _ = newest_checkpoint(directory)
            where = f"operation {at} {'after' if after else 'before'}"
            if ended.statuses != [9]:
                failures.append(f"{where}: status {ended.statuses}")
            elif newest is None or newest.name not in ("step-0000005", "step-0000010"):
                failures.append(f"{where}: {newest}")
            elif not torch.equal(load_checkpoint(newest).tensors["model"]["w"], state_of(int(newest.name[5:]))["w"]):
                failures.append(f"{where}: {newest.name} has other weights")
    return 2 * count, failures


def _flips(run: Path, *, points: int, seed: int) -> tuple[int, list[str]]:
    """Flip a bit of, or cut, a file of the newest of two checkpoints; the older one has to be taken."""
    draw, failures = random.Random(seed), list[str]()
    newest, _ = newest_checkpoint(run / "checkpoints")
    if newest is None:
        return 0, ["the run has no checkpoint"]
    files = sorted(newest.iterdir())
    for number in range(points):
        path = draw.choice(files)
        whole = path.read_bytes()
        data = bytearray(whole)
        if number % 4:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        else:
            data = data[: draw.randrange(len(data))]
        fsio.write_bytes(path, bytes(data))
        taken, refused = newest_checkpoint(run / "checkpoints")
        if taken in (None, newest) or len(refused) != 1 or path.name not in refused[0]:
            failures.append(f"{path.name}, change {number}: not found")
        fsio.write_bytes(path, whole)
    return points, failures + ([f"{newest.name} is damaged"] if damage_of(newest) else [])
