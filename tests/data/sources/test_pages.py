"""Pages of Parquet files: what reading them would take is known before they are unpacked."""

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from vitrail import data
from vitrail.config import DataConfig
from vitrail.data.sources import pages
from vitrail.data.sources.pages import chunks_of, leaves_of, rows_at_once
from vitrail.errors import DataError

ONE = bytes(1000)
MIB = 1 << 20


def written(path: Path, column: Any, **options: Any) -> tuple[io.FileIO, Any]:
    parquet.write_table(pa.table({"a": column, "a.b": [1] * len(column)}), path, **options)
    return io.FileIO(path), parquet.read_metadata(path)


def rows_of(path: Path, column: Any, **options: Any) -> int:
    file, metadata = written(path, column, **options)
    with file:
        chunks = chunks_of(file)[0]
        for chunk, number in zip(chunks, range(2), strict=True):
            described = metadata.row_group(0).column(number)
            assert chunk.start == described.dictionary_page_offset or described.data_page_offset
            assert chunk.num_bytes == described.total_compressed_size
        return rows_at_once(file, metadata, chunks, 0, leaves_of(metadata, "a")[:1], 500, MIB)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_few_rows_of_large_values(tmp_path: Path, version: str, compression: str) -> None:
    options = {"compression": compression, "data_page_version": version}
    plain = {**options, "use_dictionary": False}
    path = tmp_path / "x"
    assert rows_of(path, [1] * 5000, **options) == 500
    assert rows_of(path, [b"x"] * 5000, **plain) == 500
    values = [random.Random(i).randbytes(10_000) for i in range(200)]
    assert rows_of(path, values, **plain) == 104  # by their average
    # One value that any number of rows has: by the size of what holds it.
    assert rows_of(path, [bytes(100_000)] * 200, **options) == (MIB - 2 * 100_004) // 100_004
    prefixed = {**plain, "column_encoding": {"a": "DELTA_BYTE_ARRAY"}}
    assert rows_of(path, [bytes(100_000) + bytes([i]) for i in range(200)], **prefixed) < 10
    assert rows_of(path, pa.nulls(500, pa.binary(50_000)), **options) == (MIB - 2 * 150_000) // 150_000


def test_what_grows_too_much(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unpacks to"):
        rows_of(tmp_path / "x", [bytes(MIB)] * 20, compression="zstd", use_dictionary=False, data_page_size=64 * MIB)
    with pytest.raises(ValueError, match="values of 20000000 bytes"):
        rows_of(tmp_path / "x", pa.nulls(1, pa.binary(20_000_000)))


def test_a_page_without_its_header(tmp_path: Path) -> None:
    file, metadata = written(tmp_path / "x", [ONE] * 20, compression="none")
    raw, chunks = file.readall(), chunks_of(file)[0]
    file.close()
    for content in (b"PAR1" + bytes(len(raw) - 4), raw[:4] + b"\x15\x00\x15" + b"\xff" * 50 + raw[57:], raw[:10]):
        (tmp_path / "x").write_bytes(content)
        with io.FileIO(tmp_path / "x") as changed, pytest.raises(ValueError, match="readable header"):
            rows_at_once(changed, metadata, chunks, 0, [0], 500, MIB)


@pytest.mark.parametrize(
    "header",
    [
        b"\x15\x04\x15\x04\x16\x04\x00",  # a size of another width
        b"\x25\x04\x15\x04\x05\x02\x04\x00",  # a field that says its own number
        b"\x15\x04\x15\x04\x15\x04" + b"\x1c" * 50 + bytes(60),  # nested deeply
        b"\x15\x04\x15\x03\x15\x04\x00",  # a negative size
        b"\x15\x04\x15\x04\x15\x04\x1b\x00\x00",  # a map
        b"\x15\x04\x15\x04\x15\x04\x18\xff\xff\xff\x7f\x00",  # text beyond the end
        b"",
    ],
)
def test_headers_that_could_be_read_in_two_ways(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "x").write_bytes(header)
    with (
        io.FileIO(tmp_path / "x") as file,
        pytest.raises(ValueError, match="header of a page|out of order|kind|nested"),
    ):
        pages._header(file, 0)


def test_parts_of_a_column(tmp_path: Path) -> None:
    structs = pa.array([{"bytes": b"x", "path": "y"}])
    parquet.write_table(pa.table({"image": structs, "image2": structs}), tmp_path / "x")
    metadata = parquet.read_metadata(tmp_path / "x")
    assert leaves_of(metadata, "image") == [0, 1]
    assert leaves_of(metadata, "image.path") == [1]


def test_footers_and_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "x"
    file, metadata = written(path, [b"x"] * 1400, row_group_size=1, compression="none", use_dictionary=False)
    assert metadata.num_row_groups > 1000 + path.stat().st_size // 10_000
    with file, pytest.raises(ValueError, match="1400 row groups"):
        chunks_of(file)
    path.write_bytes(b"PAR1" + bytes(20) + (11 * MIB).to_bytes(4, "little") + b"PAR1")
    with io.FileIO(path) as file, pytest.raises(ValueError, match="footer of 11534336 bytes"):
        chunks_of(file)
    path.write_bytes(b"")
    with io.FileIO(path) as file, pytest.raises(ValueError, match="footer"):
        chunks_of(file)


def test_damaged_statistics_do_not_end_the_process(tmp_path: Path) -> None:
    """The library's object for a column of a row group does, when levels and their counts differ in number."""
    column = pa.array([{"bytes": b"x"}, {"bytes": None}, None])
    table = pa.table({"image": column, "label": ["a", "b", "a"]})
    parquet.write_table(table, tmp_path / "x.parquet", compression="none")
    raw = (tmp_path / "x.parquet").read_bytes()
    length = int.from_bytes(raw[-8:-4], "little")
    footer = raw[-8 - length : -8]
    histogram = b"\x19\x36\x02\x02\x02"  # three numbers: rows without a struct, without bytes, with both
    assert histogram in footer
    changed = footer.replace(histogram, b"\x19\x26\x02\x02")
    (tmp_path / "x.parquet").write_bytes(raw[: -8 - length] + changed + len(changed).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        data.summary(DataConfig(spec=str(tmp_path / "x.parquet")))
