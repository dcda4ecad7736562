"""Packed data sets: the same examples as the source, found again as a SPEC, refused when damaged or mismatched."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.folders import image_folder
from vitrail import data
from vitrail.config import DataConfig
from vitrail.data import store
from vitrail.errors import DataError

SPLITS = ("train", "val", "test", "all")


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Two classes of noise; one training image and one test image cannot be read."""
    folder = image_folder(tmp_path / "photos", {"train/cat": 9, "train/dog": 6, "test/cat": 3, "test/dog": 4})
    (folder / "train" / "cat" / "img2.png").write_text("no image")
    (folder / "test" / "dog" / "img1.png").write_text("no image")
    return DataConfig(spec=str(folder), image_size=4, validation_fraction=0.3)


@pytest.fixture
def packed(config: DataConfig, tmp_path: Path) -> DataConfig:
    data.pack(config, tmp_path / "packed")
    return replace(config, spec=str(tmp_path / "packed"))


def test_a_pack_holds_what_its_source_holds(config: DataConfig, packed: DataConfig) -> None:
    """Also where a validation split is held out, and with the same unreadable files: a run can go on with the pack."""
    source, pack = data.load(config, SPLITS), data.load(packed, SPLITS)
    for split in SPLITS:
        ours, theirs = pack[split], source[split]
        assert np.array_equal(ours.images, theirs.images)
        assert np.array_equal(ours.ids, theirs.ids)
        assert list(ours.names) == list(theirs.names)
        assert ours.fingerprint == theirs.fingerprint
        assert [error.name for error in ours.errors] == [error.name for error in theirs.errors]
    assert [error.reason for error in pack["test"].errors] == [error.reason for error in source["test"].errors]


def test_a_whole_split_is_mapped_and_not_decoded(packed: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_decoded_chunks", lambda *_: pytest.fail("decoded again"))
    loaded = data.load(packed, ("train", "test"))
    assert isinstance(loaded["test"].images.base, np.memmap) or isinstance(loaded["test"].images, np.memmap)
    loaded["test"].images[0] = 0  # copy on write: the file stays as it is
    del loaded
    assert data.load(packed, ("test",))["test"].images[0].any()


def test_what_is_held_out_fits_into_no_memory(
    config: DataConfig, packed: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(DataConfig, "__post_init__", lambda self: None)
    small = data.load(replace(packed, ram_budget_mib=0), ("train", "val"))
    assert small["val"].fingerprint == data.load(config, ("train", "val"))["val"].fingerprint


def test_its_decode_size_is_known_and_other_decoding_is_refused(packed: DataConfig) -> None:
    assert data.preprocessing_for(replace(packed, image_size=8)).decode_size == (4, 4)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"channels": "L"}, "again with --channels L, or use"),
        ({"resize_mode": "squash"}, "again with --resize-mode squash, or use"),
        ({"decode_size": 6}, "again with --image-size 6, or use"),
        ({"icc": "ignore"}, "again with --icc ignore, or use"),
        ({"fast_decoding": True}, "again with --fast-decoding, or use"),
        ({"resize_filter": "bilinear"}, "Use the data it was packed from"),
    ]
    for changes, advice in refused:
        with pytest.raises(DataError, match=f"packed with another(.|\n)*{advice}"):
            data.load(replace(packed, **changes), ("train",))


def test_a_fast_pack_for_exact_decoding_is_packed_again_without_it(config: DataConfig, tmp_path: Path) -> None:
    fast = replace(config, fast_decoding=True)
    data.pack(fast, tmp_path / "fast")
    with pytest.raises(DataError, match="again without --fast-decoding"):
        data.load(replace(config, spec=str(tmp_path / "fast")), ("train",))


def test_one_channel(config: DataConfig, tmp_path: Path) -> None:
    grey = replace(config, channels="L")
    data.pack(grey, tmp_path / "grey")
    pack = data.load(replace(grey, spec=str(tmp_path / "grey")), ("all", "test"))
    source = data.load(grey, ("all", "test"))
    assert [pack[s].fingerprint for s in pack] == [source[s].fingerprint for s in source]


def test_nothing_is_overwritten(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="exists"):
        data.pack(config, tmp_path / "there")


@pytest.mark.parametrize("file", ["train.pixels", "test.json", "vitrail-pack.json"])
def test_damage_is_found(packed: DataConfig, file: str) -> None:
    path = Path(packed.spec) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged|packed in another"):
        data.load(packed, ("train", "test"))


def test_a_short_file_and_another_version_are_refused(packed: DataConfig) -> None:
    index = Path(packed.spec) / "vitrail-pack.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format_version": 99}))
    with pytest.raises(DataError, match="another format"):
        data.load(packed, ("train",))
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format_version": 1}))
    pixels = Path(packed.spec) / "train.pixels"
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged"):
        data.load(packed, ("train",))


def reindexed(packed: DataConfig, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change the index and the records of "test", and make their hashes right again."""
    folder = Path(packed.spec)
    index, records = (json.loads((folder / name).read_text()) for name in ("vitrail-pack.json", "test.json"))
    change(index, records)
    raw = json.dumps(records).encode()
    (folder / "test.json").write_bytes(raw)
    if "test" in index["splits"]:
        index["splits"]["test"]["records_sha256"] = hashlib.sha256(raw).hexdigest()
    (folder / "vitrail-pack.json").write_text(json.dumps(index))


@pytest.mark.parametrize("label", [-1, 2, 2**40, 0.5, None, "0"])
def test_a_label_that_is_no_class_is_refused(packed: DataConfig, label: object) -> None:
    reindexed(packed, lambda _, records: records["labels"].__setitem__(0, label))
    with pytest.raises(DataError, match="damaged"):
        data.load(packed, ("test",))


@pytest.mark.parametrize(
    "change",
    [
        lambda _, records: records["errors"].update({"-1": "x"}),
        lambda _, records: records["errors"].update({"01": "x", "1": "x"}),
        lambda _, records: records["errors"].update({"99": "x"}),
        lambda _, records: records["names"].__setitem__(0, "\ud800"),
        lambda index, _: index["classes"].__setitem__(0, "\ud800"),
        lambda index, _: index["splits"].clear(),
        lambda index, _: index.update(splits=[1]),
        lambda index, _: index.update(preprocessing=3),
    ],
)
def test_what_no_pack_says_is_refused(packed: DataConfig, change: Any) -> None:
    reindexed(packed, change)
    with pytest.raises(DataError, match="damaged|no text"):
        data.load(packed, ("test",))


def test_a_split_of_another_folder_is_refused(packed: DataConfig, tmp_path: Path) -> None:
    shutil.copytree(packed.spec, tmp_path / "other")
    reindexed(packed, lambda index, _: index["splits"].update({"../other/test": index["splits"].pop("test")}))
    with pytest.raises(DataError, match="no split is called"):
        data.load(packed, ("train",))


@pytest.mark.parametrize("file", ["test.pixels", "test.json"])
def test_links_are_refused(packed: DataConfig, tmp_path: Path, file: str) -> None:
    shutil.move(Path(packed.spec) / file, tmp_path / "elsewhere")
    (Path(packed.spec) / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link"):
        data.load(packed, ("train",))


def test_checking_finds_flipped_pixels(packed: DataConfig) -> None:
    pixels = Path(packed.spec) / "test.pixels"
    content = bytearray(pixels.read_bytes())
    content[3] ^= 1
    pixels.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        data.check(packed)
