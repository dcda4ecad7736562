"""Data on the command line: what is left out is said, wherever a data set is opened."""

import json
from pathlib import Path

import pytest

from tests.support.folders import image_folder, write_images
from vitrail.cli import main
from vitrail.data import files_at
from vitrail.errors import DataError


def folder_with_extras(root: Path) -> Path:
    image_folder(root, {"Training/cat": 4, "Training/dog": 4, "Testing/cat": 2, "Testing/dog": 2, "more": 1})
    (root / "Training" / "cat" / "notes.txt").write_text("x")
    return root


NOTES = [
    "beside the splits, these folders are left out: more",
    "left out, no images: 1 file, such as Training/cat/notes.txt",
]


@pytest.mark.parametrize("action", ["info", "check"])
def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    folder = str(folder_with_extras(tmp_path))
    assert main(["data", action, folder]) == 0
    text = capsys.readouterr().out
    assert all(note in text for note in NOTES)
    assert main(["data", action, folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == NOTES


def test_training_names_its_classes_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_with_extras(tmp_path / "set")
    settings = ["--schedule.max-steps", "1", "--data.image-size", "8", "--data.batch-size", "8"]
    run = ["--run", str(tmp_path / "run")]
    assert main(["train", "digits", "--data", str(folder), *run, *settings, "--checkpoint.every-steps", "0"]) == 0
    told = capsys.readouterr().err
    for words in ("2 classes (cat, dog); 8 training images", *NOTES):
        assert words in told


def test_predict_follows_links_and_lists_those_to_nowhere(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", 1)
    folder = tmp_path / "set"
    write_images(folder, 1)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked" / "up").symlink_to(folder)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    names = ["gone.png", "img0.png", "linked/img0.png"]
    assert files_at([str(folder)]) == [folder / name for name in names]
    assert files_at([str(folder / "gone.png")]) == [folder / "gone.png"]
    with pytest.raises(DataError, match="no such file"):
        files_at([str(tmp_path / "nowhere")])


def test_splits_stand_in_the_order_of_their_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_folder(tmp_path, {"a": 3, "b": 1})
    found = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(tmp_path.rglob("*.png"))]
    rows = [f"{line},{split}" for line, split in zip(found, ("test", "val", "train", "train"), strict=True)]
    (tmp_path / "x.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    assert main(["data", "info", str(tmp_path / "x.csv")]) == 0
    assert "class  train  val  test" in capsys.readouterr().out
