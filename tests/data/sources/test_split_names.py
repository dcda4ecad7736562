"""Words that name a split."""

from pathlib import PurePath

import pytest

from vitrail.data.sources.split_names import split_of, splits_of_file


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("TRAINING", "train"),
        ("trainset", "train"),
        ("Training Set", "train"),
        ("train_data", "train"),
        ("trainval", "train"),
        ("val", "val"),
        ("Valid", "val"),
        ("validation-set", "val"),
        ("dev", "val"),
        ("eval", "val"),
        ("TestSet", "test"),
        ("test1", "test"),
        ("训练集", "train"),
        ("验证", "val"),
        ("測試集", "test"),
        ("测试员", None),
        ("train_test", None),
        ("train_old", None),
        ("trainer", None),
        ("latest", None),
        ("valve", None),
        ("device", None),
        ("contest", None),
        ("set", None),
        ("", None),
    ],
)
def test_whole_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("path", "splits"),
    [
        ("train-00000-of-00001-b42a775f407cee45.parquet", {"train"}),
        ("pets.test.parquet", {"test"}),
        ("train/pets-test.parquet", {"test"}),
        ("default/train/0000.parquet", {"train"}),
        ("pets_valid/part/0.parquet", {"val"}),
        ("latest.parquet", set()),
        ("train-test.parquet", {"train", "test"}),
    ],
)
def test_names_of_files(path: str, splits: set[str]) -> None:
    assert splits_of_file(PurePath(path)) == splits
