"""From a folder, a pattern or an index of tars to images and labels, as training gets them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tar_shards import png, samples, tar_bytes, write_shards
from vitrail import cli
from vitrail.config import DataConfig
from vitrail.data import load
from vitrail.data.sources import open_source
from vitrail.data.streaming import opening
from vitrail.data.streaming.indexing import index_shards, local_fetch
from vitrail.data.streaming.opening import index, open_stream
from vitrail.data.streaming.places import expanded, local_shards
from vitrail.data.streaming.samples import Rules
from vitrail.data.streaming.table import read_table
from vitrail.errors import DataError


def _open(spec: object):
    return open_source(DataConfig(spec=str(spec)))


def test_a_folder_of_tars_is_a_data_set(tmp_path: Path) -> None:
    write_shards(tmp_path, [5, 0 + 1, 7])
    write_shards(tmp_path, [4], "val")
    source = _open(tmp_path)
    assert source.classes == ("cat", "dog")
    train, val = source.splits["train"], source.splits["val"]
    assert (len(train), len(val)) == (13, 4)
    assert train.chunk_starts is not None
    assert train.chunk_starts.tolist() == [0, 5, 6, 13]
    assert train.labels.tolist() == [number % 2 for number in range(13)]
    assert [train.names[5], *train.names[-2:]] == ["train-001.tar:00005", "train-002.tar:00011", "train-002.tar:00012"]
    assert list(train.read(np.arange(13))) == [png(number) for number in range(13)]
    assert list(train.read(np.array([0, 6, 12]))) == [png(0), png(6), png(12)]
    assert list(val.read(np.array([3]))) == [png(3)]
    images = load(DataConfig(spec=str(tmp_path), image_size=8), ("train",))["train"]
    assert len(images) == 13
    again = _open(tmp_path)
    assert again.listing == source.listing
    assert list(again.splits["train"].read(np.array([7]))) == [png(7)]


def test_indices_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    write_shards(tmp_path, [5, 3])
    alone = _open(tmp_path).listing
    for path in list(tmp_path.glob("*.tar")):
        path.with_suffix(".tar.idx").write_bytes((0).to_bytes(8, "little") + path.stat().st_size.to_bytes(8, "little"))
        path.with_suffix(".idx").write_text("v1.2 1\npng 512 70 00000.png\n")
    assert _open(tmp_path).listing == alone


@pytest.mark.parametrize("inner", ["", "train"])
def test_tars_beside_folders_of_images_are_refused(inner: str, tmp_path: Path) -> None:
    folder = tmp_path / inner
    (folder / "photos" / "cat").mkdir(parents=True)
    (folder / "photos" / "cat" / "1.png").write_bytes(png(1))
    assert len(_open(tmp_path).splits["train"]) == 1
    write_shards(folder, [3])
    for call in (_open, lambda spec: local_shards(str(spec))):
        with pytest.raises(DataError, match=r"shards and folders of images[^\n]*\n.*train-000.tar; photos/cat/1.png"):
            call(tmp_path)


def test_the_index_of_local_tars_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, [3])
    first = _open(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("indexed again")

    with monkeypatch.context() as patch:
        patch.setattr(opening, "index_shards", fail)
        assert _open(tmp_path).listing == first.listing
    (tmp_path / "train-000.tar").write_bytes(tar_bytes(samples(range(4))))
    assert len(_open(tmp_path).splits["train"]) == 4


@pytest.mark.parametrize(
    ("spec", "count"),
    [("train-{000..001}.tar", 6), ("train-00[02].tar", 9), ("train-002.tar", 7), ("{train-000,val-000}.tar", 5)],
)
def test_patterns_name_shards(spec: str, count: int, tmp_path: Path) -> None:
    write_shards(tmp_path, [2, 4, 7])
    write_shards(tmp_path, [3], "val")
    assert sum(map(len, _open(tmp_path / spec).splits.values())) == count


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("train-{000..009}.tar", "shards are missing"),
        ("train-{0..99999999}.tar", "too many shards"),
        ("a.tar.gz", "compressed"),
        ("train-000.tar", "not a tar"),
        ("{train-001,other}.tar", "split of other.tar cannot be told"),
    ],
)
def test_what_is_no_set_of_shards_is_said(spec: str, said: str, tmp_path: Path) -> None:
    write_shards(tmp_path, [2, 4])
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "other.tar").write_bytes((tmp_path / "train-001.tar").read_bytes())
    (tmp_path / "train-000.tar").write_bytes(b"\x1f\x8b" + bytes(5000))
    with pytest.raises(DataError, match=said):
        _open(tmp_path / spec)


@given(st.integers(0, 50), st.integers(0, 60))
def test_braces_count_with_zeros(first: int, last: int) -> None:
    assert expanded(f"a-{{{first:03}..{last:03}}}-{{x,y}}.tar") == [
        f"a-{number:03}-{letter}.tar" for number in range(first, last + 1) for letter in "xy"
    ]


def test_images_without_a_label_are_left_out(tmp_path: Path) -> None:
    members = samples(range(9))
    kept = [member for member in members if member[0] not in ("00000.cls", "00004.cls", "00008.cls")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(kept))
    index(str(tmp_path / "a.tar"), tmp_path / "i", rules=Rules(chunk_bytes=3000))
    source = _open(tmp_path / "i")
    split = source.splits["train"]
    assert "train: 3 of 9 examples have no label and are left out, first a.tar:00000" in source.notes
    assert list(split.names) == [f"a.tar:0000{n}" for n in (1, 2, 3, 5, 6, 7)]
    assert list(split.read(np.arange(6))) == [png(n) for n in (1, 2, 3, 5, 6, 7)]
    assert split.chunk_starts is not None
    assert split.chunk_starts[[0, -1]].tolist() == [0, 6]
    everything = open_stream(str(tmp_path / "i"), keep_unlabelled=True).splits["train"]
    assert everything.labels.tolist() == [-1, 1, 0, 1, -1, 1, 0, 1, -1]


def test_labels_that_are_not_found_are_asked_for(tmp_path: Path) -> None:
    texts = [(name.replace(".cls", ".txt"), content) for name, content in samples(range(4))]
    (tmp_path / "a.tar").write_bytes(tar_bytes(texts))
    with pytest.raises(DataError, match=r"none of its 4 examples has a label;[\s\S]*--labels txt") as caught:
        _open(tmp_path)
    assert "no such split" not in str(caught.value)


def test_names_of_numbers_stand_beside_the_tars(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(range(4), classes=("2", "0"))))
    assert _open(tmp_path / "a.tar").classes == ("0", "2")
    (tmp_path / "classes.txt").write_text("ape\nbee\ncow\n")
    source = _open(tmp_path / "a.tar")
    assert source.classes == ("ape", "bee", "cow")
    assert source.splits["train"].labels.tolist() == [2, 0, 2, 0]
    (tmp_path / "classes.txt").write_text("ape\nbee\n")
    with pytest.raises(DataError, match=r"no usable label[\s\S]*0 to 1"):
        _open(tmp_path / "a.tar")


def test_a_shard_that_changes_is_refused(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [4])
    split = _open(tmp_path).splits["train"]
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match="changed after it was indexed"):
        list(split.read(np.arange(4)))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        list(split.read(np.arange(4)))


def test_indexing_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", [3, 4, 5])
    root, shards = local_shards(str(tmp_path / "set"))
    read = local_fetch(root)
    asked: list[str] = []

    def broken(shard, offset: int, length: int) -> bytes:
        asked.append(shard.name)
        if shard.name == "train-002.tar":
            raise OSError(5, "Input/output error")
        return read(shard, offset, length)

    def run(fetch):
        return index_shards(str(root), shards, fetch, rules=Rules(), piece=4096, parts=tmp_path / "parts")

    with pytest.raises(DataError, match="Input/output"):
        run(broken)
    for part in (tmp_path / "parts").iterdir():
        whole = part.read_bytes()
    assert {"train-000.tar", "train-001.tar"} <= set(asked)
    asked.clear()
    with pytest.raises(DataError, match="Input/output"):
        run(broken)
    assert set(asked) == {"train-002.tar"}
    part.write_bytes(whole[:-1])  # a damaged one is made again
    assert len(run(read).members) == 12


def test_the_command_writes_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path / "set", [3, 4])
    write_shards(tmp_path / "set", [2], "test")
    command = ["data", "index", str(tmp_path / "set"), "-o", str(tmp_path / "i"), "--digests", "yes", "--json"]
    assert cli.main(command) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["splits"]["train"] == {"num_examples": 7, "num_chunks": 2, "num_shards": 2, "num_bytes": 20480}
    assert cli.main(command) == 0  # it is there already
    assert json.loads(capsys.readouterr().out) == answer
    assert cli.main(["data", "info", str(tmp_path / "i")]) == 0
    assert "cat" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "set"]
    (tmp_path / "other").mkdir()
    assert cli.main([*command[:4], str(tmp_path / "other")]) == 2
    assert "something else" in capsys.readouterr().err
    assert cli.main(["data", "info", str(tmp_path / "i"), "--digests", "yes"]) == 2
    assert "belongs to data index" in capsys.readouterr().err


# ---- a damaged index ---------------------------------------------------------------------------------------------


def _changed(folder: Path, name: str, change) -> None:
    if name == "index.json":
        about = json.loads((folder / name).read_text())
        change(about)
        (folder / name).write_text(json.dumps(about))
    else:
        array = np.load(folder / name)
        np.save(folder / name, change(array))


def _with(field: str, value: int):
    def change(array: np.ndarray) -> np.ndarray:
        array[field][1] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("index.json", lambda about: about.update(format_version=99)),
        ("index.json", lambda about: about.pop("shards")),
        ("index.json", lambda about: about["shards"][0].update(name="../../etc/passwd")),
        ("index.json", lambda about: about["shards"][0].update(num_chunks=10**12)),
        ("index.json", lambda about: about["shards"][0].update(size=1)),
        ("index.json", lambda about: about["shards"][1].update(name=about["shards"][0]["name"])),
        ("index.json", lambda about: about.update(classes=["cat"])),
        ("chunks.npy", lambda array: array[:-1]),
        ("chunks.npy", lambda array: array["count"]),
        ("chunks.npy", _with("offset", 2**64 - 5)),
        ("chunks.npy", _with("size", 2**32 - 1)),
        ("chunks.npy", _with("shard", 9)),
        ("chunks.npy", _with("count", 9)),
        ("members.npy", _with("label", 9)),
        ("members.npy", _with("label", -7)),
        ("members.npy", lambda array: array[:-1]),
        ("keys.npy", lambda array: array[:-1]),
        ("key_ends.npy", lambda array: array[::-1].copy()),
    ],
)
def test_a_damaged_index_is_refused(name: str, change, tmp_path: Path) -> None:
    write_shards(tmp_path / "set", [3, 4])
    folder, table = index(str(tmp_path / "set"), tmp_path / "i")
    assert read_table(folder).listing() == table.listing()
    _changed(folder, name, change)
    with pytest.raises(DataError, match="index is damaged|another format"):
        read_table(folder)


def test_an_image_outside_of_its_chunk_is_not_read(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", [3, 4])
    folder, _ = index(str(tmp_path / "set"), tmp_path / "i")
    for field, value in (("offset", 2**63), ("size", 2**32 - 1)):
        _changed(folder, "members.npy", _with(field, value))
        with pytest.raises(DataError, match="index is damaged"):
            list(_open(folder).splits["train"].read(np.array([1])))
