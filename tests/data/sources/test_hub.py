"""`hf:` data sets: real ones of the datasets library, saved in a folder, opened as from the hub."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail import data
from vitrail.config import DataConfig
from vitrail.data.sources import open_source
from vitrail.errors import DataError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes in Parquet, as the hub has them, with a training and a test split."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    target = tmp_path / "set" / "data"
    target.mkdir(parents=True)
    for split, count in (("train", 6), ("test", 4)):
        pictures = []
        for i in range(count):
            stream = io.BytesIO()
            Image.new("RGB", (8 + i, 8), (20 * i, 0, 0)).save(stream, "PNG")
            pictures.append({"bytes": stream.getvalue(), "path": None})
        table = datasets.Dataset.from_dict({"image": pictures, "label": [i % 2 for i in range(count)]}, features)
        table.to_parquet(str(target / f"{split}-00000-of-00001.parquet"))
    return tmp_path / "set"


def test_a_data_set_of_the_hub_is_read(folder: Path) -> None:
    splits = data.load(DataConfig(spec=f"hf:{folder}", image_size=8), ("train", "test"))
    assert splits["train"].classes == ("cat", "dog")
    assert splits["train"].labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert [int(image[0].mean()) for image in splits["test"].images] == [0, 20, 40, 60]
    again = data.load(DataConfig(spec=f"hf:{folder}", image_size=8), ("train",))["train"]
    assert again.fingerprint == splits["train"].fingerprint


def test_names_and_sizes_without_decoding(folder: Path) -> None:
    source = open_source(DataConfig(spec=f"hf:{folder}"))
    assert set(source.splits) == {"train", "test"}
    assert len(list(source.splits["test"].read(np.array([1, 3])))) == 2


def test_streaming_is_refused() -> None:
    with pytest.raises(DataError, match="streaming is not supported"):
        open_source(DataConfig(spec="hf:owner/name?streaming=true"))


def test_what_is_no_name_is_refused() -> None:
    with pytest.raises(DataError, match="not the name of a data set"):
        open_source(DataConfig(spec="hf:name"))


def test_a_set_without_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(str(tmp_path / "set" / "train.parquet"))
    with pytest.raises(DataError, match="text: "):
        open_source(DataConfig(spec=f"hf:{tmp_path / 'set'}"))


def test_without_a_network_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="Couldn't reach the hub") as caught:
        open_source(DataConfig(spec="hf:owner/name@main"))
    assert "and more" not in str(caught.value)


def saved(folder: Path, split: str, labels: list, feature: object) -> Path:
    """A split of `len(labels)` images in a folder that `hf:` opens."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    pictures = [{"bytes": stream.getvalue(), "path": None}] * len(labels)
    folder.mkdir(exist_ok=True)
    table = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features)
    table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.mark.parametrize(
    ("labels", "feature", "words"),
    [
        ([[0], [1, 2]], datasets.Sequence(datasets.Value("int64")), "a list"),
        ([{"a": 1}, {"a": 2}], {"a": datasets.Value("int64")}, "a dict"),
        ([0.5, 1.5], datasets.Value("float32"), "a float"),
        ([None, None], datasets.Value("string"), "no example has a label"),
    ],
)
def test_labels_that_are_no_classes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list, feature: object, words: str
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(DataError, match=words):
        open_source(DataConfig(spec=f"hf:{saved(tmp_path / 'set', 'train', labels, feature)}"))


def test_unlabelled_rows_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    feature = datasets.ClassLabel(names=["crane", "jay", "owl"])
    saved(tmp_path / "set", "train", [0, 1, None, 2], feature)
    source = open_source(DataConfig(spec=f"hf:{saved(tmp_path / 'set', 'test', [-1, -1], feature)}"))
    assert source.classes == ("crane", "jay", "owl")
    assert {name: split.labels.tolist() for name, split in source.splits.items()} == {"train": [0, 1, 2]}
    assert source.notes == (
        "train: 1 of 4 examples have no label and are left out",
        "test: none of its 2 examples has a label; there is no such split",
    )


def test_a_description_that_is_no_short_file(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\n" + "- x\n" * 600_000)
    with pytest.raises(DataError, match=r"README.md cannot be read(.|\n)*more than 2097152 bytes"):
        open_source(DataConfig(spec=f"hf:{tmp_path}"))
    (tmp_path / "README.md").unlink()
    os.mkfifo(tmp_path / "README.md")
    with pytest.raises(DataError, match="not a regular file"):
        open_source(DataConfig(spec=f"hf:{tmp_path}"))


@pytest.mark.parametrize("spec", ["hf:pandas", "hf:./pandas", "hf:text"])
def test_a_folder_called_like_a_loader_is_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    asked: list[str] = []

    def load(name: str, *_: object, **__: object) -> None:
        asked.append(name)
        raise FileNotFoundError

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pandas").mkdir()
    with pytest.raises(DataError):
        open_source(DataConfig(spec=spec))
    assert asked == ([] if spec == "hf:text" else [str(tmp_path.resolve() / "pandas")])
