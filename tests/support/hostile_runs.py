"""Run directories of tiny runs, damaged, and what the commands make of them."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch
from torch import Tensor

import vitrail.api.reports
import vitrail.reporting.page  # noqa: F401  (scipy and jinja2 load before anything is timed)
from tests.support.folders import image_folder
from tests.support.hostile import VALUES, command, damaged, damaged_card, damaged_header, damaged_json, try_mutants
from vitrail import weights
from vitrail.config import ArchitectureConfig, RunConfig, to_json
from vitrail.reading import DAMAGE, read_regular
from vitrail.run import RunDir
from vitrail.tensor_file import tensor_file
from vitrail.tensor_header import HEADER_SHA256, read_header
from vitrail.training import loop, train
from vitrail.training.transfer import with_weights

_TINY = ArchitectureConfig(patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2.0)
_DATA = "images"


def make_runs(folder: str | Path) -> None:
    """A finished run, one that lacks a step, and one that fine-tunes and lacks a step; their images lie beside."""
    folder = Path(folder)
    images = image_folder(folder.parent / _DATA, {f"{s}/{c}": 2 for s in ("train", "val", "test") for c in "ab"})
    config = _changed(
        RunConfig(model=_TINY, recipe="tiny"),
        data={"spec": str(images), "image_size": 8, "batch_size": 4, "mean": (0.5,) * 3, "std": (0.5,) * 3},
        schedule={"steps": 2, "warmup_fraction": 0.0},
        evaluation={"split": "val", "every_epochs": 1},
        checkpoint={"every_steps": 1, "keep": 2, "asynchronous": False},
        compute={"device": "cpu", "cpu_linear": "mkl"},
    )
    train(config, folder / "finished")
    muon = _changed(config, optim={"name": "muon", "ema_decay": 0.9}, evaluation={"test_best": True})
    _all_but_one_step(muon, folder / "interrupted")
    model, card = weights.load(folder / "finished", classes=("a", "c"))
    weights.save(folder.parent / "start.safetensors", model, card)
    start = with_weights(config, str(folder.parent / "start.safetensors"))
    _all_but_one_step(_changed(start, optim={"name": "sgd"}, probe={"baseline": True}), folder / "fine-tuned")
    for log in folder.rglob(".lock-*"):
        log.unlink()


def _all_but_one_step(config: RunConfig, run: Path) -> None:
    train(_changed(config, schedule={"max_steps": 1}), run)
    (run / "config.json").write_text(json.dumps(to_json(config)))


def _changed(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    parts = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, **parts)


def attempt_runs(folder: str, first: int, count: int) -> None:
    """Damage copies of the runs in a folder and give each to every command. Raises AssertionError."""
    seeds = sorted(Path(folder).iterdir())

    def make(number: int, work: Path) -> tuple[Path, str]:
        run = work / seeds[number % len(seeds)].name
        shutil.copytree(seeds[number % len(seeds)], run)
        return run, f"{run.name}: {damage_run(run, random.Random(number))}"

    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # a compiler's time is not ours
    try_mutants(make, use_run, Path(folder).parent / f"mutant-{first}", first, count)


# ---- what is done with them ----------------------------------------------------------------------------------------


class _Enough(BaseException):
    """The run goes on training."""


def use_run(path: Path) -> Iterator[Callable[[], object]]:
    """Every command that takes a run directory, and every reader of one; training ends after an epoch or a save."""
    image = next((path.parent.parent / _DATA / "test" / "a").iterdir())
    run = RunDir(path)
    for words in (
        ("inspect", str(path)),
        ("inspect", str(path), "--json"),
        ("eval", str(path), "--device", "cpu"),
        ("predict", str(path), str(image), "--device", "cpu"),
        ("report", str(path), "--out", str(path.parent / "page.html")),
        ("train", "--resume", "--run", str(path), "--settings"),
        ("train", "--from", str(path / "config.json"), "--run", str(path.parent / "again")),
    ):
        shutil.rmtree(path.parent / "again", ignore_errors=True)
        yield lambda words=words: _command(*words)
    yield from (run.read_config, run.read_environment, run.read_evaluation, run.read_baseline, run.read_metrics)
    yield lambda: RunDir(path).timing.read()  # noqa: PLW0108  (looks at the folder)
    yield lambda: _command("train", "--resume", "--run", str(path))
    yield lambda: _command("inspect", str(path / "last.safetensors"))


def _command(*words: str) -> None:
    with mock.patch.object(loop, "train_until_due", _once(loop.train_until_due)), contextlib.suppress(_Enough):
        command(*words)


def _once(train_until_due: Callable[..., int]) -> Callable[..., int]:
    calls = 0

    def once(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise _Enough
        return train_until_due(*arguments)

    return once


# ---- damage --------------------------------------------------------------------------------------------------------


def damage_run(run: Path, rng: random.Random) -> str:
    """Damage one thing in a run directory, now and then two; in a checkpoint mostly with the right hashes after it."""
    told = [_damage_once(run, rng) for _ in range(rng.choice((1, 1, 1, 2)))]
    for checkpoint in (run / "checkpoints").glob("step-*") if (run / "checkpoints").is_dir() else ():
        if rng.random() < 0.9:
            with contextlib.suppress(*DAMAGE):
                sign(checkpoint)
    return ", ".join(told)


def _damage_once(run: Path, rng: random.Random) -> str:
    files = sorted(f for f in run.rglob("*") if f.is_file() and not f.is_symlink())
    if not files or rng.random() < 0.15:
        return _damage_layout(run, rng)
    weights = rng.random() < 0.3
    victim = rng.choice([f for f in files if (f.suffix == ".safetensors") == weights] or files)
    with victim.open("rb") as file:
        raw = file.read(1 << 24)  # the damage before this one may have made it huge
    try:
        if victim.suffix == ".json":
            new = damaged_json(raw, rng)
        elif victim.suffix == ".jsonl":
            new = _damaged_lines(raw, rng)
        elif rng.random() < 0.2:
            new = rng.choice((damaged, damaged_header))(raw, rng)
        elif victim.parent == run and rng.random() < 0.5:
            new = damaged_card(raw, rng)
        else:
            new = _damaged_tensors(victim, rng)
    except (*DAMAGE, safetensors.SafetensorError):  # damaged before
        new = damaged(raw, rng)
    victim.write_bytes(new)
    return str(victim.relative_to(run))


def _damaged_lines(raw: bytes, rng: random.Random) -> bytes:
    lines = raw.splitlines(keepends=True) or [b"{}\n"]
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, rng.choice(lines))
        case 2:
            lines.append(json.dumps(rng.choice(VALUES)).encode() + b"\n")
        case _:
            lines[at] = damaged_json(lines[at], rng) + b"\n"
    return b"".join(lines)


def _damaged_tensors(file: Path, rng: random.Random) -> bytes:
    """A tensor of another name, type, shape or content, or one less or more; with the right hashes."""
    tensors: dict[str, Tensor] = safetensors.torch.load_file(file)
    metadata = dict(read_header(file).metadata)
    names = sorted(tensors)
    name = rng.choice(names)
    tensor = tensors[name]
    match rng.randrange(9):
        case 0:
            del tensors[name]
        case 1:
            tensors[rng.choice(("x", "", "\x1b[2J", "blocks.7.norm1.weight", "9" * 5000, "0.0.step"))] = tensor
        case 2:
            tensors[rng.choice(names)] = tensors.pop(name)
        case 3:
            kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
            tensors[name] = tensor.to(rng.choice(kinds))
        case 4:
            tensors[name] = tensor.flatten() if tensor.ndim > 1 else tensor[None]
        case 5:
            tensors[name] = torch.zeros((0, *tensor.shape[1:]))
        case 6:
            tensors[name] = torch.full_like(tensor, rng.choice((float("nan"), float("inf"), -1e30, 0.0)))
        case 7:
            tensors[name] = torch.cat((tensor, tensor)) if tensor.ndim else tensor.repeat(2)
        case _:
            tensors = {}
    keep = {key: text for key, text in metadata.items() if key not in ("sha256", HEADER_SHA256)}
    pieces = tensor_file(tensors, keep or None)
    raw = b"".join(bytes(piece) for piece in pieces)
    swapped = {b'"F32"': (b'"U32"', b'"I32"'), b'"I64"': (b'"F64"', b'"U64"', b'"C64"')}
    if rng.random() < 0.1:
        for kind, others in swapped.items():
            raw = raw.replace(kind, rng.choice(others), 1)
    return raw


def _damage_layout(run: Path, rng: random.Random) -> str:
    """A file or folder that is gone, elsewhere, empty, a link, a pipe, or of another kind."""
    entries = sorted(f for f in run.rglob("*") if not f.is_symlink())
    if not entries:
        return "nothing"
    victim = rng.choice(entries)
    action = rng.randrange(8)
    if action == 0 and victim.is_dir():
        names = ("step-0000009", "step-0000001-7", "step-x", "step-" + "9" * 18, "step-0000002.tmp-00aa", "\x1b[2J")
        victim.rename(victim.with_name(rng.choice(names)))
        return f"{victim.name} renamed"
    if action == 1 and victim.is_dir():
        with contextlib.suppress(shutil.Error):  # the number may be its own
            shutil.copytree(victim, victim.with_name(f"step-{rng.randrange(100):07d}"), dirs_exist_ok=True)
        return f"{victim.name} copied"
    if action == 2 and victim.is_file():
        other = rng.choice([f for f in entries if f.is_file()])
        shutil.copy(other, victim) if other != victim else victim.write_bytes(b"")
        return f"{victim.name} from {other.name}"
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    match action:
        case 3:
            victim.symlink_to(rng.choice(("/dev/zero", "/etc", "nothing", "..", "/proc/self/mem", victim.name)))
        case 4:
            os.mkfifo(victim)
        case 5:
            victim.mkdir()
        case 6:
            victim.write_bytes(b"")
            os.truncate(victim, rng.choice((0, 1, 1 << 20, 1 << 38)))
        case _:
            pass
    return f"{victim.name} ({action})"


def sign(checkpoint: Path) -> None:
    """Give a checkpoint the hashes of what it holds."""
    manifest = json.loads(read_regular(checkpoint / "MANIFEST.json", 1 << 24))
    for name, known in manifest["files"].items():
        raw = read_regular(checkpoint / name, 1 << 24)
        known.update(bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    manifest.pop("sha256", None)
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest, indent=2))
