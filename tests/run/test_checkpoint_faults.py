"""Checkpoints under faults: death, full disks and bad bytes at every place, and what is left afterwards."""

import errno
import json
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vitrail
from tests.support.checkpoints import STATE, model_and_card, tensors
from tests.support.faulty_files import FailingAt
from vitrail import fsio, weights
from vitrail.errors import RunError, SaveError, WeightsError
from vitrail.run import load_checkpoint, newest_checkpoint, remove_unfinished, save_checkpoint
from vitrail.run.checkpoint import damage_of
from vitrail.selftest.faulty_files import Counting
from vitrail.selftest.fork_server import ForkServer


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


def _prepared(directory: Path) -> None:
    weights.save(directory / "best.safetensors", *model_and_card(1))
    save_checkpoint(directory / "checkpoints", 5, tensors(5), STATE | {"step": 5}, keep=1)


def _step_of_whole(directory: Path) -> int:
    """The step of the newest whole checkpoint, whose tensors are those of that step."""
    newest, _ = newest_checkpoint(directory / "checkpoints")
    assert newest is not None
    found = load_checkpoint(newest)
    expected = tensors(found.state["step"])
    for group, named in expected.items():
        for name, tensor in named.items():
            assert torch.equal(found.tensors[group][name], tensor)
    return int(found.state["step"])


def _number_of_model(directory: Path) -> int:
    model, _ = vitrail.load(directory / "best.safetensors")
    for number in (1, 2):
        if torch.equal(model.head.weight, model_and_card(number)[0].head.weight):
            return number
    raise AssertionError("neither the old nor the new model")


@pytest.mark.long
def test_death_at_every_operation_leaves_the_old_or_the_new(tmp_path: Path, server: ForkServer) -> None:
    _prepared(tmp_path / "whole")
    job = "tests.support.jobs:save_model_and_checkpoint"
    assert server.run(job, {"directory": str(tmp_path / "whole"), "at": -1, "after": False}).statuses == [0]
    num_operations = int((tmp_path / "whole" / "operations").read_text())
    assert num_operations > 40
    seen: set[tuple[int, int]] = set()
    for at in range(num_operations):
        for after in (False, True):
            directory = tmp_path / f"{at}-{after}"
            _prepared(directory)
            ended = server.run(job, {"directory": str(directory), "at": at, "after": after})
            assert ended.statuses == [9], (at, after)
            seen.add((_number_of_model(directory), _step_of_whole(directory)))
            remove_unfinished(directory / "checkpoints")
            assert all("." not in p.name for p in (directory / "checkpoints").iterdir())
            save_checkpoint(directory / "checkpoints", 10, tensors(10), STATE | {"step": 10}, keep=1)
            assert [p.name for p in (directory / "checkpoints").iterdir()] == ["step-0000010"]
    assert seen == {(1, 5), (2, 5), (2, 10)}


def _operations(directory: Path) -> Counting:
    counting = Counting()
    with fsio.use_file_system(counting):
        weights.save(directory / "best.safetensors", *model_and_card(2))
        save_checkpoint(directory / "checkpoints", 10, tensors(10), STATE | {"step": 10}, keep=1)
    return counting


@pytest.mark.parametrize(
    ("code", "short"),
    [
        (errno.ENOSPC, True),
        *(pytest.param(code, False, marks=pytest.mark.long) for code in (errno.ENOSPC, errno.EIO, errno.EROFS)),
    ],
)
def test_a_fault_at_every_operation_keeps_what_was_saved(tmp_path: Path, code: int, short: bool) -> None:
    _prepared(tmp_path / "count")
    names = _operations(tmp_path / "count").names
    assert {"open", "write", "fsync", "replace", "fsync_dir", "mkdir", "unlink", "rmdir"} <= set(names)
    for at, name in enumerate(names):
        directory = tmp_path / str(at)
        _prepared(directory)
        failing = FailingAt(at, code, short=short)
        with fsio.use_file_system(failing), pytest.raises(SaveError) as caught:
            weights.save(directory / "best.safetensors", *model_and_card(2))
            save_checkpoint(directory / "checkpoints", 10, tensors(10), STATE | {"step": 10}, keep=1)
        assert failing.failed == name
        message = str(caught.value)
        assert str(directory) in message
        assert os.strerror(code) in message
        if code == errno.ENOSPC and name == "write":
            assert "MiB free" in message
            assert "room for " in message
        assert caught.value.exit_status == 74
        assert _number_of_model(directory) in (1, 2)
        assert _step_of_whole(directory) in (5, 10)
        visible = [p.name for p in directory.rglob("*") if "tmp-" in p.name]
        assert not visible, f"a wreck was left by {name}: {visible}"


def test_too_little_room_is_found_before_writing(tmp_path: Path) -> None:
    class Full(fsio.FileSystem):
        def free_bytes(self, path: Path) -> int:
            return 100

    _prepared(tmp_path)
    with fsio.use_file_system(Full()), pytest.raises(SaveError, match=r"No space left.*MiB free") as caught:
        save_checkpoint(tmp_path / "checkpoints", 10, tensors(10), STATE, keep=1)
    assert "room for 0.0 MiB" in str(caught.value)
    assert _step_of_whole(tmp_path) == 5


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system of 256 KiB in memory, where the system allows one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting needs rights that this process does not have")
    try:
        _prepared(disk)
        big = {"model": {"w": torch.randn(300_000)}}
        with pytest.raises(SaveError, match="No space left"):
            save_checkpoint(disk / "checkpoints", 10, big, STATE, keep=1)
        (disk / "ballast").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
        with pytest.raises(SaveError, match=r"No space left on device, 0\.0 MiB free"):
            weights.save(disk / "best.safetensors", *model_and_card(2))
        assert (_number_of_model(disk), _step_of_whole(disk)) == (1, 5)
        (disk / "ballast").unlink()
        save_checkpoint(disk / "checkpoints", 10, tensors(10), STATE | {"step": 10}, keep=1)
        assert _step_of_whole(disk) == 10
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """As a quota: the kernel refuses the write itself."""
    _prepared(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(SaveError, match="File too large"):
            save_checkpoint(tmp_path / "checkpoints", 10, {"model": {"w": torch.randn(300_000)}}, STATE, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert _step_of_whole(tmp_path) == 5
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-0000005"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    _prepared(tmp_path)
    (tmp_path / "checkpoints").chmod(0o500)
    try:
        with pytest.raises(SaveError, match="Permission denied"):
            save_checkpoint(tmp_path / "checkpoints", 10, tensors(10), STATE, keep=1)
    finally:
        (tmp_path / "checkpoints").chmod(0o700)
    assert _step_of_whole(tmp_path) == 5


def test_a_thousand_flipped_bits_and_truncations_are_all_found(tmp_path: Path) -> None:
    draw = random.Random(0)
    good, bad = (save_checkpoint(tmp_path, step, tensors(step), STATE | {"step": step}, keep=2) for step in (5, 10))
    files = sorted(bad.iterdir())
    whole = {path: path.read_bytes() for path in files}
    for number in range(1000):
        path = draw.choices(files, weights=[len(whole[f]) for f in files])[0] if number % 2 else draw.choice(files)
        data = bytearray(whole[path])
        if number % 4 == 0:
            data = data[: draw.randrange(len(data))]
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        damage = damage_of(bad)
        assert path.name in damage, (number, path.name, damage)
        newest, refused = newest_checkpoint(tmp_path)
        assert newest == good
        assert refused == [f"step-0000010 refused: {damage}"]
        path.write_bytes(whole[path])
    assert damage_of(bad) == ""


def test_files_of_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    for step in (5, 10):
        save_checkpoint(tmp_path, step, tensors(step), STATE | {"step": step}, keep=2)
    (tmp_path / "step-0000010" / "model.safetensors").write_bytes(
        (tmp_path / "step-0000005" / "model.safetensors").read_bytes()
    )
    assert newest_checkpoint(tmp_path)[0] == tmp_path / "step-0000005"


def test_when_all_are_damaged_nothing_is_begun_anew(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, tensors(5), STATE, keep=1)
    (path / "state.json").unlink()
    with pytest.raises(RunError, match=r"every checkpoint is damaged.*\n.*state.json: No such file"):
        newest_checkpoint(tmp_path)


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, tensors(5), STATE | {"step": 5}, keep=1)
    (path / "model.safetensors").write_bytes(b"")
    save_checkpoint(tmp_path, 5, tensors(5), STATE | {"step": 5}, keep=1)
    assert damage_of(path) == ""


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    broken = tensors(5)
    broken["model"]["a"] = torch.empty(0)
    broken["model"]["b"] = torch.linspace(-9, 9, 33, dtype=dtype)
    broken["model"]["b"][1] = value
    with pytest.raises(RunError, match="model tensor b is not finite at step 5"):
        save_checkpoint(tmp_path, 5, broken, STATE, keep=1)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_format_is_refused_by_name_rather_than_passed_over(tmp_path: Path) -> None:
    for step in (5, 10):
        save_checkpoint(tmp_path, step, tensors(step), STATE | {"step": step}, keep=2)
    manifest = tmp_path / "step-0000010" / "MANIFEST.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format_version": 3}))
    with pytest.raises(RunError, match=r"newer format.*\n.*version 3.*at most 2"):
        newest_checkpoint(tmp_path)


def test_a_bit_flipped_in_the_weights_of_a_model_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights.save(path, *model_and_card(1))
    whole = path.read_bytes()
    again = tmp_path / "again.safetensors"
    weights.save(again, *model_and_card(1))
    assert again.read_bytes() == whole, "the same model gives the same bytes"
    start = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(0)
    for _ in range(50):
        data = bytearray(whole)
        data[draw.randrange(start, len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="SHA-256"):
            vitrail.load(path)
