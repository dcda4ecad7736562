"""Which images the units of an input have, whatever form it comes in."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.folders import write_tar
from tests.support.images import encode, noise
from vitrail.batch_prediction import Inputs, find_units, shards, units
from vitrail.batch_prediction.units import Record, rows_a_unit
from vitrail.data.streaming.opening import index
from vitrail.errors import DataError, ImageError

PNG = encode(noise(4, 4), "PNG")


def found(*words: object, out: Path = Path("out"), **options: Any) -> Inputs:
    return find_units([str(word) for word in words], out, **options)


def records(given: Inputs) -> list[Record]:
    return [record for unit in given.units for record in unit.records()]


def keys(given: Inputs) -> list[tuple[str, str, int]]:
    return [(unit.shard, one.key, one.row) for unit in given.units for one in unit.records()]


@pytest.fixture
def three_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (units, shards):
        monkeypatch.setattr(module, "UNIT_ROWS", 3)


@pytest.mark.usefixtures("three_a_unit")
def test_a_folder_has_a_row_for_every_visible_file(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    names = ["a.png", "no suffix", "b/\u732b.jpg", "b/deep/x.y.png", "notes.txt"]
    for name in [*names, ".hidden.png"]:
        (tmp_path / name).write_bytes(PNG)
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"b/\xff.png"))).write_bytes(PNG)
    given = found(tmp_path)
    assert [unit.count for unit in given.units] == [3, 3]
    assert sorted(key for _, key, _ in keys(given)) == sorted([*names, "b/\\udcff.png"])
    assert [row for _, _, row in keys(given)] == list(range(6))
    assert all(isinstance(one.image, Path) and one.image.read_bytes() == PNG for one in records(given))
    again = found(tmp_path)
    assert again.sha256 == given.sha256
    os.utime(tmp_path / "a.png", ns=(0, 0))
    assert found(tmp_path).sha256 != given.sha256


@pytest.mark.parametrize(
    ("files", "rows", "units"), [(100, 512, 1), (513, 512, 2), (20_000, 1000, 20), (10**6, 10_000, 100)]
)
def test_few_files_make_many_units(files: int, rows: int, units: int) -> None:
    assert rows_a_unit(files) == rows
    assert -(-files // rows) == units


def test_files_are_taken_as_they_are_given(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(PNG)
    assert [key for _, key, _ in keys(found(tmp_path / "b.png", tmp_path / "a.png"))] == [
        f"{tmp_path}/b.png",
        f"{tmp_path}/a.png",
    ]


def test_samples_of_a_tar(tmp_path: Path) -> None:
    files = {
        "train/000.jpg": PNG,
        "train/000.cls": b"1",
        "train/001.seg.png": b"a map",
        "train/001.json": b"{}",
        "train/001.png": PNG,
        "train/002.cls": b"2",
        "IMG.1.png": PNG,
        "IMG.2.png": PNG,
        "._IMG.png": b"clutter",
        "003": PNG,
    }
    write_tar(tmp_path / "a.tar", files)
    rows = records(found(tmp_path / "a.tar"))
    assert [one.key for one in rows] == ["train/000", "train/001", "train/002", "IMG.1.png", "IMG.2.png", "003"]
    assert [one.row for one in rows] == list(range(6))
    assert [one.image for one in rows if one.key != "train/002"] == [PNG] * 5
    assert isinstance(rows[2].image, ImageError)
    assert ".cls" in rows[2].image.reason


def test_folders_patterns_and_ranges_of_tars_are_the_same(tmp_path: Path) -> None:
    for number in range(9, 12):
        write_tar(tmp_path / f"s-{number:03d}.tar", {f"{number}.png": PNG})
    (tmp_path / "index.json").write_text("{}")
    folder = found(tmp_path)
    assert [unit.shard for unit in folder.units] == ["s-009.tar", "s-010.tar", "s-011.tar"]
    assert "1 other files" in folder.notes[0]
    for pattern in ("s-*.tar", "s-{009..011}.tar"):
        assert found(tmp_path / pattern).sha256 == folder.sha256
    with pytest.raises(DataError, match="no file is called like this"):
        found(tmp_path / "t-*.tar")


def test_an_index_stands_for_its_shards(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number in range(2):
        write_tar(tmp_path / "shards" / f"s-{number}.tar", {f"{number}{place}.png": PNG for place in range(3)})
    index(str(tmp_path / "shards"), tmp_path / "index")
    assert [(one.key, one.row, one.image) for one in records(found(tmp_path / "index"))] == [
        (f"s-{number}.tar:{number}{place}", 3 * number + place, PNG) for number in range(2) for place in range(3)
    ]


def test_an_address_is_read_through_fsspec(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for number in range(2):
        write_tar(tmp_path / "x.tar", {f"{number}.png": PNG})
        memory.pipe(f"/predict/s-{number}.tar", (tmp_path / "x.tar").read_bytes())
    for address in ("memory://predict/s-{0..1}.tar", "memory://predict/*.tar", "memory://predict/"):
        given = found(address)
        assert [(one.key, one.image) for one in records(given)] == [("0", PNG), ("1", PNG)]
    for address in ("memory://nothing/*.tar", "nosuch://place/a.tar", "memory://predict/none.tar?key=secret"):
        with pytest.raises(DataError) as raised:
            found(address)
        assert "secret" not in str(raised.value)


@pytest.mark.usefixtures("three_a_unit")
def test_parquet_needs_no_labels_and_is_cut_at_row_groups(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [encode(noise(4, 4, seed=number), "PNG") for number in range(9)]
    table = pa.table({"image": [{"bytes": one, "path": one and "x.png"} for one in [*images, None]]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    for given in (found(tmp_path), found(tmp_path / "a.parquet")):
        assert [unit.count for unit in given.units] == [4, 4, 2]
        assert [one.key for one in records(given)] == [f"a.parquet:{row}" for row in range(10)]
        assert [one.image for one in records(given)] == [*images, b""]


def test_a_named_set_and_a_manifest(tmp_path: Path) -> None:
    test, everything = found("digits", split="test"), found("digits")
    assert [unit.count for unit in test.units] == [359]
    assert [unit.count for unit in everything.units] == [512, 512, 414, 359]
    assert {unit.shard for unit in everything.units} == {"train", "test"}
    assert all(isinstance(one.image, np.ndarray) for one in records(test))
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "list.csv").write_text("path,label\na.png,cat\n")
    assert [one.image for one in records(found(tmp_path / "list.csv"))] == [tmp_path / "a.png"]
    with pytest.raises(DataError, match="has no split val"):
        found("digits", split="val")


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with pytest.raises(DataError, match="would take the parts for input"):
        found(tmp_path, out=tmp_path / "out")
    write_tar(tmp_path / "b.tar", {"x.png": PNG})
    with pytest.raises(DataError, match="has images and shards"):
        found(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images here"):
        found(tmp_path / "empty")
    with pytest.raises(DataError, match=r"no such file(.|\n)*Expected image files"):
        found(tmp_path / "nothing")
