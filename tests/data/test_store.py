"""Decoding once: in memory or in a mapped file, in order, with errors named."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from tests.support.folders import image_folder
from tests.support.images import encode, noise
from vitrail import fsio
from vitrail.config import DataConfig, Preprocessing
from vitrail.data import store
from vitrail.data.sources import Source, open_source
from vitrail.data.store import Decoded, decode_split
from vitrail.errors import SaveError

SETTINGS = Preprocessing(image_size=(4, 4), decode_size=(4, 4))
PLENTY, NOTHING = 1 << 40, 0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitrail" / "decoded"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """200 images, two of them damaged, so that several tasks are needed."""
    folder = image_folder(tmp_path / "data", {"a": 150, "b": 50})
    (folder / "a" / "img3.png").write_bytes(encode(noise(6, 6), "PNG")[:60])
    (folder / "b" / "img7.png").write_text("no image")
    return open_source(DataConfig(spec=str(folder)))


def decoded(source: Source, budget: int, preprocessing: Preprocessing = SETTINGS, *, progress: bool = False) -> Decoded:
    split = source.splits["train"]
    return decode_split(
        split, preprocessing, listing=source.listing, ram_budget_bytes=budget, progress=progress, title="train"
    )


def same(first: Decoded, second: Decoded) -> bool:
    errors = [[(error.name, error.reason) for error in item.errors] for item in (first, second)]
    return (
        np.array_equal(first.pixels, second.pixels)
        and np.array_equal(first.kept, second.kept)
        and errors[0] == errors[1]
        and first.pixels_sha256 == second.pixels_sha256
    )


def test_records_keep_their_order_and_errors_are_named(source: Source, cache: Path) -> None:
    result = decoded(source, PLENTY)
    names = source.splits["train"].names
    assert [error.name for error in result.errors] == ["a/img3.png", "b/img7.png"]
    bad = [names.index("a/img3.png"), names.index("b/img7.png")]
    assert result.kept.tolist() == [row for row in range(200) if row not in bad]
    for row, pixels in zip(result.kept, result.pixels, strict=True):
        record = next(source.splits["train"].read(np.array([row])))
        assert isinstance(record, Path)
        np.testing.assert_array_equal(pixels, store.load_image(record, SETTINGS))
    assert not cache.exists()


def test_more_than_the_budget_goes_to_a_mapped_file(source: Source, cache: Path) -> None:
    in_memory, mapped = decoded(source, 200 * 48), decoded(source, 200 * 48 - 1)
    assert not isinstance(in_memory.pixels, np.memmap)
    assert isinstance(mapped.pixels, np.memmap)
    assert same(in_memory, mapped)
    assert [path.name for path in sorted(next(cache.iterdir()).iterdir())] == ["index.json", "pixels.bin"]


def test_writing_to_the_mapped_pixels_leaves_the_file_alone(source: Source, cache: Path) -> None:
    first = decoded(source, NOTHING)
    before = first.pixels[0].copy()
    first.pixels[0] = 0
    np.testing.assert_array_equal(decoded(source, NOTHING).pixels[0], before)


def test_the_next_run_decodes_nothing(source: Source, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = decoded(source, NOTHING)
    monkeypatch.setattr(store, "load_image", None)
    assert same(first, decoded(source, NOTHING))


def test_changed_files_settings_or_splits_are_decoded_again(source: Source, cache: Path, tmp_path: Path) -> None:
    decoded(source, NOTHING)
    other = Preprocessing(image_size=(4, 4), decode_size=(4, 4), resize_filter="box")
    decoded(source, NOTHING, other)
    assert len(list(cache.iterdir())) == 2
    normalised = Preprocessing(image_size=(8, 8), decode_size=(4, 4), mean=(0.1, 0.2, 0.3))
    decoded(source, NOTHING, normalised)  # mean, std and image_size come after decoding
    assert len(list(cache.iterdir())) == 2
    decoded(source, NOTHING, Preprocessing(image_size=(4, 4), decode_size=(4, 4), icc="ignore"))
    assert len(list(cache.iterdir())) == 3
    os.utime(tmp_path / "data" / "a" / "img0.png", ns=(1, 1))
    changed = open_source(DataConfig(spec=str(tmp_path / "data")))
    decoded(changed, NOTHING)
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", ["short", "long", "no index", "index", "order", "pipe", "other index"])
def test_a_damaged_cache_is_made_again(source: Source, cache: Path, damage: str) -> None:
    first = decoded(source, PLENTY)
    whole = decoded(source, NOTHING).pixels.copy()
    folder = next(cache.iterdir())
    match damage:
        case "short":
            (folder / "pixels.bin").write_bytes((folder / "pixels.bin").read_bytes()[:-1])
        case "long":
            (folder / "pixels.bin").write_bytes((folder / "pixels.bin").read_bytes() + b"x")
        case "no index":
            (folder / "index.json").unlink()
        case "index":
            (folder / "index.json").write_text("{")
        case "order":
            index = json.loads((folder / "index.json").read_text())
            (folder / "index.json").write_text(json.dumps(index | {"kept": index["kept"][::-1]}))
        case "pipe":
            (folder / "index.json").unlink()
            os.mkfifo(folder / "index.json")
        case _:
            index = json.loads((folder / "index.json").read_text())
            (folder / "index.json").write_text(json.dumps(index | {"kept": index["kept"][:-1]}))
    again = decoded(source, NOTHING)
    np.testing.assert_array_equal(again.pixels, whole)
    assert same(again, first)
    assert (folder / "pixels.bin").stat().st_size == whole.size


class FullDisk(fsio.FileSystem):
    """Gives out after some writes."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def open(self, path: Path, mode: str, buffering: int = -1) -> IO[Any]:
        file = super().open(path, mode, buffering)
        write = file.write

        def limited(data: Any) -> int:
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return write(data)

        return _Wrapped(file, limited)  # type: ignore[return-value]


class _Wrapped:
    def __init__(self, file: IO[Any], write: Any) -> None:
        self._file, self.write = file, write

    def __enter__(self) -> "_Wrapped":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("writes", range(5))
def test_a_full_disk_leaves_nothing_that_is_taken_for_whole(source: Source, cache: Path, writes: int) -> None:
    in_memory = decoded(source, PLENTY)
    # Pixels of four tasks, then the index, which is what says that the pixels are whole.
    with fsio.use_file_system(FullDisk(writes)), pytest.raises(SaveError, match="No space left"):
        decoded(source, NOTHING)
    assert not list(cache.glob("*/index.json"))
    assert list(cache.glob("*/pixels.bin")) == ([] if writes < 4 else [next(cache.iterdir()) / "pixels.bin"])
    assert not list(cache.glob("*/.*"))
    assert same(decoded(source, NOTHING), in_memory)


def test_nothing_readable_is_an_empty_result(tmp_path: Path, cache: Path) -> None:
    folder = image_folder(tmp_path / "bad", {"a": 1, "b": 1})
    for path in folder.rglob("*.png"):
        path.write_text("no image")
    bad = open_source(DataConfig(spec=str(folder)))
    for budget in (PLENTY, NOTHING, NOTHING):
        result = decoded(bad, budget)
        assert result.pixels.shape == (0, 3, 4, 4)
        assert len(result.errors) == 2


def test_progress_goes_to_stderr(
    source: Source, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.progress.FIRST_SECONDS", 0.0)
    decoded(source, PLENTY, progress=True)
    shown = capsys.readouterr()
    assert "of 200" in shown.err
    assert shown.out == ""
    decoded(source, PLENTY)
    assert capsys.readouterr().err == ""


def test_few_records_wait_in_memory(cache: Path) -> None:
    """Reading does not run far ahead of decoding, however large the set is."""
    data = encode(noise(4, 4), "PNG")
    ahead: list[int] = []
    read = done = 0

    def records(positions: np.ndarray) -> Iterator[bytes]:
        nonlocal read
        for _ in positions:
            read += 1
            ahead.append(read - done)
            yield data

    number = 20_000 // 4
    split = store.Split(np.zeros(number, dtype=np.int64), [str(row) for row in range(number)], records)
    for chunk in store._decoded_chunks(split, SETTINGS, None):
        done += len(chunk.kept)
    assert done == number
    assert max(ahead) <= 64 * (2 * store.num_threads() + 3)
