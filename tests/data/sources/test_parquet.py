"""Parquet files as the Hub lays them out."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.folders import write_parquet
from tests.support.images import encode, noise
from vitrail.config import DataConfig
from vitrail.data.sources import Source, open_source
from vitrail.errors import DataError

IMAGES = [encode(noise(4, 4, seed), "PNG") for seed in range(10)]


def opened(path: Path) -> Source:
    return open_source(DataConfig(spec=str(path)))


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
    with pytest.raises(DataError, match=r"test-0.parquet, row 1(.|\n)*'dgo'(.|\n)*'dog'"):
        opened(tmp_path)


@pytest.mark.parametrize("label", [-1, 2, None])
def test_labels_without_a_class(tmp_path: Path, label: int | None) -> None:
    path = write_parquet(tmp_path / "x.parquet", IMAGES[:2], [0, label], names=["a", "b"])
    with pytest.raises(DataError, match="row 1(.|\n)*no usable label"):
        opened(path)


def test_a_record_without_bytes_is_an_unreadable_image(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [IMAGES[0], None, IMAGES[2]], [0, 1, 1], names=["a", "b"])
    assert list(opened(path).splits["train"].read(np.arange(3))) == [IMAGES[0], b"", IMAGES[2]]


def test_columns_that_are_not_understood(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="no image column(.|\n)*text, label"):
        opened(tmp_path / "text.parquet")
    parquet.write_table(pa.table({"image": [b"a"], "caption": ["x"]}), tmp_path / "caption.parquet")
    with pytest.raises(DataError, match="no label column"):
        opened(tmp_path / "caption.parquet")


def test_metadata_of_somebody_else_is_ignored(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for number, metadata in enumerate(["nonsense", "[]", '{"info": []}', '{"info": {"features": {"image": 3}}}']):
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
