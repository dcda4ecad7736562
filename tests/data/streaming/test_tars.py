"""Tars as others write them, and as nobody should: the members are those of Python's tarfile, or there is an error."""

import io
import itertools
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.tar_shards import png, samples, tar_bytes
from vitrail.data.streaming.samples import Rules, scan
from vitrail.data.streaming.table import ShardTable
from vitrail.data.streaming.tars import Forward, Member, members_of
from vitrail.errors import DataError

NAMES = [
    "a.jpg",
    "./b/c.png",
    "x/" * 60 + "deep.png",
    "n" * 130 + ".jpg",
    "p/" * 20 + "m" * 240 + ".webp",
    "猫/犬.jpg",
    "\udcff\udcfe-not-utf8.jpg",
]


def _forward(raw: bytes, piece: int = 1000) -> Forward:
    return Forward(lambda offset, length: raw[offset : offset + length], len(raw), piece)


def _members(raw: bytes) -> list[Member]:
    return list(members_of(_forward(raw), []))


def _scan(raw: bytes, **rules: object) -> ShardTable:
    return scan(_forward(raw), Rules(**rules))  # type: ignore[arg-type]


def _as_tarfile(raw: bytes) -> list[tuple[bytes, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(raw), encoding="utf-8", errors="surrogateescape") as archive:
        return [
            (one.name.encode(errors="surrogateescape"), one.offset_data, one.size) for one in archive if one.isreg()
        ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(form: int) -> None:
    names = [name for name in NAMES if form != tarfile.USTAR_FORMAT or len(name) < 120]
    raw = tar_bytes([(name, bytes([i]) * (i * 511)) for i, name in enumerate(names)], form)
    found = _members(raw)
    assert [(one.name, one.offset, one.size) for one in found] == _as_tarfile(raw)
    assert [one.name for one in found] == [name.encode(errors="surrogateescape") for name in names]
    assert [one.start for one in found] == [0, *(one.stop for one in found[:-1])]


@pytest.mark.parametrize("command", ["tar --format=gnu", "tar --format=pax", "tar --format=ustar", "bsdtar", "tar"])
def test_members_are_those_that_programs_wrote(command: str, tmp_path: Path) -> None:
    program, *options = command.split()
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    for number, name in enumerate(("a.jpg", "猫/犬.jpg", "d/" * 30 + "n" * 90 + ".png", "empty.png")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 700 * (3 - number))
    (tmp_path / "in" / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "in" / "hard.jpg").hardlink_to(tmp_path / "in" / "a.jpg")
    subprocess.run([program, *options, "-cf", str(tmp_path / "a.tar"), "-C", str(tmp_path / "in"), "."], check=True)
    raw = (tmp_path / "a.tar").read_bytes()
    assert [(one.name, one.offset, one.size) for one in _members(raw)] == [
        (b"./" + name if not name.startswith(b"./") else name, at, size) for name, at, size in _as_tarfile(raw)
    ]
    assert len(_members(raw)) == 4  # one of the two names of a file is a link


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it does not close its files
def test_keys_and_images_are_those_of_webdataset(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "a-000.tar")) as sink:
        for i in range(20):
            sink.write({"__key__": f"x.y/sample{i:03}", "png": png(i), "cls": i % 3, "json": {"label": "no"}})
    raw = (tmp_path / "a-000.tar").read_bytes()
    (tmp_path / "b-000.tar").write_bytes(tar_bytes(samples(range(20), classes=("0", "1", "2"))))
    for path in sorted(tmp_path.glob("*.tar")):
        raw = path.read_bytes()
        table = _scan(raw)
        theirs = list(wds.WebDataset(str(path), shardshuffle=False, handler=wds.reraise_exception))
        ends = [0, *table.key_ends.tolist()]
        keys = [table.keys[a:b].decode() for a, b in itertools.pairwise(ends)]
        assert keys == [one["__key__"] for one in theirs]
        ours = [raw[at : at + size] for at, size, _ in table.members.tolist()]
        assert ours == [one["png"] for one in theirs]
        assert [table.values[code] for _, _, code in table.members.tolist()] == [int(one["cls"]) for one in theirs]


# ---- samples -----------------------------------------------------------------------------------------------------


def test_labels_are_numbers_names_or_fields() -> None:
    raw = tar_bytes(
        [
            *(("a.jpg", b"1"), ("a.cls", b" 7\n")),
            *(("b.cls", b"cat"), ("b.JPG", b"22")),
            *(("c.json", b'{"label": "dog", "cls": 4}'), ("c.png", b"333")),
            *(("d.json", b'{"cls": 4}'), ("d.png", b"4"), ("d.cls", b"5"), ("d.txt", b"a caption")),
            *(("e.webp", b"5"), ("e.json", b'{"width": 3}')),
            *(("f.seg.png", b"no"), ("f.png", b"6")),
            *(("notes", b"none"), ("g.txt", b"nothing")),
        ]
    )
    table = _scan(raw)
    assert [table.values[code] for _, _, code in table.members.tolist()] == [7, "cat", "dog", 5, None, None]
    assert [raw[at : at + size] for at, size, _ in table.members.tolist()] == [b"1", b"22", b"333", b"4", b"5", b"6"]
    assert table.keys == b"abcdef"
    assert table.num_ignored == 2
    texts = _scan(raw, text_labels=True)
    assert [texts.values[code] for _, _, code in texts.members.tolist()] == [None, None, None, "a caption", None, None]


@pytest.mark.parametrize("digests", [True, False])
def test_chunks_are_whole_samples_without_gaps(digests: bool) -> None:
    from hashlib import blake2b

    raw = tar_bytes(samples(range(30), side=20))
    table = _scan(raw, chunk_bytes=5000, digests=digests)
    assert table.chunks["count"].sum() == 30
    at, row = 0, 0
    for _, offset, size, count, digest in table.chunks.tolist():
        assert offset == at
        assert size >= 5000 or row + count == 30
        members = table.members[row : row + count]
        assert offset < members["offset"].min()
        assert (members["offset"] + members["size"]).max() <= offset + size
        assert digest == (blake2b(raw[offset : offset + size], digest_size=16).digest() if digests else bytes(16))
        at, row = offset + size, row + count


# ---- what is refused ---------------------------------------------------------------------------------------------


def _header(**changes: bytes) -> bytes:
    """A header of a member of 3 bytes, with fields replaced and the right sum."""
    places = {"name": (0, 100), "size": (124, 136), "kind": (156, 157), "magic": (257, 265)}
    raw = bytearray(512)
    fields = {"name": b"a.jpg", "size": b"00000000003\0", "kind": b"0", "magic": b"ustar\x0000", **changes}
    for field, value in fields.items():
        start, stop = places[field]
        raw[start:stop] = value.ljust(stop - start, b"\0")
    raw[148:156] = b"%06o\0 " % (sum(raw) + 8 * 32)
    return bytes(raw)


def _pax(records: bytes, kind: bytes = b"x") -> bytes:
    size = b"%011o\0" % len(records)
    return _header(size=size, kind=kind) + records.ljust(-(-len(records) // 512) * 512, b"\0")


BODY = b"abc".ljust(512, b"\0")
END = bytes(1024)
REFUSED = {
    "compressed by gzip": b"\x1f\x8b" + bytes(600),
    "compressed by zstd": b"\x28\xb5\x2f\xfd" + bytes(600),
    "does not begin with the header": b"hello" * 200,
    "no header at 1024": _header() + BODY + b"x" * 512 + END,
    "inside the member": _header(size=b"00007777777\0") + BODY,
    "inside a member": _header()[:300],
    "a sparse member": _header(kind=b"S") + BODY + END,
    "several volumes": _header(kind=b"M") + BODY + END,
    "a negative size": _header(size=b"\xff" * 12) + BODY + END,
    "no octal number": _header(size=b"0x000000003\0") + BODY + END,
    "a header of": _header(size=b"77777777777\0", kind=b"L") + BODY,
    "PAX records": _pax(b"0 path=x\n") + _header() + BODY + END,
    "no size": _pax(b"12 size=-99\n") + _header() + BODY + END,
    "a global header": _pax(b"11 path=ab\n", b"g") + _header() + BODY + END,
    "two tars in one file": (_header() + BODY + END) * 2,
    "is there twice": _header() + BODY + _header() + BODY + END,
    "not one behind the other": b"".join(_header(name=n) + BODY for n in (b"a.jpg", b"b.jpg", b"a.cls")) + END,
    "has 2 images": b"".join(_header(name=n) + BODY for n in (b"a.jpg", b"a.png")) + END,
    "behind a long name": _pax(b"11 path=ab\n"),
    "no JSON": _header() + BODY + _header(name=b"a.json") + BODY + END,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_read_in_pieces_is_refused_with_the_reason(reason: str) -> None:
    with pytest.raises((ValueError, DataError), match=reason):
        _scan(REFUSED[reason])


def test_a_huge_size_takes_no_memory() -> None:
    size = b"\x80" + (1 << 60).to_bytes(11, "big")
    asked: list[int] = []

    def fetch(offset: int, length: int) -> bytes:
        asked.append(length)
        return (_header(size=size) + BODY)[offset : offset + length]

    with pytest.raises(ValueError, match="inside the member"):
        scan(Forward(fetch, 1024, 512), Rules(digests=True))
    assert max(asked) <= 1024


def test_a_tar_without_an_end_mark_is_noted() -> None:
    notes: list[str] = []
    assert len(list(members_of(_forward(_header() + BODY), notes))) == 1
    assert notes == ["ends without an end mark"]


def test_random_damage_is_an_error_or_harmless() -> None:
    draw = random.Random(0)
    raw = tar_bytes(samples(range(6)), tarfile.PAX_FORMAT) + tar_bytes([("n" * 130 + ".jpg", b"x")], tarfile.GNU_FORMAT)
    refused = 0
    for _ in range(400):
        damaged = bytearray(raw[: draw.randrange(len(raw))] if draw.random() < 0.3 else raw)
        for _ in range(draw.randrange(4)):
            if damaged:
                at = draw.randrange(len(damaged))
                damaged[at] = draw.randrange(256)
        try:
            _scan(bytes(damaged), digests=draw.random() < 0.5)
        except (ValueError, DataError):
            refused += 1
    assert refused > 100
