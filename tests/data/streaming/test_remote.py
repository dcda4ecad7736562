"""Ranges from a server that does everything wrong: the bytes are right, or there is one error that says why not."""

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

from tests.support.range_server import FAULTS, STALL_S, RangeServer
from tests.support.tar_shards import samples, tar_bytes
from vitrail.config import DataConfig
from vitrail.data.sources import open_source
from vitrail.data.streaming import stores
from vitrail.data.streaming.chunk_cache import ChunkCache
from vitrail.data.streaming.http_objects import HttpObjects
from vitrail.data.streaming.indexing import index_shards
from vitrail.data.streaming.opening import index, open_stream
from vitrail.data.streaming.order import StreamOrder
from vitrail.data.streaming.places import printable, with_splits
from vitrail.data.streaming.reader import ChunkReader
from vitrail.data.streaming.remote import Passing, Patience
from vitrail.data.streaming.remote_chunks import RemoteChunks
from vitrail.data.streaming.samples import Rules
from vitrail.data.streaming.table import Shard, Table
from vitrail.errors import DataError

QUICK = Patience(first_s=0.001, longest_s=0.01, timeout_s=STALL_S / 8, deadline_s=60)
CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


def _fetch(server: RangeServer, start: int, length: int, **shard: object) -> bytes:
    objects = HttpObjects(server.url, QUICK)
    about = {"size": len(CONTENT), "tag": server.etags["/a.bin"], **shard}
    return objects.fetch(Shard("a.bin", "train", **about), start, length)  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "flip"])
def test_a_fault_that_passes_changes_no_byte(fault: str) -> None:
    with RangeServer({"/a.bin": CONTENT}, lambda path, start, attempt: fault if attempt == 0 else None) as server:
        assert _fetch(server, 1000, 200_000) == CONTENT[1000:201_000]
        assert server.seen[fault] >= 1


def test_a_cut_body_is_continued_where_it_ended() -> None:
    with RangeServer({"/a.bin": CONTENT}, lambda path, start, attempt: "cut" if start == 0 else None) as server:
        assert _fetch(server, 0, 200_000) == CONTENT[:200_000]
        assert server.asked == {("/a.bin", 0): 1, ("/a.bin", 100_000): 1}


@pytest.mark.parametrize("fault", ["503", "reset", "stall"])
def test_what_never_passes_is_given_up(fault: str) -> None:
    with RangeServer({"/a.bin": CONTENT}, lambda path, start, attempt: fault) as server:
        objects = HttpObjects(server.url, Patience(3, 0.001, 0.002, STALL_S / 8, 20))
        with pytest.raises(DataError, match="could not be read"):
            objects.fetch(Shard("a.bin", "train", len(CONTENT), ""), 5, 1)
        assert 3 <= sum(server.asked.values()) <= 4


@pytest.mark.parametrize("change", ["etag", "longer", "shorter", "gone"])
def test_an_object_that_is_replaced_is_said_so(change: str) -> None:
    with RangeServer({"/a.bin": CONTENT}) as server:
        shard = {"size": len(CONTENT), "tag": server.etags["/a.bin"]}
        if change == "etag":
            server.etags["/a.bin"] = '"other"'
        elif change == "gone":
            del server.files["/a.bin"]
        else:
            shard["tag"] = ""
            server.files["/a.bin"] = CONTENT + b"x" if change == "longer" else CONTENT[:-5]
        with pytest.raises(DataError, match="the object was replaced"):
            _fetch(server, 299_998, 2, **shard)
        assert sum(server.asked.values()) <= 1


def test_a_mistake_of_ours_is_not_repeated() -> None:
    with RangeServer({}) as server, pytest.raises(FileNotFoundError):
        HttpObjects(server.url, QUICK).about("a.bin")


def test_few_requests_are_on_their_way_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with RangeServer({"/a.bin": CONTENT}, lambda *_: "latency") as server, ThreadPoolExecutor(12) as pool:
        objects = HttpObjects(server.url, QUICK, requests=3)
        shard = Shard("a.bin", "train", len(CONTENT), "")
        assert list(pool.map(lambda at: objects.fetch(shard, at, 1), range(24))) == [
            CONTENT[i : i + 1] for i in range(24)
        ]
        assert server.most_in_flight == 3


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://me:secret@host/a-{0..3}.tar", "an address with a user"),
        ("https://host/a.tar?X-Amz-Signature=secret", "an address with a query string"),
        ("https://host/a.tar#secret", "an address with a query string"),
        ("ftp://me:secret@host/a.tar", "such addresses are not read"),
    ],
)
def test_credentials_are_neither_taken_nor_shown(address: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        open_stream(address)
    assert "secret" not in str(caught.value)
    assert "secret" not in printable(address)


def test_an_error_of_a_store_shows_no_signed_address() -> None:
    pytest.importorskip("fsspec")
    objects = stores.FsspecObjects("memory://somewhere", QUICK)

    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("403 for https://me:secret@cdn/x?Signature=secret, really")

    objects._fs = type("Failing", (), {"info": fail, "cat_file": fail})()
    with pytest.raises(Passing) as caught:
        objects._about("x.tar")
    assert "secret" not in str(caught.value)
    assert "https://cdn/x" in str(caught.value)


# ---- a set of shards ---------------------------------------------------------------------------------------------


def _shards() -> dict[str, bytes]:
    return {f"/set/train-{i:03}.tar": tar_bytes(samples(range(40 * i, 40 * i + 40), side=16)) for i in range(4)}


def _table(server: RangeServer) -> tuple[Table, HttpObjects]:
    objects, found = stores.remote_shards(f"{server.url}/set/train-{{000..003}}.tar", QUICK)
    assert isinstance(objects, HttpObjects)
    rules = Rules(chunk_bytes=4 << 10, digests=True)
    shards = with_splits(found, objects.place)
    return index_shards(objects.place, shards, objects.fetch, rules=rules, piece=1 << 16), objects


def _epoch(chunks: RemoteChunks, epoch: int) -> str:
    """The hash of the records of an epoch, in the order of training, fetched ahead."""
    table = chunks.table
    order = StreamOrder(table.chunks["count"].astype(np.int64), 7, epoch, lanes=4, window=4)
    chunks.follow(0, order, order.of_epoch(epoch + 1), 0)
    read, digest = ChunkReader(table, slice(0, len(table.chunks)), None, chunks.opened), hashlib.sha256()
    for number in range(-(-len(order) // 16)):
        ids = order.batch(number, 16)
        found = dict(zip(np.sort(ids).tolist(), read(np.sort(ids)), strict=True))
        for one in ids.tolist():
            digest.update(found[one])
    chunks.stop()
    return digest.hexdigest()


def test_faults_do_not_change_an_epoch(tmp_path: Path) -> None:
    def mixture(path: str, start: int, attempt: int) -> str | None:
        draw = random.Random(f"{path} {start} {attempt}")
        return draw.choice(FAULTS) if draw.random() < 0.05 else None

    with RangeServer(_shards()) as server:
        table, objects = _table(server)
        assert len(table.chunks) == 80
        largest = int(table.chunks["size"].max())
        clean = [
            _epoch(RemoteChunks(table, objects, ChunkCache(tmp_path / "clean", 1 << 30, largest)), epoch)
            for epoch in (0, 1)
        ]
        server.fault = mixture
        chunks = RemoteChunks(table, objects, ChunkCache(tmp_path / "faulty", 20 * largest, largest))
        assert [_epoch(chunks, epoch) for epoch in (0, 1)] == clean
        assert objects.num_retries > 0
    assert clean[0] != clean[1]
    with open(tmp_path / "faulty" / "usage") as file:
        assert int(file.read()) <= 20 * largest


def test_a_flipped_bit_is_fetched_again_and_a_lasting_one_refused(tmp_path: Path) -> None:
    with RangeServer(_shards()) as server:
        table, objects = _table(server)
        cache = ChunkCache(tmp_path, 1 << 30, int(table.chunks["size"].max()))
        server.asked.clear()
        server.fault = lambda path, start, attempt: "flip" if attempt == 0 else None
        chunk = table.chunks[3]
        path, at, size = "/set/train-000.tar", int(chunk["offset"]), int(chunk["size"])
        with RemoteChunks(table, objects, cache).opened(3) as read_at:
            assert read_at(at, size) == server.files[path][at : at + size]
        assert server.seen["flip"] == 1
        server.fault = lambda *_: "flip"
        with (
            pytest.raises(DataError, match="other bytes than were indexed, twice"),
            RemoteChunks(table, objects, cache).opened(4),
        ):
            pass


def test_a_damaged_file_of_the_cache_is_fetched_again(tmp_path: Path) -> None:
    with RangeServer(_shards()) as server:
        table, objects = _table(server)
        cache = ChunkCache(tmp_path, 1 << 30, int(table.chunks["size"].max()))
        chunks, size = RemoteChunks(table, objects, cache), int(table.chunks["size"][0])
        with chunks.opened(0) as read_at:
            right = read_at(0, size)
        path = cache.path(chunks.key(0), size)
        for damage in (bytes(size), right[:-1]):
            path.write_bytes(damage)
            with RemoteChunks(table, objects, cache).opened(0) as read_at:
                assert read_at(0, size) == right
            assert path.read_bytes() == right


def test_a_web_server_is_indexed_once_and_then_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {**_shards(), "/set/classes.txt": b"dog\ncat\nbird\n"}
    with RangeServer(files) as server:
        spec = f"{server.url}/set/train-{{000..003}}.tar"
        with pytest.raises(DataError, match="not indexed"):
            open_source(DataConfig(spec=spec))
        index(spec)
        source = open_source(DataConfig(spec=spec))
        split = source.splits["train"]
        assert source.classes == ("dog", "cat", "bird")
        assert split.labels[:4].tolist() == [1, 0, 1, 0]
        assert split.names[41] == "train-001.tar:00041"
        positions = np.array([0, 41, 159])
        local = tmp_path / "local"
        local.mkdir()
        for path, content in files.items():
            (local / Path(path).name).write_bytes(content)
        same = open_source(DataConfig(spec=str(local))).splits["train"]
        assert list(split.read(positions)) == list(same.read(positions))
        with pytest.raises(DataError, match=r"missing[\s\S]*train-004"):
            index(f"{server.url}/set/train-{{003..004}}.tar")


def test_other_stores_go_through_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = fsspec.filesystem("memory")
    for path, content in _shards().items():
        store.pipe_file(f"/bucket{path}", content)
    index("memory://bucket/set/*.tar", tmp_path / "index")
    split = open_source(DataConfig(spec=str(tmp_path / "index"))).splits["train"]
    assert len(split) == 160
    assert [hashlib.md5(one).digest() for one in split.read(np.arange(160))] == [
        hashlib.md5(content).digest() for name, content in samples(range(160), side=16) if name.endswith("png")
    ]
    store.pipe_file("/bucket/set/train-002.tar", b"other")
    fresh = open_source(DataConfig(spec=str(tmp_path / "index"), cache_gib=1)).splits["train"]
    for file in (tmp_path / "vitrail" / "chunks").glob("*-*"):
        file.unlink()
    with pytest.raises(DataError, match="replaced"):
        list(fresh.read(np.array([100])))
