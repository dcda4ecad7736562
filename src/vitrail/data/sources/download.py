"""Fetch the official files of named data sets: verified, resumed after a break, never half there.

A file gets its final name only when its SHA-256 is right. What has arrived of it before waits beside it as
`.NAME.part` and is continued by the next attempt, in this run or a later one.
"""

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitrail import fsio
from vitrail.errors import DataError
from vitrail.locations import data_root
from vitrail.progress import Bar
from vitrail.reading import open_regular


@dataclass(frozen=True)
class Archive:
    """One official file. The SHA-256 is of the whole file, in hexadecimal."""

    file: str
    url: str
    num_bytes: int
    sha256: str


_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_FASHION = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"


def _archive(base: str, file: str, num_bytes: int, sha256: str) -> Archive:
    return Archive(file, base + file, num_bytes, sha256)


# fmt: off
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "cifar10": (
        _archive(_CIFAR, "cifar-10-python.tar.gz", 170498071,
                 "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    ),
    "cifar100": (
        _archive(_CIFAR, "cifar-100-python.tar.gz", 169001437,
                 "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"),
    ),
    "fashion-mnist": (
        _archive(_FASHION, "train-images-idx3-ubyte.gz", 26421880,
                 "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        _archive(_FASHION, "train-labels-idx1-ubyte.gz", 29515,
                 "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        _archive(_FASHION, "t10k-images-idx3-ubyte.gz", 4422102,
                 "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        _archive(_FASHION, "t10k-labels-idx1-ubyte.gz", 5148,
                 "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
}
# fmt: on

_ATTEMPTS = 4
_TIMEOUT_S = 30.0
_PAUSE_S = 1.0
_CHUNK_BYTES = 1 << 18
# A client's mistake stays one however often it is repeated; these may pass.
_NO_SUCH_RANGE = 416
_PASSING = {408, _NO_SUCH_RANGE, 425, 429, 500, 502, 503, 504}


def download(name: str, root: Path | None = None, *, progress: bool = False) -> Path:
    """Fetch the official files of a named data set that are not there yet.

    Args:
        name: "cifar10", "cifar100" or "fashion-mnist".
        root: data sets' folder; None: VITRAIL_DATA, else the user's cache folder.
        progress: show a bar on stderr.
    Returns:
        The folder root/name that now holds the files.
    Raises:
        DataError: there is no such set, no connection, or what arrives has a wrong checksum.
        SaveError: the files cannot be written.
    """
    if name not in ARCHIVES:
        raise DataError(
            f"{name!r} cannot be downloaded.", expected=f"one of {', '.join(ARCHIVES)} (digits need no download)"
        )
    folder = data_root(root) / name
    for archive in ARCHIVES[name]:
        fetch(archive, folder / archive.file, progress=progress)
    return folder


def fetch(archive: Archive, target: Path, *, progress: bool = False) -> None:
    """Bring one file to `target`, verified; a file that is there and right is left alone.

    Raises:
        DataError: no connection, an answer other than the file, or a wrong checksum.
        SaveError: it cannot be written.
    """
    if target.is_file() and _sha256(target) == archive.sha256:
        return
    part = target.with_name(f".{target.name}.part")
    if part.is_symlink() or (part.exists() and not part.is_file()):  # what arrives would be appended elsewhere
        raise DataError(
            f"{part}: what has arrived of a download is a regular file.",
            got="a link" if part.is_symlink() else "something else",
            do="Delete it and try again.",
        )
    began_earlier = part.exists()
    _complete(archive, part, target, progress=progress)
    found = _sha256(part)
    if found == archive.sha256:
        fsio.rename_file(part, target)
        return
    fsio.remove(part)
    if began_earlier:  # the part may be of another file; once from the beginning
        fetch(archive, target, progress=progress)
        return
    raise DataError(
        f"{archive.url}: what arrived is not the official file.",
        got=f"SHA-256 {found}",
        expected=archive.sha256,
        do=f"Try again, or put the right file at {target} yourself.",
    )


def _complete(archive: Archive, part: Path, target: Path, *, progress: bool) -> None:
    """Try until the partial file has its full length; give up after a few passing failures or a final one."""
    for attempt in range(_ATTEMPTS):
        try:
            _continue(archive, part, progress=progress)
            return
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            code = error.code if isinstance(error, urllib.error.HTTPError) else None
            final = code is not None and code not in _PASSING
            if code == _NO_SUCH_RANGE:  # what has arrived is longer than the server's file: not a part of it
                fsio.remove(part)
            if final or attempt + 1 == _ATTEMPTS:
                raise DataError(
                    f"{archive.url} could not be downloaded.",
                    got=_reason(error),
                    expected=f"{archive.num_bytes} bytes",
                    do=f"Check the connection and try again, or put the file at {target} yourself.",
                ) from error
            time.sleep(_PAUSE_S * 2**attempt)


def _continue(archive: Archive, part: Path, *, progress: bool) -> None:
    """Append what is missing to the partial file; a server that starts afresh is followed."""
    have = part.stat().st_size if part.exists() else 0
    if have == archive.num_bytes:
        return
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        resumes = have > 0 and answer.status == 206 and _starts_at(answer.headers.get("Content-Range", ""), have)
        if have and answer.status == 206 and not resumes:
            raise http.client.HTTPException(f"a part that was not asked for: {answer.headers['Content-Range']}")
        start = have if resumes else 0
        if not resumes:
            fsio.remove(part)
        with Bar(archive.num_bytes, unit="bytes", title=archive.file, done=start, enabled=progress) as bar:
            for chunk in _chunks(answer, archive.num_bytes - start):
                fsio.append_bytes(part, chunk)
                bar.advance(len(chunk))
    size = part.stat().st_size if part.exists() else 0
    if size < archive.num_bytes:
        raise ConnectionError(f"the connection ended after {size} of {archive.num_bytes} bytes")


def _chunks(answer: http.client.HTTPResponse, limit: int) -> Iterator[bytes]:
    """The body, up to one byte more than expected: enough to see that it is too long."""
    left = limit + 1
    while left > 0 and (chunk := answer.read(min(_CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk


def _starts_at(content_range: str, start: int) -> bool:
    return content_range.startswith(f"bytes {start}-")


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        with contextlib.closing(error):
            return f"HTTP status {error.code} ({error.reason})"
    return str(getattr(error, "reason", error))
