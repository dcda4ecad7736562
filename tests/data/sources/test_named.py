"""Named sets: what they hold, and where they are looked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.support.folders import cifar_files, idx_gz, tar_gz, write_parquet
from tests.support.images import encode, noise
from vitrail.cli import main
from vitrail.config import DataConfig
from vitrail.data.sources import Source, named, official, open_source
from vitrail.errors import DataError
from vitrail.locations import data_root, decoded_cache


@pytest.fixture(autouse=True)
def _own_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small archives of the tests count as the official ones."""
    monkeypatch.setattr(official, "check_official", lambda _path, _name: None)


def opened(name: str, root: Path | str = "", may_download: bool = False) -> Source:
    return open_source(DataConfig(spec=name, root=str(root)), may_download=may_download)


# ---- digits ------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn() -> None:
    source, bunch = opened("digits"), load_digits()
    seen: list[int] = []
    for split in source.splits.values():
        for name, label, pixels in zip(split.names, split.labels, split.read(np.arange(len(split))), strict=True):
            row = int(name.removeprefix("digits:"))
            seen.append(row)
            assert label == bunch.target[row]
            assert isinstance(pixels, np.ndarray)
            assert np.abs(pixels - bunch.images[row] * 255 / 16).max() <= 0.5
    assert sorted(seen) == list(range(1797))
    assert source.classes == tuple("0123456789")


def test_digits_use_the_whole_range() -> None:
    pixels = np.stack(list(opened("digits").splits["train"].read(np.arange(1438))))
    assert set(np.unique(pixels)) == {round(level * 255 / 16) for level in range(17)}


def test_digits_test_set_is_fixed_and_stratified() -> None:
    test = opened("digits").splits["test"]
    assert len(test) == 359
    assert np.abs(np.bincount(test.labels) - np.bincount(load_digits().target) * 0.2).max() < 1
    assert list(test.names[:5]) == ["digits:3", "digits:4", "digits:5", "digits:7", "digits:9"]


# ---- places ------------------------------------------------------------------------------------------------------

CIFAR = [f"label_{index}" for index in range(10)]


def shards(folder: Path, count: int = 10) -> None:
    images = [encode(noise(32, 32, seed), "PNG") for seed in range(count)]
    labels = [index % 10 for index in range(count)]
    for split in ("train", "test"):
        write_parquet(folder / f"{split}-00000-of-00001.parquet", images, labels, names=CIFAR, image="img")


def test_parquet_shards_come_first(tmp_path: Path) -> None:
    shards(tmp_path / "cifar10")
    tar_gz(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar_files("cifar10", 2))
    assert opened("cifar10", tmp_path).classes == tuple(CIFAR)


@pytest.mark.parametrize("parent", ["", "cifar100"])
@pytest.mark.parametrize("packed", [False, True])
def test_official_files_lie_in_the_root_or_in_the_folder_of_the_set(tmp_path: Path, parent: str, packed: bool) -> None:
    files = cifar_files("cifar100", 4)
    if packed:
        tar_gz(tmp_path / parent / "cifar-100-python.tar.gz", "cifar-100-python", files)
    else:
        (tmp_path / parent / "cifar-100-python").mkdir(parents=True)
        for name, data in files.items():
            (tmp_path / parent / "cifar-100-python" / name).write_bytes(data)
    source = opened("cifar100", tmp_path)
    assert (len(source.classes), len(source.splits["train"])) == (100, 4)


def test_fashion_mnist_in_both_forms(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "fashion-mnist"
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(idx_gz(np.zeros((10, 28, 28))))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(idx_gz(np.arange(10)))
    official = opened("fashion-mnist", tmp_path / "a")
    assert official.classes[0] == "T-shirt/top"
    shards(tmp_path / "b" / "fashion-mnist")
    assert opened("fashion-mnist", tmp_path / "b").classes == official.classes


def test_a_set_with_a_file_missing_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    (tmp_path / "fashion-mnist" / "train-images-idx3-ubyte.gz").write_bytes(idx_gz(np.zeros((10, 28, 28))))
    with pytest.raises(DataError, match="t10k-labels"):
        opened("fashion-mnist", tmp_path)


@pytest.mark.parametrize("form", ["cifar10", "cifar10/cifar-10-batches-py", "cifar-10-batches-py"])
def test_what_is_there_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    monkeypatch.setattr("vitrail.data.download", lambda *_, **__: pytest.fail("downloaded"))
    (tmp_path / form).mkdir(parents=True)
    if form == "cifar10":
        shards(tmp_path / form)
    assert main(["data", "download", "cifar10", "--data-root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"cifar10 is there already: {tmp_path / form}\n"


def test_missing_without_leave_to_download(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        opened("cifar10", tmp_path)
    for place in (
        "cifar10/{train,test}-*.parquet",
        "cifar-10-batches-py",
        "cifar10/cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        "cifar10/cifar-10-python.tar.gz",
        "vitrail data download cifar10",
    ):
        assert place in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(name: str, root: Path, *, progress: bool) -> Path:
        raise DataError("https://there could not be downloaded.", got="no route to host")

    monkeypatch.setattr(named, "download", no_network)
    with pytest.raises(DataError, match="no route to host") as caught:
        opened("cifar100", tmp_path, may_download=True)
    assert str(tmp_path / "cifar100" / "cifar-100-python.tar.gz") in str(caught.value)
    assert "VITRAIL_DATA" in str(caught.value)


def test_what_is_missing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(name: str, root: Path, *, progress: bool) -> Path:
        return tar_gz(root / name / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar_files("cifar10", 2)).parent

    monkeypatch.setattr(named, "download", fake)
    assert len(opened("cifar10", tmp_path, may_download=True).splits["train"]) == 10


@pytest.mark.parametrize(
    ("root", "variables", "expected"),
    [
        ("/given", {"VITRAIL_DATA": "/variable", "XDG_CACHE_HOME": "/cache"}, "/given"),
        ("", {"VITRAIL_DATA": "/variable", "XDG_CACHE_HOME": "/cache"}, "/variable"),
        ("", {"XDG_CACHE_HOME": "/cache"}, "/cache/vitrail/data"),
        ("", {"HOME": "/home/someone"}, "/home/someone/.cache/vitrail/data"),
        ("", {"HOME": "/home/someone", "XDG_CACHE_HOME": "relative"}, "/home/someone/.cache/vitrail/data"),
        ("~/mine", {"HOME": "/home/someone"}, "/home/someone/mine"),
    ],
)
def test_where_data_lies(root: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unset: Sequence[str] = ("VITRAIL_DATA", "XDG_CACHE_HOME")
    for name in unset:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert data_root(root) == Path(expected)
    assert decoded_cache().parts[-2:] == ("vitrail", "decoded")
