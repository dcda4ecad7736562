"""Folders and manifests: what is an example, and what is an error that names its place."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.support.folders import image_folder, write_images
from tests.support.images import SUFFIX, encode, noise
from vitrail.config import DataConfig
from vitrail.data.sources import Source, open_source
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


def test_a_class_may_be_called_train_or_test(tmp_path: Path) -> None:
    source = opened(image_folder(tmp_path, {"train": 2, "car": 2, "test": 1}))
    assert source.classes == ("car", "test", "train")


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
    assert counts(source) == {"train": [8, 1]}
    assert source.num_ignored == 2


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


@pytest.mark.parametrize("empty", ["train/mouse", "val/cat"])
def test_an_empty_class_folder(tmp_path: Path, empty: str) -> None:
    image_folder(tmp_path, {"train/cat": 1, "train/dog": 1, "val/dog": 1})
    (tmp_path / empty).mkdir(parents=True)
    (tmp_path / empty / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=empty):
        opened(tmp_path)


def test_a_folder_without_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class folders"):
        opened(tmp_path)
    write_images(tmp_path, 2)
    with pytest.raises(DataError, match="no class folders"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("spec", "words"), [("nowhere/at/all", "neither a known name"), ("hf:owner/name", "cannot be opened")]
)
def test_what_is_no_data_set(spec: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_source(DataConfig(spec=spec))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="another kind"):
        opened(tmp_path / "data.zip")


# ---- manifests ---------------------------------------------------------------------------------------------------


def manifest(root: Path, text: str, name: str = "data.csv", encoding: str = "utf-8") -> Path:
    write_images(root / "images", 4)
    (root / name).write_text(text, encoding=encoding)
    return root / name


def test_manifest_with_splits(tmp_path: Path) -> None:
    rows = [
        "images/img0.png,dog,train",
        "images/img1.png,cat,train",
        "images/img2.png,cat,test",
        "images/img3.png,dog,val",
    ]
    source = opened(manifest(tmp_path, "path,label,split\n" + "\n".join(rows) + "\n"))
    assert source.classes == ("cat", "dog")
    assert counts(source) == {"train": [1, 1], "test": [1, 0], "val": [0, 1]}
    assert labels_by_name(source, "train") == {"images/img0.png": "dog", "images/img1.png": "cat"}


def test_manifest_dialects(tmp_path: Path) -> None:
    tabs = opened(
        manifest(tmp_path, "label\tpath\na b\timages/img0.png\n\nc\timages/img1.png\n", "data.tsv", "utf-8-sig")
    )
    assert tabs.classes == ("a b", "c")
    quoted = opened(manifest(tmp_path, 'Path , Label\n"images/img0.png","x, y"\r\nimages/img1.png, z\r\n'))
    assert quoted.classes == ("x, y", "z")
    assert counts(quoted) == {"train": [1, 1]}


def test_manifest_outside_its_folder(tmp_path: Path) -> None:
    path = manifest(tmp_path, "")
    (tmp_path / "lists").mkdir()
    other = tmp_path / "lists" / "data.csv"
    other.write_text(f"path,label\n../images/img0.png,a\n{tmp_path / 'images' / 'img1.png'},b\n")
    assert counts(opened(other)) == {"train": [1, 1]}
    assert path.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images/img0.png,cat\n", "no header"),
        ("", "no header"),
        ("path,label\n", "no examples"),
        ("path,label\nimages/img0.png,a\nimages/gone.png,b\n", r"line 3: the file does not exist(.|\n)*gone\.png"),
        ("path,label\nimages/img0.png,\n", "line 2: no label"),
        ("path,label\n,a\n", "line 2: no path"),
        ("path,label,split\nimages/img0.png,a,trian\n", "line 2: unknown split(.|\n)*'trian'"),
        ("path,label\nimages/img0.png\n", "line 2: wrong number of cells"),
        ("path,label,split\nimages/img0.png,a,train\nimages/img1.png,A,test\n", "line 3(.|\n)*'A'(.|\n)*'a'"),
    ],
)
def test_manifest_errors_name_the_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        opened(manifest(tmp_path, text))


def test_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"path,label\n\xff\xfe\x00,a\n")
    with pytest.raises(DataError, match="not a readable table"):
        opened(tmp_path / "data.csv")
