"""Folders: what is an example, what is left out and said, and what is an error that names its place."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.support.folders import image_folder, write_images
from tests.support.images import SUFFIX, encode, noise
from vitrail import data
from vitrail.config import DataConfig
from vitrail.data.sources import Source, case_twins, open_source
from vitrail.errors import DataError


def opened(path: Path) -> Source:
    return open_source(DataConfig(spec=str(path)))


def labels_by_name(source: Source, split: str) -> dict[str, str]:
    part = source.splits[split]
    return {name: source.classes[label] for name, label in zip(part.names, part.labels, strict=True)}


def counts(source: Source) -> Mapping[str, list[int]]:
    return {
        name: np.bincount(split.labels, minlength=len(source.classes)).tolist() for name, split in source.splits.items()
    }


# ---- folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", ["val", "validation", "valid"])
def test_split_folders(tmp_path: Path, validation: str) -> None:
    layout = {"train/dog": 3, "train/cat": 2, f"{validation}/cat": 1, "test/dog": 2, "test/cat": 1}
    source = opened(image_folder(tmp_path, layout))
    assert source.classes == ("cat", "dog")
    assert counts(source) == {"train": [2, 3], "val": [1, 0], "test": [1, 2]}
    assert labels_by_name(source, "train")["train/dog/img1.png"] == "dog"


def test_class_folders_alone_are_the_training_set(tmp_path: Path) -> None:
    source = opened(image_folder(tmp_path, {"b": 2, "a": 3}))
    assert (source.classes, counts(source)) == (("a", "b"), {"train": [3, 2]})


def test_a_class_may_be_called_train_or_test_in_a_split(tmp_path: Path) -> None:
    source = opened(image_folder(tmp_path, {"train/train": 2, "train/car": 2, "train/test": 1}))
    assert (source.classes, counts(source)) == (("car", "test", "train"), {"train": [2, 1, 2]})


def test_a_test_folder_alone(tmp_path: Path) -> None:
    source = opened(image_folder(tmp_path, {"test/a": 1, "test/b": 2}))
    assert counts(source) == {"test": [1, 2]}


def test_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train/a/x/y": 2, "train/a": 1, "train/b/z": 1})
    source = opened(tmp_path)
    assert source.classes == ("a", "b")
    assert labels_by_name(source, "train")["train/a/x/y/img0.png"] == "a"
    assert counts(source) == {"train": [3, 1]}


def test_hidden_and_foreign_entries_are_passed_over(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 1, "b": 1})
    for hidden in (".git", "__MACOSX", ".ipynb_checkpoints", "a/.cache", "a/__MACOSX"):
        write_images(tmp_path / hidden, 1)
    for file in ("a/._img0.png", "a/Thumbs.db", "a/.DS_Store", ".hidden.png"):
        (tmp_path / file).write_bytes(b"x")
    for counted in ("a/notes.txt", "b/labels.json", "README.md"):
        (tmp_path / counted).write_text("x")
    source = opened(tmp_path)
    assert (source.classes, counts(source), source.num_ignored) == (("a", "b"), {"train": [1, 1]}, 3)


def test_all_image_suffixes_count_in_any_case(tmp_path: Path) -> None:
    for number, suffix in enumerate([*SUFFIX.values(), ".JPEG", ".PNG", ".Gif", ".tiff", ".svg"]):
        path = tmp_path / "a" / f"{number}{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(noise(2, 2), "PNG"))
    write_images(tmp_path / "b", 1)
    source = opened(tmp_path)
    assert counts(source) == {"train": [9, 1]}
    assert source.num_ignored == 1


def test_order_is_sorted_and_names_are_relative(tmp_path: Path) -> None:
    image_folder(tmp_path, {"b": 2, "a": 2})
    assert list(opened(tmp_path).splits["train"].names) == ["a/img0.png", "a/img1.png", "b/img0.png", "b/img1.png"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    image_folder(tmp_path, {"real/a": 2, "data/b": 1})
    (tmp_path / "data" / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "data" / "b" / "again").symlink_to(tmp_path / "data" / "b")
    assert counts(opened(tmp_path / "data")) == {"train": [2, 1]}


def test_listing_follows_names_sizes_and_times(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "a", 2) + write_images(tmp_path / "b", 1)
    first = opened(tmp_path).listing
    assert opened(tmp_path).listing == first
    os.utime(paths[0], ns=(1, 1))
    second = opened(tmp_path).listing
    paths[0].rename(paths[0].with_name("other.png"))
    third = opened(tmp_path).listing
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"train/cat": 1, "train/dog": 1, "val/cta": 1}, ["val/cta", "'cat'"]),
        ({"train/cat": 1, "train/dog": 1, "test/Cat": 1}, ["test/Cat", "'cat'"]),
        ({"train/cat": 1, "train/dog": 1, "test/zebra": 1}, ["'zebra'", "one of 'cat', 'dog'"]),
    ],
)
def test_a_class_that_training_lacks(tmp_path: Path, layout: dict[str, int], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        opened(image_folder(tmp_path, layout))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("empty", ["train/mouse", "val/cat", "val/bird"])
def test_an_empty_class_folder(tmp_path: Path, empty: str) -> None:
    """A finding, and for training an error where it is a class that is to be learnt."""
    image_folder(tmp_path, {"train/cat": 2, "train/dog": 2, "val/dog": 1})
    (tmp_path / empty).mkdir(parents=True)
    (tmp_path / empty / "notes.txt").write_text("none yet")
    source = opened(tmp_path)
    assert f"class folders without images: {empty}" in source.notes
    assert f"left out, no images: 1 file, such as {empty}/notes.txt" in source.notes
    config = DataConfig(spec=str(tmp_path), image_size=8)
    if empty == "train/mouse":
        assert any("1 class has no images: mouse" in line for line in data.check(config)["warnings"])
        with pytest.raises(DataError, match="train/mouse"):
            data.load(config, ("train",))
    else:
        assert data.load(config, ("train",))["train"].classes == ("cat", "dog")


def test_an_image_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    image_folder(tmp_path, {"b": 1})
    (tmp_path / "a").mkdir()
    jpeg = encode(noise(4, 4), "JPEG")
    for name in ("1.jfif", "2.jpe", "3", "4.orig", "5.JPG"):
        (tmp_path / "a" / name).write_bytes(jpeg)
    (tmp_path / "a" / "BMW.dat").write_bytes(b"BMW is no bitmap, though it begins as one does")
    (tmp_path / "a" / "note").write_text("no image")
    (tmp_path / "a" / "film.m4v").write_bytes(b"\0\0\0\x20ftypisom\0\0\0\1isommp42" + b"\0" * 9)
    source = opened(tmp_path)
    assert counts(source) == {"train": [5, 1]}
    assert "left out, no images: 3 files, such as a/BMW.dat, a/film.m4v, a/note" in source.notes
    loaded = data.load(DataConfig(spec=str(tmp_path), image_size=8, validation_fraction=0), ("train",))["train"]
    assert (len(loaded), loaded.errors, loaded.notes) == (6, (), source.notes)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
def test_formats_of_cameras_and_scanners_are_seen(tmp_path: Path, kind: str) -> None:
    """Whether they are read is the decoder's affair; they are never "no images"."""
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "scan").write_bytes(encode(noise(16, 16), kind))
    assert counts(opened(tmp_path)) == {"train": [1, 1]}


def test_images_in_no_class_folder_are_counted(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 1, "b": 1, ".": 4})
    assert opened(tmp_path).notes == (
        "left out, images in no class folder: 4 files, such as img0.png, img1.png, img2.png",
    )


def test_accents_stored_in_two_ways_are_one_class(tmp_path: Path) -> None:
    composed, apart = "Ba\u0308r", "B\u00e4r"
    image_folder(tmp_path, {f"train/{composed}": 1, f"train/{apart}": 2, "train/dog": 1, f"test/{composed}": 3})
    source = opened(tmp_path)
    assert (source.classes, counts(source)) == ((apart, "dog"), {"train": [3, 1], "test": [3, 0]})
    model_classes = (composed, "dog")  # of a file that was written where accents are apart
    loaded = data.load(DataConfig(spec=str(tmp_path), image_size=8), ("test",), classes=model_classes)["test"]
    assert loaded.labels.tolist() == [0, 0, 0]


def test_classes_that_differ_in_capital_letters_are_pointed_out(tmp_path: Path) -> None:
    config = DataConfig(spec=str(image_folder(tmp_path, {"cat": 2, "Cat": 2, "dog": 2})), image_size=8)
    line = "the classes 'Cat' and 'cat' differ in capital letters alone"
    assert line in data.check(config)["warnings"]
    assert line in data.summary(config)["notes"]  # type: ignore[operator]
    assert line in data.load(config, ("train",))["train"].notes


def test_classes_that_differ_in_spaces_or_the_form_of_letters_are_pointed_out() -> None:
    (line,) = case_twins(["Hot Dog", "hot_dog ", "\uff48otdog", "dog", "--", "_"])
    assert line.startswith("the classes 'Hot Dog' and 'hot_dog ' and '\uff48otdog' differ in capital letters, spaces")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(encode(noise(4, 4), "PNG"))
    image_folder(tmp_path, {"dog": 1})
    config = DataConfig(spec=str(tmp_path), image_size=8)
    assert data.summary(config)["classes"] == ["caf\udce9", "dog"]
    assert data.check(config)["is_clean"]
    assert data.load(config, ("all",))["all"].labels.tolist() == [0, 1]


def test_a_folder_without_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class folders"):
        opened(tmp_path)
    write_images(tmp_path, 2)
    with pytest.raises(DataError, match="no class folders"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere/at/all", "neither a known name"),
        ("hf:owner/name", "cannot be opened"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("x" * 300, "cannot be read"),
    ],
)
def test_what_is_no_data_set(spec: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_source(DataConfig(spec=spec))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")
    for spec in (tmp_path / "data.zip", tmp_path):
        with pytest.raises(DataError, match="(another kind|no class folders)(.|\n)*Unpack"):
            opened(spec)


def test_a_class_that_holds_folders_of_images_is_pointed_out(tmp_path: Path) -> None:
    image_folder(tmp_path, {"my photos/cat": 2, "my photos/dog": 2, "shots": 1, "deep/only": 2})
    (note,) = [note for note in opened(tmp_path).notes if "if these are the classes" in note]
    assert "class my photos: its images lie in 2 folders (cat, dog)" in note


# ---- without labels ----------------------------------------------------------------------------------------------


def without_labels(path: Path) -> Source:
    return open_source(DataConfig(spec=str(path)), needs_labels=False)


def test_without_labels_every_image_counts_wherever_it_lies(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a/cat": 2, "a/dog": 1, "b/cat": 3, "b/dog": 1})  # with labels, a and b may be splits
    write_images(tmp_path, 4)
    (tmp_path / "notes.txt").touch()
    source = without_labels(tmp_path)
    assert source.classes == ("image",)
    assert counts(source) == {"train": [11]}
    assert list(source.splits["train"].names) == sorted(source.splits["train"].names)
    assert source.num_ignored == 1


def test_without_labels_splits_are_still_splits(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train": 5, "val": 2, "test/cat": 1, "test/dog": 2})
    assert counts(without_labels(tmp_path)) == {"train": [5], "val": [2], "test": [3]}
    (tmp_path / "train" / "img0.png").rename(tmp_path / "moved.png")
    assert len(without_labels(tmp_path).splits["train"]) == 4  # what lies beside the splits is of none


def test_labels_that_are_there_are_ignored(tmp_path: Path) -> None:
    named = open_source(DataConfig(spec="digits"), needs_labels=False)
    assert (named.classes, set(named.splits["train"].labels.tolist())) == (("image",), {0})
    write_images(tmp_path, 3)
    (tmp_path / "list.csv").write_text("path,label,split\nimg0.png,,train\nimg1.png,x,train\nimg2.png,y,test\n")
    assert counts(without_labels(tmp_path / "list.csv")) == {"train": [2], "test": [1]}
