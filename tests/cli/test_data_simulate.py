"""`vitrail data simulate` on an index of chunks that nobody has."""

import json
from pathlib import Path

import numpy as np
import pytest

from vitrail.cli import main
from vitrail.data.streaming.table import CHUNK, MEMBER, Shard, Table, write_table

NUM_SHARDS, PER_SHARD, PER_CHUNK, CHUNK_BYTES = 10, 64, 40, 4_000_000


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    """640 chunks of equal size for training, and 64 others."""
    chunks = np.zeros((NUM_SHARDS + 1) * PER_SHARD, dtype=CHUNK)
    chunks["shard"] = np.repeat(np.arange(NUM_SHARDS + 1), PER_SHARD)
    chunks["offset"] = np.tile(np.arange(PER_SHARD) * CHUNK_BYTES, NUM_SHARDS + 1)
    chunks["size"], chunks["count"] = CHUNK_BYTES, PER_CHUNK
    members = np.zeros(len(chunks) * PER_CHUNK, dtype=MEMBER)
    shards = [
        Shard(f"{number:02d}.tar", "train" if number < NUM_SHARDS else "val", PER_SHARD * CHUNK_BYTES, "0", PER_SHARD)
        for number in range(NUM_SHARDS + 1)
    ]
    keys, ends = np.zeros(len(members), dtype=np.uint8), np.arange(1, len(members) + 1, dtype=np.uint64)
    folder = tmp_path_factory.mktemp("simulate") / "index"
    write_table(folder, Table("tar", "/nowhere", tuple(shards), chunks, members, keys, ends, ("cat",)))
    return str(folder)


OPTIONS = "--ranks 16 --batch-size 256 --images-per-second 100 --lanes 16 --window 8 --latency-ms 0"


def test_what_a_cluster_would_see(index: str, capsys: pytest.CaptureFixture[str]) -> None:
    """1,600 images a second are 160 MB/s, 640 Mbit/s for each of two machines: with half of it, half the speed."""
    assert main(["data", "simulate", index, *OPTIONS.split(), "--mbit-per-second", "320", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_examples"], found["num_chunks"], found["num_batches"]) == (25_600, 640, 100)
    assert found["fetched_bytes"] == found["num_bytes"] == 640 * CHUNK_BYTES
    assert found["waiting"] == pytest.approx(0.5, abs=0.1)
    assert found["same_chunk_pairs"]["expected"] == pytest.approx(1 / 128)
    assert found["same_chunk_pairs"]["measured"] == pytest.approx(1 / 128, rel=0.2)
    assert found["same_chunk_pairs"]["perfect_shuffle"] == pytest.approx(1 / 640)
    assert 0.5 * 128 * CHUNK_BYTES < found["restart"]["refill_bytes"] < 1.5 * 128 * CHUNK_BYTES


def test_what_people_read(index: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "simulate", index, *OPTIONS.split()]) == 0
    told = capsys.readouterr().out
    for words in ("25,600 images in 640 chunks", "100 batches on 2 x 8 processes", "1.000 times each byte", "restart"):
        assert words in told
    assert "two images of a batch from one chunk" in told
    assert "one pair in 640" in told


@pytest.mark.parametrize(
    ("spec", "told"),
    [("", "only these are indexed, streamed and simulated"), ("http://127.0.0.1:9/a-{0..3}.tar", "data index 'http")],
)
def test_what_has_no_chunks_is_told_how_to_get_them(
    spec: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cat").mkdir()
    assert main(["data", "simulate", spec or str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--ranks 9", "--ranks 9 --ranks-per-node 8"),
        ("--ranks 0", "--ranks must be positive"),
        ("--latency-ms nan", "--latency-ms must be positive"),
        ("--lanes 100000", "--lanes is too large"),
        ("--cache-gib 0.1 --lanes 16", "The cache is too small"),
        ("--near", "data simulate does not take --near: it belongs to data check"),
    ],
)
def test_what_is_refused(index: str, capsys: pytest.CaptureFixture[str], options: str, told: str) -> None:
    assert main(["data", "simulate", index, *options.split()]) == 2
    assert told in capsys.readouterr().err


def test_other_actions_do_not_take_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "digits", "--lanes", "3"]) == 2
    assert "data info does not take --lanes: it belongs to data simulate" in capsys.readouterr().err
