"""Shards of images: tar files in the form of WebDataset, here or behind an address, and Parquet files."""

import glob
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from vitrail.batch_prediction.units import UNIT_ROWS, Record, Unit, as_text, sha256_of
from vitrail.data import Limits
from vitrail.data.sources.columns import Columns
from vitrail.data.sources.parquet import read_rows, row_groups
from vitrail.data.sources.walk import IMAGE_SUFFIXES, is_visible
from vitrail.data.streaming.http_objects import HttpObjects
from vitrail.data.streaming.places import scheme_of
from vitrail.data.streaming.remote import Patience, Unreachable
from vitrail.data.streaming.table import Shard
from vitrail.errors import DataError, ImageError, install_hint, shown
from vitrail.reading import open_regular

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 1_000_000
_BLOCK_BYTES = 1 << 20
_PATIENCE = Patience()


@dataclass(frozen=True)
class _Tar:
    """A tar file: its name without what may be secret in an address, size, version, and how to open it."""

    name: str
    num_bytes: int
    version: str
    open: Callable[[], IO[bytes]]


def is_remote(word: str) -> bool:
    """Whether a word is an address."""
    return "://" in word


def is_pattern(word: str) -> bool:
    """Whether a word stands for several shards."""
    return (glob.has_magic(word) or bool(_RANGE.search(word))) and not os.path.lexists(word)


def shards_of(pattern: str) -> list[Path]:
    """The files of a pattern, sorted. Raises DataError: there is none."""
    found = sorted({Path(path) for one in _ranges(pattern) for path in glob.glob(one, recursive=True)})
    if not found:
        raise DataError(
            f"{shown(pattern)}: no file is called like this.", expected="a pattern of .tar or .parquet files"
        )
    return found


def tar_units(files: Iterable[tuple[str, Path]]) -> list[Unit]:
    """A unit for each tar file, given with its name."""
    units: list[Unit] = []
    for name, path in files:
        status = path.stat()
        units.append(_tar_unit(_Tar(name, status.st_size, str(status.st_mtime_ns), partial(_opened, path))))
    return units


def remote_units(address: str) -> list[Unit]:
    """A unit for each tar file at an address, a pattern or a folder of addresses. Raises DataError."""
    try:
        import fsspec
    except ImportError as error:
        raise DataError(f"{_public(address)}: needs fsspec.", do=install_hint("fsspec")) from error
    try:
        urls = [url for one in _ranges(address) for url in _listed(fsspec, one)]
        with ThreadPoolExecutor(16) as pool:
            tars = list(pool.map(partial(_remote_tar, fsspec), urls))
    except DataError:
        raise
    except Exception as error:  # each file system has errors of its own
        missing = re.search(r"[Ii]nstall (\w+)", str(error)) if isinstance(error, ImportError) else None
        raise DataError(
            f"{_public(address)}: cannot be read.",
            got=_public(f"{type(error).__name__}: {error}"),
            do=install_hint(missing[1]) if missing else None,
        ) from error
    if not tars:
        raise DataError(f"{_public(address)}: there are no .tar files.", expected="an address or pattern of tar files")
    return [_tar_unit(tar) for tar in tars]


class _Pieces(io.RawIOBase):
    """A file of pieces of bytes, to be read from first to last."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def parquet_units(files: Iterable[tuple[str, Path]]) -> list[Unit]:
    """Runs of whole row groups, each of at least `UNIT_ROWS` rows where the file has them. Raises DataError."""
    units: list[Unit] = []
    for name, path in files:
        columns, counts = row_groups(path)
        status = path.stat()
        first = stop = 0
        for place, count in enumerate(counts):
            stop += count
            if stop - first < UNIT_ROWS and place < len(counts) - 1:
                continue

            identity = sha256_of("parquet", name, status.st_size, status.st_mtime_ns, first, stop)
            share = round(status.st_size * (stop - first) / max(1, sum(counts)))
            records = partial(_rows, path, columns, name, first, stop)
            units.append(Unit(as_text(name), identity, stop - first, share, records))
            first = stop
    return units


def _rows(path: Path, columns: Columns, name: str, first: int, stop: int) -> Iterator[Record]:
    for row, image in enumerate(read_rows(path, columns, np.arange(first, stop)), first):
        yield Record(as_text(f"{name}:{row}"), row, image)


def _opened(path: Path) -> IO[bytes]:
    return io.BufferedReader(open_regular(path))


def _tar_unit(tar: _Tar) -> Unit:
    identity = sha256_of("tar", tar.name, tar.num_bytes, tar.version)
    return Unit(as_text(tar.name), identity, None, tar.num_bytes, lambda: _records(tar))


def _records(tar: _Tar) -> Iterator[Record]:
    """The samples of a tar file: runs of members with one key, the path up to the first dot of the name."""
    row, key, members = 0, "", list[tuple[str, str, bytes | ImageError]]()
    try:
        with tar.open() as file, tarfile.open(fileobj=file, mode="r|", bufsize=_BLOCK_BYTES) as archive:
            for member in archive:
                folder, slash, base = member.name.rpartition("/")
                if not member.isfile() or not is_visible(base):
                    continue
                stem, _, ending = base.partition(".")
                if members and folder + slash + stem != key:
                    for record in _sample(key, row, members):
                        yield record
                        row += 1
                    members = []
                key = folder + slash + stem
                room = Limits().max_bytes - sum(len(one) for _, _, one in members if isinstance(one, bytes))
                members.append((member.name, ending, _content(archive, member, ending, room)))
            if members:
                yield from _sample(key, row, members)
    except DataError:
        raise
    except Exception as error:  # a file system behind an address has errors of its own
        if is_remote(tar.name) and not isinstance(error, (tarfile.TarError, ValueError, EOFError)):
            raise Unreachable(
                f"{shown(tar.name)}: could not be read.",
                got=_public(f"{type(error).__name__}: {error}"),
                do="Check the connection and try again.",
            ) from error
        raise DataError(
            f"{shown(tar.name)}: not a readable tar file.",
            got=_public(str(error) or type(error).__name__),
            expected="a whole, uncompressed .tar",
            do="Copy or make it again.",
        ) from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, room: int) -> bytes | ImageError:
    """The bytes of an image, if there is room for them in its sample; of what is no image only its ending counts."""
    if ending and _suffix(ending) not in IMAGE_SUFFIXES:
        return b""
    if member.size > room:
        return ImageError(f"the images of a sample have more than {Limits().max_bytes} bytes", member.name)
    file = archive.extractfile(member)
    return file.read() if file else b""


def _sample(key: str, row: int, members: Sequence[tuple[str, str, bytes | ImageError]]) -> Iterator[Record]:
    """The image of a sample; all of them where it has several; a reason where it has none."""
    images = [one for one in members if not one[1] or _suffix(one[1]) in IMAGE_SUFFIXES]
    images = [one for one in images if "." not in one[1]] or images  # seg.png is no image where there is a jpg
    if not images:
        endings = ", ".join(f".{ending}" for _, ending, _ in members[:5])
        yield Record(as_text(key), row, ImageError(f"no image in this sample, only {shown(endings)}", key))
    for place, (name, _, content) in enumerate(images):
        yield Record(as_text(key if len(images) == 1 else name), row + place, content)


def _suffix(ending: str) -> str:
    return f".{ending.rpartition('.')[2].lower()}"


def _ranges(pattern: str) -> list[str]:
    """A pattern with {000..012} written out. Raises DataError: too many."""
    found = _RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MOST_SHARDS:
        got = f"{last - first + 1} of them"
        raise DataError(f"{_public(pattern)}: no range of shards.", got=got, expected=f"1 to {_MOST_SHARDS}")
    numbers = (str(number).zfill(len(found[1])) for number in range(first, last + 1))
    return [one for number in numbers for one in _ranges(pattern[: found.start()] + number + pattern[found.end() :])]


def _listed(fsspec: Any, address: str) -> list[str]:
    if not address.endswith("/") and not glob.has_magic(address.partition("?")[0]):
        return [address]
    system, path = fsspec.core.url_to_fs(address)
    found = system.glob(path.rstrip("/") + "/*.tar" if address.endswith("/") else path)
    return sorted(system.unstrip_protocol(one) for one in found)


def _remote_tar(fsspec: Any, url: str) -> _Tar:
    if scheme_of(url) in ("http", "https") and not re.search(r"[?#@]", url):  # the others may be signed
        place, _, name = url.rpartition("/")
        server = HttpObjects(place, _PATIENCE)
        shard = Shard(name, "", *server.about(name))
        return _Tar(url, shard.size, shard.tag, lambda: io.BufferedReader(_Pieces(server.stream(shard)), _BLOCK_BYTES))
    system, path = fsspec.core.url_to_fs(url)
    known = system.info(path)
    versions = [str(known[name]) for name in ("ETag", "etag", "md5Hash", "LastModified", "mtime") if known.get(name)]
    return _Tar(
        _public(url), int(known.get("size") or 0), versions[0] if versions else "", partial(system.open, path, "rb")
    )


def _public(text: str) -> str:
    """An address, or a message with one, without its query: that may hold a signature."""
    return shown(re.sub(r"\?[^\s=]*=\S*", "", text))
