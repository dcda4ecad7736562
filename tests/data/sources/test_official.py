"""Official archives: the values come out, and nothing of a file is ever run."""

import gzip
import os
import pickle
import pickletools
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.folders import cifar_files, idx_gz, python2_pickle, tar_gz
from vitrail.data.sources import official
from vitrail.data.sources.download import ARCHIVES
from vitrail.data.sources.official import open_cifar, open_fashion_mnist
from vitrail.errors import DataError

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
SIZES = {"cifar10": {"train": 100, "test": 20}, "cifar100": {"train": 20, "test": 20}}


def write_folder(root: Path, name: str, files: dict[str, bytes]) -> Path:
    folder = root / FOLDERS[name]
    folder.mkdir(parents=True)
    for member, data in files.items():
        (folder / member).write_bytes(data)
    return folder


def truth(data: bytes) -> dict[bytes, Any]:
    """What Python itself unpickles from a file that the test made."""
    return pickle.loads(data, encoding="bytes")


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("packed", [False, True])
def test_values_are_those_of_python(tmp_path: Path, name: str, packed: bool, own_archives: None) -> None:
    files = cifar_files(name)
    place = tar_gz(tmp_path / "a.tar.gz", FOLDERS[name], files) if packed else write_folder(tmp_path, name, files)
    source = open_cifar(place, name)
    assert {split: len(part) for split, part in source.splits.items()} == SIZES[name]
    labels_key, names_key = (b"labels", b"label_names") if name == "cifar10" else (b"fine_labels", b"fine_label_names")
    meta = truth(files["batches.meta" if name == "cifar10" else "meta"])
    assert list(source.classes) == [item.decode() for item in meta[names_key]]
    members = [f"data_batch_{i}" for i in range(1, 6)] if name == "cifar10" else ["train"]
    batches = [truth(files[member]) for member in members]
    train = source.splits["train"]
    assert train.labels.tolist() == [label for batch in batches for label in batch[labels_key]]
    expected = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.stack(list(train.read(np.arange(len(train))))), expected)
    assert train.names[1] == f"{place.name}/{members[0]}:1"


@pytest.mark.parametrize("positions", [[], [19, 20, 21], [0, 99], [40]])
def test_positions_run_through_the_batches(tmp_path: Path, positions: list[int]) -> None:
    train = open_cifar(write_folder(tmp_path, "cifar10", cifar_files("cifar10")), "cifar10").splits["train"]
    whole = list(train.read(np.arange(100)))
    some = list(train.read(np.array(positions, dtype=np.int64)))
    assert len(some) == len(positions)
    for position, pixels in zip(positions, some, strict=True):
        np.testing.assert_array_equal(pixels, whole[position])


# ---- hostile and damaged pickles ---------------------------------------------------------------------------------


class Payload:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def payloads(canary: Path) -> dict[str, bytes]:
    """Pickles that create the canary file, or would do other harm, when they are unpickled."""
    touch = f"open({str(canary)!r}, 'w').close()".encode()
    text = touch.decode()
    hide = {b"data": Payload(exec, text), b"labels": [0]}
    as_global = b"c__builtin__\nexec\n"
    return {
        **{f"protocol {n}": pickle.dumps(Payload(exec, text), protocol=n) for n in range(6)},
        **{f"hidden {n}": pickle.dumps(hide, protocol=n) for n in range(6)},
        "system": pickle.dumps(Payload(os.system, f"touch {canary}"), protocol=2),
        "python 2": b"\x80\x02cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.",
        "inst": b"(S'" + touch.replace(b"'", b'"') + b"'\ni__builtin__\nexec\n.",
        "obj": b"(" + as_global + b"X" + len(touch).to_bytes(4, "little") + touch + b"o.",
        "newobj": b"\x80\x02" + as_global + b"X" + len(touch).to_bytes(4, "little") + touch + b"\x85\x81.",
        "stack global": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93X"
        + len(touch).to_bytes(4, "little")
        + touch
        + b"\x85R.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent id": b"Pcanary\n.",
        "numpy loads": b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        "array of objects": b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.",
        "build on a list": b"\x80\x02](K\x01eN}b.",
        "call of a list": b"\x80\x02]K\x01\x85R.",
    }


@pytest.mark.parametrize("name", payloads(Path("canary")))
@pytest.mark.parametrize("member", ["batches.meta", "data_batch_3", "test_batch"])
def test_malicious_pickles_are_refused_and_not_run(tmp_path: Path, name: str, member: str) -> None:
    canary = tmp_path / "canary"
    data = payloads(canary)[name]
    place = write_folder(tmp_path, "cifar10", cifar_files("cifar10", per_batch=2) | {member: data})
    with pytest.raises(DataError, match=member):
        open_cifar(place, "cifar10")
    assert not canary.exists()


def test_a_foreign_name_is_refused_even_where_it_is_not_called(tmp_path: Path) -> None:
    files = cifar_files("cifar10", per_batch=2)
    unused = b"U\x05extra" + b"cos\nsystem\n"
    files["batches.meta"] = files["batches.meta"][:-2] + unused + b"u."
    assert truth(files["batches.meta"])[b"extra"] is os.system
    with pytest.raises(DataError, match="os system"):
        open_cifar(write_folder(tmp_path, "cifar10", files), "cifar10")


def test_the_payloads_are_live(tmp_path: Path) -> None:
    """Unpickled by Python they do create the canary: what the test above refuses is not harmless anyway."""
    for name in ("protocol 2", "hidden 4", "inst", "stack global"):
        canary = tmp_path / name
        pickle.loads(payloads(canary)[name])
        assert canary.exists()


def test_no_foreign_exception_escapes() -> None:
    data = python2_pickle(
        {b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": [1, 2], b"f": [b"x", (1, 2, 3, None)]}
    )
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(600):
        mutant = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(0, 130)) if rng.random() < 0.7 else int(rng.integers(0, len(mutant)))
            mutant[place % len(mutant)] = int(rng.integers(0, 256))
        try:
            official._plain_values(bytes(mutant), "mutant")
            accepted += 1
        except DataError:
            pass
    assert 0 < accepted < 600


def test_every_opcode_outside_the_list_is_refused() -> None:
    known = {"STOP", "PROTO", "MARK", "GLOBAL", "REDUCE", "BUILD"}
    dangerous = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}
    names = {opcode.name for opcode in pickletools.opcodes}
    assert dangerous | known <= names
    text = Path(official.__file__).read_text()
    assert not any(f'"{name}"' in text for name in dangerous)


@pytest.mark.parametrize(
    "change",
    [
        {b"data": np.zeros((2, 3071), dtype=np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": [0, 10]},
        {b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": [0, -1]},
        {b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": [0, b"1"]},
        {b"data": [1, 2], b"labels": [0, 1]},
        {b"labels": [0, 1]},
        {},
    ],
)
def test_batches_of_another_shape(tmp_path: Path, change: dict[bytes, Any]) -> None:
    files = cifar_files("cifar10", per_batch=2) | {"data_batch_2": python2_pickle(change)}
    with pytest.raises(DataError, match="data_batch_2"):
        open_cifar(write_folder(tmp_path, "cifar10", files), "cifar10")


# ---- archives ----------------------------------------------------------------------------------------------------


@pytest.fixture
def own_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever archive a test has made be the official one."""
    monkeypatch.setattr(official, "check_official", lambda _path, _name: None)


def test_no_other_archive_than_the_official_one_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar_gz(tmp_path / "a.tar.gz", FOLDERS["cifar10"], cifar_files("cifar10", per_batch=2))
    monkeypatch.setattr(tarfile, "open", lambda *_: pytest.fail("opened"))
    with pytest.raises(DataError, match=r"\d+ bytes instead of 170498071"):
        open_cifar(path, "cifar10")
    same_size = {"cifar10": (replace(ARCHIVES["cifar10"][0], num_bytes=path.stat().st_size),)}
    monkeypatch.setattr(official, "ARCHIVES", same_size)
    with pytest.raises(DataError, match="SHA-256"):
        open_cifar(path, "cifar10")


def test_nothing_is_extracted(tmp_path: Path, own_archives: None) -> None:
    files = cifar_files("cifar10", per_batch=2) | {"../../outside.txt": b"out", "/absolute.txt": b"out"}
    path = tar_gz(tmp_path / "inner" / "a.tar.gz", FOLDERS["cifar10"], files)
    before = sorted(tmp_path.rglob("*"))
    open_cifar(path, "cifar10")
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/absolute.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_an_archive_are_no_members(tmp_path: Path, own_archives: None, kind: bytes) -> None:
    link = tarfile.TarInfo(f"{FOLDERS['cifar10']}/batches.meta")
    link.type, link.linkname = kind, "/dev/zero"
    files = cifar_files("cifar10", per_batch=2)
    del files["batches.meta"]
    with pytest.raises(DataError, match=r"batches\.meta"):
        open_cifar(tar_gz(tmp_path / "a.tar.gz", FOLDERS["cifar10"], files, link), "cifar10")


def test_a_member_with_holes_is_not_read(tmp_path: Path, own_archives: None) -> None:
    sparse = tarfile.TarInfo(f"{FOLDERS['cifar10']}/batches.meta")
    sparse.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(3 << 30), "GNU.sparse.name": sparse.name}
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(sparse)
    with pytest.raises(DataError, match="a member of 3221225472 bytes"):
        open_cifar(tmp_path / "a.tar.gz", "cifar10")


@pytest.mark.parametrize(
    "body", [b"N" * 1_000_001, pytest.param(b"N" * 300_000 + b"(t" * 300_000, marks=pytest.mark.long)]
)
def test_a_pickle_of_very_many_steps_ends_soon(tmp_path: Path, body: bytes) -> None:
    files = cifar_files("cifar10", per_batch=2) | {"batches.meta": b"\x80\x02" + body + b"."}
    with pytest.raises(DataError, match="a pickle"):
        open_cifar(write_folder(tmp_path, "cifar10", files), "cifar10")


def test_a_missing_member(tmp_path: Path, own_archives: None) -> None:
    files = cifar_files("cifar100", per_batch=2)
    del files["test"]
    with pytest.raises(DataError, match="test"):
        open_cifar(tar_gz(tmp_path / "a.tar.gz", FOLDERS["cifar100"], files), "cifar100")
    with pytest.raises(DataError, match="test"):
        open_cifar(write_folder(tmp_path, "cifar100", files), "cifar100")


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.999, -1])
def test_a_truncated_archive(tmp_path: Path, cut: float) -> None:
    path = tar_gz(tmp_path / "a.tar.gz", FOLDERS["cifar10"], cifar_files("cifar10", per_batch=2))
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if 0 < cut < 1 else int(cut)])
    with pytest.raises(DataError, match="fetch it again"):
        open_cifar(path, "cifar10")


@pytest.mark.parametrize(
    "body",
    [b"})" + b"\x85" * 2_000_000 + b"K\x01s", b"]" * 200_000 + b"a" * 199_999, b"})\x85K\x01s", b"}K\x01K\x01s"],
    ids=["tuples", "lists", "a tuple as key", "a number as key"],
)
def test_what_is_nested_is_refused_at_once(tmp_path: Path, body: bytes) -> None:
    """A tuple two million deep would exhaust the stack when it is hashed."""
    files = cifar_files("cifar10", per_batch=2) | {"batches.meta": b"\x80\x02" + body + b"."}
    with pytest.raises(DataError, match=r"a key that is a|a tuple in a tuple|a list in a list"):
        open_cifar(write_folder(tmp_path, "cifar10", files), "cifar10")


# ---- Fashion-MNIST -----------------------------------------------------------------------------------------------

CLASSES = tuple("abcdefghij")


def fashion_files(root: Path, **changes: bytes) -> list[Path]:
    rng = np.random.default_rng(0)
    content = {
        "train_images": idx_gz(rng.integers(0, 256, (30, 28, 28))),
        "train_labels": idx_gz(np.arange(30) % 10),
        "test_images": idx_gz(rng.integers(0, 256, (10, 28, 28))),
        "test_labels": idx_gz(np.arange(10)),
    } | changes
    for name, data in content.items():
        (root / name).write_bytes(data)
    return [root / name for name in content]


def test_idx_files(tmp_path: Path) -> None:
    source = open_fashion_mnist(fashion_files(tmp_path), "fashion-mnist", CLASSES)
    assert source.splits["train"].labels.tolist() == [row % 10 for row in range(30)]
    expected = np.random.default_rng(0).integers(0, 256, (30, 28, 28)).astype(np.uint8)
    np.testing.assert_array_equal(np.stack(list(source.splits["train"].read(np.arange(30)))), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"train_labels": idx_gz(np.arange(29) % 10)},
        {"train_labels": idx_gz(np.full(30, 10))},
        {"train_images": idx_gz(np.zeros((30, 784)))},
        {"train_images": gzip.compress(bytes((0, 0, 8, 3)) + (2**31).to_bytes(4, "big") * 3)},
        {"train_images": b"not gzip"},
        {"train_images": idx_gz(np.zeros((30, 28, 28)))[:-9]},
        {"test_images": gzip.compress(b"")},
    ],
)
def test_damaged_idx_files(tmp_path: Path, change: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match=next(iter(change)).split("_")[0]):
        open_fashion_mnist(fashion_files(tmp_path, **change), "fashion-mnist", CLASSES)
