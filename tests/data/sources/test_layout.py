"""Which folders are splits and which are classes, in the forms that data sets really come in."""

from pathlib import Path

import pytest

from tests.support.folders import image_folder
from vitrail.config import DataConfig
from vitrail.data.sources import Source, open_source
from vitrail.errors import DataError


def opened(path: Path) -> Source:
    return open_source(DataConfig(spec=str(path)))


def sizes(source: Source) -> dict[str, int]:
    return {name: len(split) for name, split in source.splits.items()}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("Train", "Valid", "Test"),
        ("train_set", "dev_set", "test_set"),
        ("training_set", "dev", "TEST"),
        ("TrainSet", "eval", "testset"),
        ("train2017", "val2017", "test2017"),
        ("pets_train", "pets_val", "pets_test"),
        ("pets-Train", "pets-dev", "pets-Test"),
        ("train_images", "validation data", "test images"),
        ("training_set/training_set", "val/val", "test_set/test_set"),
    ],
)
def test_names_of_splits(tmp_path: Path, train: str, val: str, test: str) -> None:
    layout = {
        f"{train}/cat": 2,
        f"{train}/dog": 1,
        f"{val}/cat": 1,
        f"{val}/dog": 1,
        f"{test}/cat": 1,
        f"{test}/dog": 3,
    }
    source = opened(image_folder(tmp_path, layout))
    assert (source.classes, sizes(source)) == (("cat", "dog"), {"train": 3, "val": 2, "test": 4})
    assert source.notes == ()


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        # Classes and splits beside each other.
        (["cat", "dog", "val"], ["val, called like a split, beside cat, dog", "folder 'train'"]),
        (["cat", "dog", "val/cat", "val/dog"], ["not clear"]),
        (["cat", "dog", "train/cat", "train/dog"], ["not clear"]),
        (["car", "bus", "train"], ["train, called like a split", "If they are classes"]),
        (["cats_train", "cats_test", "dogs_train", "dogs_test"], ["both classes and splits"]),
        # The same folders in each.
        (["a/cat", "a/dog", "b/cat", "b/dog"], ["look like splits", "a, b, each with cat, dog", "path,label,split"]),
        (["cat/train", "cat/test", "dog/train", "dog/test"], ["look like splits"]),
        # Two folders for one split.
        (["train/cat", "train/dog", "val/cat", "valid/dog"], ["several folders mean the split 'val'", "val, valid"]),
        # The splits are elsewhere.
        (["data/train/a", "data/test/a", "notebooks"], ["data holds the splits", "Give"]),
        # No classes at all.
        (["images", "annotations/trimaps"], ["images and their annotations", "manifest"]),
        (["train/images", "train/labels", "valid/images", "valid/labels"], ["images and their annotations"]),
        (["train", "test"], ["no class folders", "1 images"]),
        (["."], ["no class folders"]),
    ],
)
def test_what_can_be_read_in_two_ways_asks(tmp_path: Path, layout: list[str], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        opened(image_folder(tmp_path, dict.fromkeys(layout, 1)))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "classes"),
    [
        (["valve", "testament", "trainer"], ("testament", "trainer", "valve")),
        (["test tube", "train station"], ("test tube", "train station")),
        (["cat/images", "dog/images"], ("cat", "dog")),
        (["cat/indoor", "dog/outdoor"], ("cat", "dog")),
        (["train/cat/day", "train/cat/night", "train/dog/day", "train/dog/night"], ("cat", "dog")),
    ],
)
def test_classes_that_only_look_like_splits(tmp_path: Path, layout: list[str], classes: tuple[str, ...]) -> None:
    source = opened(image_folder(tmp_path, dict.fromkeys(layout, 1)))
    assert (source.classes, list(source.splits)) == (classes, ["train"])


def test_what_lies_beside_the_splits_is_named(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train/a": 1, "train/b": 1, "extra": 2, "seg_pred/seg_pred": 1, "valid/a": 1})
    source = opened(tmp_path)
    assert sizes(source) == {"train": 2, "val": 1}
    assert source.notes == ("beside the splits, these folders are left out: extra, seg_pred",)


def test_an_unsorted_test_folder_is_set_aside(tmp_path: Path) -> None:
    source = opened(image_folder(tmp_path, {"train/a": 1, "train/b": 1, "test1": 3, "val": 0}))
    assert sizes(source) == {"train": 2}
    assert "test: test1 has no class folders and is left out: 3 images; there is no such split" in source.notes


def test_empty_split_folders_say_nothing(tmp_path: Path) -> None:
    image_folder(tmp_path, {"test/a": 1, "test/b": 1, "val": 0, "valid": 0})
    (tmp_path / "val" / ".DS_Store").write_text("x")
    source = opened(tmp_path)
    assert sizes(source) == {"test": 2}
    assert source.notes == ("beside the splits, these folders are left out: val, valid",)


def test_the_only_folder_is_seen_through(tmp_path: Path) -> None:
    image_folder(tmp_path, {"archive/pets/train/a": 1, "archive/pets/train/b": 1, "archive/pets/test/a": 1})
    (tmp_path / "archive.zip").write_bytes(b"PK")
    source = opened(tmp_path)
    assert (source.classes, sizes(source)) == (("a", "b"), {"train": 2, "test": 1})
    assert f"read from {tmp_path / 'archive/pets'}, the only folder in {tmp_path}"[-60:] in source.notes[0]
    assert source.splits["test"].names == ["archive/pets/test/a/img0.png"]


def test_only_a_class_folder_is_not_seen_through(tmp_path: Path) -> None:
    assert opened(image_folder(tmp_path, {"cat": 2, "cat/more": 1})).classes == ("cat",)
