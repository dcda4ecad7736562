"""Row groups of Parquet files, streamed like chunks of tars."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.range_server import FAULTS, RangeServer
from tests.support.tar_shards import png
from vitrail import cli
from vitrail.config import DataConfig
from vitrail.data.sources import open_source
from vitrail.data.streaming import stores
from vitrail.data.streaming.chunk_cache import ChunkCache
from vitrail.data.streaming.indexing import index_shards
from vitrail.data.streaming.places import with_splits
from vitrail.data.streaming.reader import ChunkReader
from vitrail.data.streaming.remote import Patience
from vitrail.data.streaming.remote_chunks import RemoteChunks
from vitrail.data.streaming.samples import Rules
from vitrail.errors import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def _write(path: Path, first: int, count: int, *, named: bool = True, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(seed), "path": f"{seed}.png"} for seed in range(first, first + count)]
    table = pa.table({"image": images, "label": [seed % 3 for seed in range(first, first + count)]})
    if named:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["ape", "bee", "cow"]}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=7, **options)


def test_an_indexed_folder_gives_the_images_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "set" / "train-0.parquet", 0, 20)
    _write(tmp_path / "set" / "train-1.parquet", 20, 9, compression="zstd", use_dictionary=False)
    _write(tmp_path / "set" / "test-0.parquet", 29, 5)
    assert cli.main(["data", "index", str(tmp_path / "set"), "-o", str(tmp_path / "i")]) == 0
    assert "34" not in capsys.readouterr().err
    plain, streamed = (open_source(DataConfig(spec=str(tmp_path / name))) for name in ("set", "i"))
    assert streamed.classes == plain.classes == ("ape", "bee", "cow")
    for split in ("train", "test"):
        ours, theirs = streamed.splits[split], plain.splits[split]
        assert list(ours.names) == list(theirs.names)
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert list(ours.read(np.arange(len(ours)))) == list(theirs.read(np.arange(len(theirs))))
    train = streamed.splits["train"]
    assert train.chunk_starts is not None
    assert train.chunk_starts.tolist() == [0, 7, 14, 20, 27, 29]
    assert list(train.read(np.array([3, 13, 28]))) == [png(3), png(13), png(28)]
    assert not streamed.notes
    small = open_source(DataConfig(spec=str(tmp_path / "i"), cache_gib=3e-6))
    assert ["will be fetched several times" in note for note in small.notes] == [True]
    assert list(small.splits["train"].read(np.arange(29))) == [png(seed) for seed in range(29)]


def test_a_remote_table_is_read_through_faults(tmp_path: Path) -> None:
    _write(tmp_path / "train-0.parquet", 0, 20, named=False)
    files = {"/train-0.parquet": (tmp_path / "train-0.parquet").read_bytes()}
    passing = [fault for fault in FAULTS if fault not in ("flip", "stall")]

    def fault(path: str, start: int, attempt: int) -> str | None:
        return passing[attempt] if attempt < len(passing) else None

    with RangeServer(files, fault) as server:
        patience = Patience(tries=20, first_s=0.001, longest_s=0.01)
        objects, found = stores.remote_shards(f"{server.url}/train-0.parquet", patience)
        shards = with_splits(found, objects.place)
        table = index_shards(objects.place, shards, objects.fetch, rules=Rules(), piece=1 << 20)
        assert table.classes == ("0", "1", "2")
        cache = ChunkCache(tmp_path / "cache", 1 << 20, int(table.chunks["size"].max()))
        chunks = RemoteChunks(table, objects, cache)
        read = ChunkReader(table, slice(0, len(table.chunks)), None, chunks.opened)
        for _ in range(2):
            assert list(read(np.arange(20))) == [png(seed) for seed in range(20)]
        assert chunks.num_fetched == 3
        assert server.seen["reset"] >= 1


def test_what_cannot_be_streamed_is_said(tmp_path: Path) -> None:
    spec = str(tmp_path / "{a,b}.parquet")
    table = pa.table({"path": ["x.png", "y.png"], "label": [0, 1]})
    for name in "ab":
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="not in the table"):
        open_source(DataConfig(spec=spec))
    same = pa.table({"image": [png(1, 100)] * 50, "label": [0, 1] * 25})
    parquet.write_table(same, tmp_path / "same.parquet")
    split = open_source(DataConfig(spec=str(tmp_path / "{same,same}.parquet"))).splits["train"]
    with pytest.raises(DataError, match="larger than its summary"):
        list(split.read(np.array([0])))
