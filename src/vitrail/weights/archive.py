"""Zip archives of weights (torch files, .npz), checked before anything is unpacked. Without torch.

Two programs can see different members in one archive: the end of a zip names the place of its directory, and some
readers believe the name and some look where it must be. Here both have to agree.

Source: PKWARE's APPNOTE.TXT, sections 4.3.12 to 4.3.16.
"""

import io
import struct
import zipfile
import zlib
from pathlib import Path

from vitrail.errors import WeightsError, shown
from vitrail.reading import DAMAGE, open_regular
from vitrail.tensor_header import MAX_TENSORS

MAX_EXPANSION = 20
"""Of a compressed .npz; weights hardly compress."""
MAX_PICKLE_BYTES = 32 << 20
"""Of the part of a torch file that names its tensors; those of the largest models have a few MB."""
_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_BLOCK = 1 << 20


def checked_members(file: Path) -> list[zipfile.ZipInfo]:
    """What is in an archive of weights.

    Raises:
        WeightsError: damaged, of two minds about its members, packed in another way than stored or deflated, with more
            members than a model has tensors, or far larger when it is unpacked.
    """
    try:
        with open_regular(file) as stream:
            _check_end(stream)
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
    except DAMAGE as error:
        raise WeightsError(f"{shown(file)}: a damaged archive.", got=shown(error)) from error
    size, expanded = file.stat().st_size, sum(member.file_size for member in members)
    if len(members) > MAX_TENSORS:
        raise WeightsError(f"{shown(file)}: has too many tensors.", got=len(members), expected=f"at most {MAX_TENSORS}")
    names = {member.filename for member in members}
    odd = next((m for m in members if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)), None)
    locked = next((m for m in members if m.flag_bits & 1), None)
    if len(names) < len(members) or odd or locked:
        got = "a name twice" if len(names) < len(members) else f"{shown((odd or locked).filename)}"  # type: ignore[union-attr]
        raise WeightsError(
            f"{shown(file)}: an archive as no library writes it.", got=got, expected="members stored or deflated"
        )
    is_torch = pickle_of(members) is not None
    if expanded > size * (1 if is_torch else MAX_EXPANSION) + _BLOCK:
        raise WeightsError(
            f"{shown(file)}: would grow far beyond its size when it is unpacked.",
            got=f"{size} bytes to {expanded}",
            expected="weights, which hardly compress",
        )
    return members


def pickle_of(members: list[zipfile.ZipInfo]) -> zipfile.ZipInfo | None:
    """The member of a torch file that names its tensors; None: the archive is no torch file."""
    return next((member for member in members if member.filename.endswith("data.pkl")), None)


def check_sums(file: Path, members: list[zipfile.ZipInfo]) -> None:
    """Compare the checksum of every stored member, which torch does not. Raises WeightsError."""
    with open_regular(file) as stream, zipfile.ZipFile(stream) as archive:
        for member in members:
            checksum = 0
            try:
                with archive.open(member) as part:
                    while block := part.read(_BLOCK):
                        checksum = zlib.crc32(block, checksum)
            except DAMAGE as error:
                raise WeightsError(f"{shown(file)}: damaged.", got=shown(error)) from error


def _check_end(stream: io.FileIO) -> None:
    """Raise ValueError unless the directory of an archive ends where its end begins."""
    size = stream.seek(0, 2)
    tail = _at(stream, max(size - 22, 0), 22)
    if tail[:4] != _END:
        raise ValueError("no end of the archive, or something behind it")
    length, start = struct.unpack_from("<II", tail, 12)
    end = size - 22
    locator = _at(stream, end - 20, 20) if end >= 20 else b""
    if locator[:4] == _LOCATOR_64:
        end = struct.unpack_from("<Q", locator, 8)[0]
        record = _at(stream, end, 56) if end <= size - 98 else b""
        if record[:4] != _END_64 or end + 56 != size - 42:
            raise ValueError("two ends that disagree")
        long_length, long_start = struct.unpack_from("<QQ", record, 40)
        if start not in (0xFFFFFFFF, long_start) or length not in (0xFFFFFFFF, long_length):
            raise ValueError("two ends that disagree")
        length, start = long_length, long_start
    if start + length != end:
        raise ValueError("a directory that is not where the archive's end says")


def _at(stream: io.FileIO, place: int, count: int) -> bytes:
    stream.seek(place)
    return stream.read(count)
