"""Parquet files as the Hub lays them out."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tests.support.folders import write_parquet
from tests.support.images import encode, noise
from vitrail import data
from vitrail.config import DataConfig
from vitrail.data.sources import Source, open_source
from vitrail.data.sources import parquet as tables
from vitrail.errors import DataError

ODD_NAMES = '{"info": {"features": {"label": {"_type": "ClassLabel", "names": 5}}}}'
IMAGES = [encode(noise(4, 4, seed), "PNG") for seed in range(10)]


def opened(path: Path) -> Source:
    return open_source(DataConfig(spec=str(path)))


def table_of(folder: Path, **columns: Any) -> Path:
    """A table of three rows without the Hub's metadata."""
    content = {**({} if "image" in columns or "file_name" in columns else {"image": IMAGES[:3]}), **columns}
    parquet.write_table(pyarrow.table(content), folder / "x.parquet")
    return folder / "x.parquet"


def test_shards_of_splits_in_a_data_folder(tmp_path: Path) -> None:
    names = ["zebra", "ant", "bee"]
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", IMAGES[:4], [0, 1, 2, 0], names=names)
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", IMAGES[4:8], [1, 1, 2, 2], names=names)
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", IMAGES[8:9], [1], names=names)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", IMAGES[9:], [2], names=names)
    source = opened(tmp_path)
    assert source.classes == ("zebra", "ant", "bee")  # the order of the metadata, not of the alphabet
    assert {name: split.labels.tolist() for name, split in source.splits.items()} == {
        "train": [0, 1, 2, 0, 1, 1, 2, 2],
        "val": [1],
        "test": [2],
    }
    assert source.splits["train"].names[5] == "data/train-00001-of-00002.parquet:1"


@pytest.mark.parametrize("positions", [[], [0], [3, 4], [1, 2, 5, 7, 9], list(range(10))])
@pytest.mark.parametrize("rows_in_group", [1, 3, 100])
def test_records_are_read_by_position(tmp_path: Path, positions: list[int], rows_in_group: int) -> None:
    for shard, rows in enumerate((slice(0, 4), slice(4, 10))):
        path = tmp_path / f"train-{shard}.parquet"
        write_parquet(path, IMAGES[rows], [0] * len(IMAGES[rows]), names=["a", "b"], rows_in_group=rows_in_group)
    read = opened(tmp_path).splits["train"].read(np.array(positions, dtype=np.int64))
    assert list(read) == [IMAGES[position] for position in positions]


def test_one_file_without_a_split_name(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "flowers.parquet", IMAGES[:3], ["rose", "lily", "rose"])
    for spec in (path, tmp_path):
        source = opened(spec)
        assert source.classes == ("lily", "rose")
        assert source.splits["train"].labels.tolist() == [1, 0, 1]


def test_folders_may_name_the_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train" / "0.parquet", IMAGES[:2], [0, 1], names=["a", "b"])
    write_parquet(tmp_path / "test" / "0.parquet", IMAGES[2:3], [1], names=["a", "b"])
    assert set(opened(tmp_path).splits) == {"train", "test"}


def test_fine_labels_win_over_coarse_ones(tmp_path: Path) -> None:
    extra = {"coarse_label": ([0, 0, 1], ["animal", "plant"])}
    write_parquet(
        tmp_path / "train-0.parquet",
        IMAGES[:3],
        [0, 1, 2],
        names=["ant", "bee", "oak"],
        label="fine_label",
        image="img",
        extra=extra,
    )
    source = opened(tmp_path)
    assert source.classes == ("ant", "bee", "oak")
    assert source.splits["train"].labels.tolist() == [0, 1, 2]


def test_plain_integers_name_themselves(tmp_path: Path) -> None:
    source = opened(write_parquet(tmp_path / "x.parquet", IMAGES[:4], [10, 2, 2, 10]))
    assert source.classes == ("2", "10")
    assert source.splits["train"].labels.tolist() == [1, 0, 0, 1]


def test_shards_are_aligned_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", IMAGES[:2], [0, 1], names=["cat", "dog"])
    write_parquet(tmp_path / "test-0.parquet", IMAGES[2:4], [0, 1], names=["dog", "cat"])
    assert opened(tmp_path).splits["test"].labels.tolist() == [1, 0]


def test_a_class_that_training_lacks(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", IMAGES[:2], ["cat", "dog"])
    write_parquet(tmp_path / "test-0.parquet", IMAGES[2:4], ["cat", "dgo"])
    with pytest.raises(DataError, match=r"test-0.parquet, column 'label', row 1(.|\n)*'dgo'(.|\n)*'dog'"):
        opened(tmp_path)


def test_a_label_that_has_no_name(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", IMAGES[:2], [0, 2], names=["a", "b"])
    with pytest.raises(DataError, match="row 1(.|\n)*no usable label"):
        opened(path)


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (["a", "b"], [0, -1, None, 1], ("a", "b")),
        (None, [0.0, float("nan"), None, 1.0], ("0", "1")),
        (None, ["x", None, "", "y"], ("x", "y")),
    ],
)
def test_what_has_no_label_is_set_aside(
    tmp_path: Path, names: list[str] | None, labels: list[object], classes: tuple[str, ...]
) -> None:
    source = opened(write_parquet(tmp_path / "x.parquet", IMAGES[:4], labels, names=names))
    split = source.splits["train"]
    assert (source.classes, split.labels.tolist()) == (classes, [0, 1])
    assert list(split.names) == ["x.parquet:0", "x.parquet:3"]
    assert list(split.read(np.arange(2))) == [IMAGES[0], IMAGES[3]]
    assert source.notes == ("train: 2 of 4 examples have no label and are left out",)


@pytest.mark.parametrize("label", [-1, None])
def test_a_test_split_without_labels_is_set_aside(tmp_path: Path, label: int | None) -> None:
    write_parquet(tmp_path / "train-0.parquet", IMAGES[:2], [0, 1], names=["a", "b"])
    write_parquet(tmp_path / "test-0.parquet", IMAGES[2:4], [label, label], names=["a", "b"])
    source = opened(tmp_path)
    assert set(source.splits) == {"train"}
    assert source.notes == ("test: none of its 2 examples has a label; there is no such split",)
    config = DataConfig(spec=str(tmp_path), image_size=8)
    with pytest.raises(DataError, match="has no split 'test'(.|\n)*none of its 2 examples has a label"):
        data.load(config, ("test",))


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = ["crane", "jay", "crane"]
    write_parquet(tmp_path / "train-0.parquet", IMAGES[:3], [0, 1, 2], names=names)
    write_parquet(tmp_path / "test-0.parquet", IMAGES[3:5], [2, 0], names=names)
    source = opened(tmp_path)
    assert source.classes == ("crane", "jay", "crane (2)")
    assert source.splits["test"].labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    "labels",
    [
        lambda pa: pa.array(["x", "y", "x"]).dictionary_encode(),
        lambda pa: pa.array([b"x", b"y", b"x"]),
        lambda pa: pa.array(["x", "y", "x"], pa.large_string()),
        lambda pa: pa.array([False, True, False]),
        lambda pa: pa.array([3, 5, 3], pa.uint8()),
        lambda pa: pa.array([3.0, 5.0, 3.0]),
    ],
)
def test_every_type_that_can_name_a_class(tmp_path: Path, labels: Any) -> None:
    source = opened(table_of(tmp_path, label=labels(pyarrow)))
    assert source.splits["train"].labels.tolist() == [0, 1, 0]
    assert source.classes in {("x", "y"), ("False", "True"), ("3", "5")}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (lambda pa: pa.array([[1], [2], [3]]), "a column of list<"),
        (lambda pa: pa.array([{"a": 1}] * 3), "a column of struct<"),
        (lambda pa: pa.array([0.5, 1.5, 2.5]), "a float"),
        (lambda pa: pa.array([1, 2, 3], pa.timestamp("s")), "a datetime"),
        (lambda pa: pa.array([None, None, None]), "no example has a label"),
    ],
)
def test_what_is_no_class_is_named(tmp_path: Path, labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        opened(table_of(tmp_path, label=labels(pyarrow)))


def test_bytes_and_paths_of_odd_types_are_no_images(tmp_path: Path) -> None:
    images = pyarrow.array([{"bytes": [1, 2], "path": 3}] * 3)
    path = table_of(tmp_path, image=images, label=pyarrow.array(["x", "y", "x"]))
    with pytest.raises(DataError, match="no image column"):
        opened(path)


def test_columns_that_are_there_twice(tmp_path: Path) -> None:
    arrays = [pyarrow.array(IMAGES[:2]), pyarrow.array(["x", "y"]), pyarrow.array(["x", "y"])]
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.Table.from_arrays(arrays, ["image", "label", "label"]), path)
    with pytest.raises(DataError, match="2 columns are called 'label'"):
        opened(path)


def test_a_table_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        opened(write_parquet(tmp_path / "x.parquet", [], [], names=["a", "b"]))


@pytest.mark.parametrize("form", ["struct", "string"])
def test_paths_are_read_beside_the_table(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    names = [f"images/{i}.png" for i in range(3)]
    for name, content in zip(names, IMAGES, strict=False):
        (folder / name).write_bytes(content)
    struct_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = [{"bytes": None, "path": name} for name in names]
    column = {"image": pyarrow.array(images, struct_type)} if form == "struct" else {"file_name": pyarrow.array(names)}
    path = table_of(folder, label=pyarrow.array(["x", "y", "x"]), **column)
    loaded = data.load(DataConfig(spec=str(path), image_size=4, validation_fraction=0), ("train",))["train"]
    assert not loaded.errors
    assert all((image == noise(4, 4, seed).transpose(2, 0, 1)).all() for seed, image in enumerate(loaded.images))


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/passwd", "C:\\secret.png", "\\\\host\\a.png", "a/../../secret.png", "link/secret.png"],
)
def test_no_file_outside_of_the_folder_is_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(IMAGES[0])
    (folder / "link").symlink_to(tmp_path)
    path = table_of(folder, file_name=pyarrow.array([name] * 3), label=pyarrow.array(["x", "y", "x"]))
    with pytest.raises(DataError, match="outside of the table's folder"):
        list(opened(path).splits["train"].read(np.arange(3)))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("pets-train.parquet", "pets-test.parquet"),
        ("pets_train.parquet", "pets_test.parquet"),
        ("training.parquet", "testing.parquet"),
        ("Train.parquet", "TEST.parquet"),
        ("data/train-00000-of-00001-b42a775f407cee45.parquet", "data/test-00000-of-00001-8a5e2f.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("trainset/a.parquet", "testset/a.parquet"),
    ],
)
def test_names_of_splits(tmp_path: Path, train: str, test: str) -> None:
    write_parquet(tmp_path / train, IMAGES[:3], [0, 1, 0], names=["a", "b"])
    write_parquet(tmp_path / test, IMAGES[3:5], [0, 1], names=["a", "b"])
    assert {name: len(split) for name, split in opened(tmp_path).splits.items()} == {"train": 3, "test": 2}


def test_a_name_that_says_several_splits_asks(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train_and_test.parquet", IMAGES[:3], [0, 1, 0], names=["a", "b"])
    with pytest.raises(DataError, match="several splits"):
        opened(tmp_path)


def test_several_configurations_ask(tmp_path: Path) -> None:
    for config in ("clean", "noisy"):
        write_parquet(tmp_path / config / "train" / "0.parquet", IMAGES[:3], [0, 1, 0], names=["a", "b"])
    with pytest.raises(DataError, match="clean, noisy(.|\n)*Give one"):
        opened(tmp_path)
    assert len(opened(tmp_path / "clean").splits["train"]) == 3


def test_a_record_without_bytes_is_an_unreadable_image(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [IMAGES[0], None, IMAGES[2]], [0, 1, 1], names=["a", "b"])
    missing = tmp_path / "1.png"  # which the row names, and which is not there
    assert list(opened(path).splits["train"].read(np.arange(3))) == [IMAGES[0], missing, IMAGES[2]]
    loaded = data.load(DataConfig(spec=str(path), image_size=4), ("all",))["all"]
    assert [error.name for error in loaded.errors] == ["x.parquet:1"]


def test_a_small_file_has_few_rows(tmp_path: Path) -> None:
    path = table_of(tmp_path, image=[b"x"] * 10_001, label=["x"] * 10_001)
    with pytest.raises(DataError, match="too many rows for one file of(.|\n)*10001(.|\n)*several files"):
        opened(path)
    names = [f"images/{i}.png" for i in range(10_001)]
    assert len(opened(table_of(tmp_path, file_name=names, label=["x"] * 10_001)).splits["train"]) == 10_001


def test_images_of_a_small_file_have_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ALWAYS_BYTES", 50_000)
    path = table_of(tmp_path, image=[bytes(10_000)] * 100, label=["x", "y"] * 50)
    with pytest.raises(DataError, match=r"not a readable Parquet file(.|\n)*images of more than \d+ bytes"):
        list(opened(path).splits["train"].read(np.arange(100)))


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_labels_are_the_same_however_many_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(tables, "_LABEL_ROWS", rows)
    values = ["b", None, "a", "a", "", "c", "b", "a"]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int8(), pyarrow.string())):
        for encoding in ({}, {"use_dictionary": False, "column_encoding": {"label": "DELTA_BYTE_ARRAY"}}):
            if encoding and pyarrow.types.is_dictionary(kind):
                continue
            labels = pyarrow.array(values, kind)
            table = pyarrow.table({"image": [b"x"] * 8, "label": labels})
            parquet.write_table(table, tmp_path / "x.parquet", row_group_size=5, **encoding)
            source = opened(tmp_path / "x.parquet")
            assert source.classes == ("a", "b", "c")
            assert source.splits["train"].labels.tolist() == [1, 0, 0, 2, 1, 0]


def test_a_pipe_among_the_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match="not a regular file"):
        opened(tmp_path)


def test_a_declared_set_of_too_many_classes(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", IMAGES[:2], [0, 1], names=[str(i) for i in range(100_001)])
    with pytest.raises(DataError, match="too many classes(.|\n)*100001"):
        opened(path)


def test_fewer_rows_than_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(table_of(tmp_path, label=["x", "y", "x"]))
    cut = source.splits["train"].read
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", lambda *_, **__: iter(()))
    with pytest.raises(DataError, match="fewer rows in row group 0"):
        list(cut(np.arange(3)))


def test_columns_that_are_not_understood(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"no image column(.|\n)*text \(string\), label(.|\n)*image, img, (.|\n)*path"):
        opened(tmp_path / "text.parquet")
    parquet.write_table(pa.table({"image": [b"a"], "caption": ["x"]}), tmp_path / "caption.parquet")
    with pytest.raises(DataError, match="no label column(.|\n)*called label, labels, fine_label, class, target"):
        opened(tmp_path / "caption.parquet")


def test_metadata_of_somebody_else_is_ignored(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for number, metadata in enumerate(
        ["nonsense", "[]", '{"info": []}', '{"info": {"features": {"image": 3}}}', ODD_NAMES]
    ):
        table = pa.table({"image": [IMAGES[0], IMAGES[1]], "label": ["a", "b"]})
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)
        source = opened(path)
        assert source.classes == ("a", "b")
        assert list(source.splits["train"].read(np.arange(2))) == IMAGES[:2]


@pytest.mark.parametrize("keep", [0, 3, 100, -20])
def test_a_damaged_file(tmp_path: Path, keep: int) -> None:
    path = write_parquet(tmp_path / "train-0.parquet", IMAGES, [0, 1] * 5, names=["a", "b"])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        opened(path)


def test_a_file_whose_split_cannot_be_told(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", IMAGES[:2], [0, 1], names=["a", "b"])
    write_parquet(tmp_path / "extra.parquet", IMAGES[:2], [0, 1], names=["a", "b"])
    with pytest.raises(DataError, match=r"extra\.parquet"):
        opened(tmp_path)
