"""Checking a data set: each kind of trouble is found and named, and only that."""

import shutil
from pathlib import Path

from tests.support.folders import image_folder
from tests.support.images import encode, noise
from vitrail import data
from vitrail.config import DataConfig


def check(folder: Path) -> dict:
    return data.check(DataConfig(spec=str(folder)))


def test_a_clean_set_has_no_warning(tmp_path: Path) -> None:
    found = check(image_folder(tmp_path, {"train/a": 5, "train/b": 4, "test/a": 2, "test/b": 2}))
    assert found["is_clean"]
    assert found["warnings"] == found["leaks"] == found["conflicts"] == []
    assert found["splits"]["train"]["per_class"] == {"a": 5, "b": 4}


def test_every_kind_of_trouble_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, {"train/a": 33, "train/b": 2, "test/a": 2, "test/b": 2})
    (folder / "train/a/img4.png").write_text("no image")
    shutil.copy(folder / "train/a/img1.png", folder / "train/a/twin.png")
    # The same pixels in another format leak as well, here into another class.
    (folder / "test/b/leak.bmp").write_bytes(encode(noise(6, 6, 5), "BMP"))
    found = check(folder)
    assert [error["path"] for error in found["splits"]["train"]["errors"]] == ["train/a/img4.png"]
    assert found["splits"]["train"]["duplicates"] == [["train/a/img1.png", "train/a/twin.png"]]
    assert found["leaks"] == found["conflicts"] == [["train:train/a/img5.png", "test:test/b/leak.bmp"]]
    assert found["splits"]["train"]["imbalance"] == 17
    text = "\n".join(found["warnings"])
    for words in ("cannot be read", "of another", "17 times", "more than one split", "more than one class"):
        assert words in text
    assert "1 image is in more than one split" in text and "train: of its images, 1 cannot be read" in text
    assert not found["is_clean"]


def test_named_sets_are_checked_too() -> None:
    found = data.check(DataConfig(spec="digits"))
    assert sum(split["num_examples"] for split in found["splits"].values()) == 1797
    assert all(not split["errors"] for split in found["splits"].values())
