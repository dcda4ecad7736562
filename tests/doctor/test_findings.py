"""What is planted is found, and nothing else; nothing is changed."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

import vitrail
from tests.doctor.planted import cropped, jpeg, mirrored, picture, pictures_folder
from tests.support.images import encode
from vitrail import data
from vitrail.cli import main
from vitrail.config import DataConfig
from vitrail.doctor.oddities import outliers
from vitrail.doctor.pictures import nearest
from vitrail.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, train and test, with one fault of each kind."""
    root = pictures_folder(tmp_path_factory.mktemp("planted") / "set")
    train, test = root / "train" / "class 0", root / "test" / "class 0"
    jpeg(picture(3)).save(test / "saved again.png")
    mirrored(picture(4)).save(train / "mirrored.png")
    cropped(picture(5)).save(root / "train" / "class 1" / "cropped.png")
    shutil.copy(train / "6.png", train / "same.png")
    Image.new("RGB", (90, 90), (200, 10, 10)).save(train / "blank.png")
    picture(900, 250).filter(ImageFilter.GaussianBlur(16)).save(train / "blurred.png")
    picture(901).point(lambda v: v // 12).save(train / "night.png")
    picture(902).resize((400, 60)).save(train / "strip.png")
    (train / "broken.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8), "PNG")[:40])
    return root


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    manifest, gallery = folder.parent / "clean.csv", folder.parent / "page.html"
    answer = vitrail.check_data(folder, near=True, manifest=manifest, gallery=gallery)
    assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before
    return answer


def name(image: dict[str, Any]) -> str:
    return f"{image['split']}/{image['class']}/{Path(image['path']).name}"


def test_each_fault_has_its_kind(found: dict[str, Any]) -> None:
    near = found["near"]
    assert [(name(p["first"]), name(p["second"])) for p in near["leaks"]] == [
        ("train/class 0/3.png", "test/class 0/saved again.png")
    ]
    assert {(name(p["first"]), name(p["second"])) for p in near["pairs"]} == {
        ("train/class 0/4.png", "train/class 0/mirrored.png"),
        ("train/class 0/5.png", "train/class 1/cropped.png"),
    }
    odd = {one["kind"]: name(one["image"]) for one in near["odd"]}
    assert odd == {
        "blank": "train/class 0/blank.png",
        "blurred": "train/class 0/blurred.png",
        "dark": "train/class 0/night.png",
        "extreme ratio": "train/class 0/strip.png",
    }
    kinds = near["kinds"]
    assert (kinds["unreadable"], kinds["exact copies"], kinds["near leaks"], kinds["near duplicates"]) == (1, 1, 1, 2)
    assert sum(len(members) for members in near["groups"]) == 8
    assert not found["is_clean"]


def test_the_manifest_is_the_clean_set(found: dict[str, Any], folder: Path) -> None:
    path = folder.parent / "clean.csv"
    source = data.open_source(DataConfig(spec=str(path)))
    left = {f"{split}:{n}" for split, s in source.splits.items() for n in s.names}
    assert sum(map(len, source.splits.values())) == found["near"]["num_kept"] == len(left)
    test, train = "test:set/test/class 0/", "train:set/train/class 0/"
    assert f"{test}saved again.png" in left and f"{train}3.png" not in left, "the test image stays"
    assert f"{train}4.png" in left and f"{train}mirrored.png" not in left
    assert f"{train}5.png" not in left, "it has two classes"
    assert (f"{train}6.png" in left) != (f"{train}same.png" in left)
    assert f"{train}blank.png" not in left and f"{train}broken.png" not in left
    assert f"{train}night.png" in left and f"{train}strip.png" in left
    again = data.check(DataConfig(spec=str(path)))
    assert again["is_clean"], again["warnings"]
    with path.open(newline="") as lines:
        assert next(csv.reader(lines)) == ["path", "label", "split"]


def test_a_manifest_of_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not files"):
        vitrail.check_data("digits", manifest=tmp_path / "clean.csv", image_size=16)
    assert not (tmp_path / "clean.csv").exists()


def test_outliers_are_far_from_all() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    rows[7], rows[9] = 12, 8
    neighbours, _ = nearest(rows, 10)
    found = outliers(rows, neighbours)
    assert [one.index for one in found[:2]] == [7, 9] and found[0].value > found[1].value > 4
    assert len(found) < 8
    assert outliers(rows[:20], neighbours[:20]) == []


def test_guesses_count_as_faults_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(3):
            picture(number + 10 * (label == "b")).save(tmp_path / label / f"{number}.png")
    jpeg(picture(0)).save(tmp_path / "a" / "again.png")
    assert main(["data", "check", str(tmp_path), "--near"]) == 0
    assert "a/0.png (a)  train:a/again.png (a)" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path), "--near", "--strict"]) == 2


def test_a_data_set_of_one_image(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture(0).save(tmp_path / "a" / "only.png")
    near = vitrail.check_data(tmp_path, near=True, gallery=tmp_path / "page.html")["near"]
    assert not any(near["kinds"].values()) and near["not_judged"] == ["a"]
