"""Bytes of remote shards: ranges asked for again until they are whole, the same object all the time.

http and https go through the standard library, not through fsspec: whether a range is whole and of the same object is
in the status, Content-Range and ETag of each answer, which fsspec does not show, and its http needs aiohttp and an
event loop in a thread. Object stores (s3, gs, hf) go through fsspec, which knows their credentials.
"""

import contextlib
import http.client
import random
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vitrail.data.streaming.places import check_address, expanded, fixed_part, is_pattern, printable, scheme_of
from vitrail.data.streaming.table import Shard
from vitrail.errors import ConfigError, DataError, install_hint, shown

_PIECE = 1 << 18
_TAGS = ("ETag", "etag", "generation", "blob_id", "oid", "md5Hash", "LastModified", "mtime", "created")
"""What file systems of fsspec call that which changes with an object; the first one found."""
_URL = re.compile(r"[a-z0-9+]+://\S+")
_REQUEST_TIMEOUT, _TOO_MANY = 408, 429
_NOT_MET, _NO_SUCH_RANGE = 412, 416


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Args:
        tries: without a byte in between, after which it is given up.
        first_s: longest pause after the first failure; it doubles with each one more. The pause is drawn from 0 on.
        longest_s: longest pause.
        timeout_s: without a byte, after which a connection is given up.
        deadline_s: of a range, all tries together.
    """

    tries: int = 8
    first_s: float = 0.1
    longest_s: float = 15.0
    timeout_s: float = 30.0
    deadline_s: float = 900.0


class Passing(Exception):
    """A failure that may pass; `after_s`: not to be tried before."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Budget:
    """A bound on bytes that are on the way, for all threads together; a larger piece than all of it goes alone."""

    def __init__(self, num_bytes: int) -> None:
        self._limit, self._held, self._changed = num_bytes, 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, num_bytes: int) -> Iterator[None]:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + num_bytes <= self._limit)
            self._held += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._held -= num_bytes
                self._changed.notify_all()


class Objects(ABC):
    """The objects below an address.

    Args:
        place: the address.
        patience: how long to try.
        requests: that are on their way at once.
        bytes_in_flight: of all of them.
    """

    def __init__(
        self, place: str, patience: Patience | None = None, requests: int = 16, bytes_in_flight: int = 256 << 20
    ) -> None:
        check_address(place)
        self.place, self.patience = place.rstrip("/"), patience or Patience()
        self._requests, self._budget = threading.BoundedSemaphore(requests), Budget(bytes_in_flight)
        self.num_retries = 0

    @abstractmethod
    def names(self, pattern: str) -> list[str]:
        """Names, relative to the place, of the objects that a pattern below it may stand for; not all need exist."""

    @abstractmethod
    def _about(self, name: str) -> tuple[int, str]:
        """Size and tag; one attempt. Raises Passing, DataError, FileNotFoundError."""

    @abstractmethod
    def _body(self, shard: Shard, start: int, stop: int) -> Iterator[bytes]:
        """The bytes of a range, in pieces; one attempt. Raises Passing, or DataError for what will not pass."""

    def about(self, name: str) -> tuple[int, str]:
        """Size in bytes, and the tag that changes with the object. Raises FileNotFoundError, DataError."""
        tries, began = 0, time.monotonic()
        while True:
            try:
                with self._requests:
                    return self._about(name)
            except Passing as error:
                tries += 1
                self._pause(f"{self.place}/{name}", error, tries, began)

    def fetch(self, shard: Shard, offset: int, length: int) -> bytes:
        """Bytes of an object, exactly as many as asked for.

        Raises:
            DataError: it could not be had, or the object is no longer the one that was indexed.
        """
        whole, tries, began = bytearray(), 0, time.monotonic()
        address = f"{self.place}/{shard.name}"
        with self._budget.taken(length), self._requests:
            while len(whole) < length:
                before = len(whole)
                try:
                    for piece in self._body(shard, offset + before, offset + length):
                        whole += piece[: length - len(whole)]
                        if time.monotonic() - began > self.patience.deadline_s:
                            break
                    if len(whole) < length:
                        raise Passing(f"the body ended after {len(whole)} of {length} bytes")
                except FileNotFoundError as error:
                    raise replaced(address, "no such object") from error
                except Passing as error:
                    tries = 1 if len(whole) > before else tries + 1
                    self._pause(address, error, tries, began)
        return bytes(whole)

    def _pause(self, address: str, error: Passing, tries: int, began: float) -> None:
        """Wait before the next attempt. Raises DataError where there is none."""
        patience = self.patience
        longest = min(patience.longest_s, patience.first_s * 2 ** (tries - 1))
        pause = max(random.uniform(0, longest), error.after_s)
        passed = time.monotonic() - began
        if tries >= patience.tries or passed + pause > patience.deadline_s:
            raise DataError(
                f"{printable(address)}: could not be read.",
                got=f"{error}, after {tries} tries in {passed:.0f} s",
                do="Check the connection and try again; what was fetched is kept.",
            ) from error
        self.num_retries += 1
        time.sleep(pause)


def replaced(address: str, got: str) -> DataError:
    """The error for an object that is another one than was indexed."""
    return DataError(
        f"{printable(address)}: the object was replaced after it was indexed.",
        got=got,
        expected="the same object during the whole run",
        do="Index the data again, and start again: vitrail data index SOURCE -o DIR.",
    )


def _fatal(address: str, got: str) -> DataError:
    return DataError(f"{printable(address)}: could not be read.", got=got, do="Check the address and your access.")


# ---- http --------------------------------------------------------------------------------------------------------


class HttpObjects(Objects):
    """Files of a web server."""

    def names(self, pattern: str) -> list[str]:
        if re.search(r"[*?\[]", pattern):
            raise DataError(
                f"{printable(self.place)}: a web server does not list its files.",
                expected="a list in braces, as shard-{00000..00099}.tar",
            )
        return expanded(pattern)

    def _about(self, name: str) -> tuple[int, str]:
        with self._answer(name, 0, 1, "") as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = total if answer.status == 206 else answer.headers.get("Content-Length", "")
            if not re.fullmatch(r"\d{1,18}", size):
                raise _fatal(f"{self.place}/{name}", "an answer that does not say how long the file is")
            return int(size), _tag(answer.headers)

    def _body(self, shard: Shard, start: int, stop: int) -> Iterator[bytes]:
        address = f"{self.place}/{shard.name}"
        with self._answer(shard.name, start, stop, shard.tag) as answer:
            tag = _tag(answer.headers)
            if tag and shard.tag and tag != shard.tag:
                raise replaced(address, "another ETag or time of last change")
            skip = _before_range(answer, start, shard, address)
            while piece := _read(answer, min(_PIECE, skip + stop - start)):
                kept = piece[skip:]
                skip -= len(piece) - len(kept)
                start += len(kept)
                yield kept
                if start >= stop:
                    break

    @contextlib.contextmanager
    def _answer(self, name: str, start: int, stop: int, tag: str) -> Iterator[http.client.HTTPResponse]:
        address = f"{self.place}/{name}"
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if tag.startswith('"'):  # a weak one, W/"...", never meets the condition
            headers["If-Match"] = tag
        request = urllib.request.Request(urllib.parse.quote(address, safe="/:%~!$&'()*+,;=@"), headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=self.patience.timeout_s) as answer:
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise _fatal(address, "an answer that is compressed")
                yield answer
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                self._raise_for(error, address)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise _fatal(address, "a certificate that is not valid") from error
            raise Passing(shown(error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise Passing(shown(str(error) or type(error).__name__)) from error

    def _raise_for(self, error: urllib.error.HTTPError, address: str) -> None:
        if error.code in (_NOT_MET, _NO_SUCH_RANGE):
            raise replaced(address, f"HTTP status {error.code}") from error
        if error.code in (_REQUEST_TIMEOUT, _TOO_MANY) or error.code >= 500:
            after = error.headers.get("Retry-After", "") if error.headers else ""
            seconds = min(float(after), self.patience.longest_s) if re.fullmatch(r"\d{1,6}", after) else 0.0
            raise Passing(f"HTTP status {error.code}", seconds) from error
        if error.code == 404:
            raise FileNotFoundError(address) from error
        raise _fatal(address, f"HTTP status {error.code}") from error


def _read(answer: http.client.HTTPResponse, most: int) -> bytes:
    """Some bytes of a body, as they come; none at its end."""
    return answer.read1(most)


def _before_range(answer: http.client.HTTPResponse, start: int, shard: Shard, address: str) -> int:
    """Bytes of the body before those that were asked for: a server may answer with the whole file."""
    if answer.status == 200:
        length = answer.headers.get("Content-Length", str(shard.size))
        if length != str(shard.size):
            raise replaced(address, f"{shown(length)} bytes where {shard.size} were")
        return start
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", answer.headers.get("Content-Range", ""))
    if answer.status != 206 or not found:
        raise Passing(f"HTTP status {answer.status} without a range")
    if found[3] not in ("*", str(shard.size)):
        raise replaced(address, f"{found[3]} bytes where {shard.size} were")
    if int(found[1]) != start:
        raise Passing(f"a range from {found[1]} where {start} was asked for")
    return 0


def _tag(headers: Any) -> str:
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")


# ---- object stores -----------------------------------------------------------------------------------------------


class FsspecObjects(Objects):
    """Objects of a store that fsspec knows, with the credentials of the environment."""

    def __init__(self, place: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(place, *args, **kwargs)
        scheme = str(scheme_of(place))
        try:
            import fsspec

            self._fs: Any = fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            package = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}.get(scheme)
            raise ConfigError(
                f"{scheme}:// needs {'fsspec' if error.name == 'fsspec' else package or error.name}.",
                do=install_hint("fsspec", *([package] if package else [])),
            ) from error
        self._root = str(self._fs._strip_protocol(self.place)).rstrip("/")
        self._same: set[str] = set()

    def names(self, pattern: str) -> list[str]:
        found: list[str] = []
        for name in expanded(pattern):
            if re.search(r"[*?\[]", name):
                with self._explained(f"{self.place}/{name}"):
                    paths = sorted(map(str, self._fs.glob(f"{self._root}/{name}")))
                found += [path.removeprefix(f"{self._root}/") for path in paths]
            else:
                found.append(name)
        return list(dict.fromkeys(found))

    def _about(self, name: str) -> tuple[int, str]:
        with self._explained(f"{self.place}/{name}"):
            about = self._fs.info(f"{self._root}/{name}")
        return int(about["size"]), next((str(about[key]) for key in _TAGS if about.get(key)), "")

    def _body(self, shard: Shard, start: int, stop: int) -> Iterator[bytes]:
        address = f"{self.place}/{shard.name}"
        if shard.name not in self._same:  # once for each process; what changes later has other digests
            if self._about(shard.name) != (shard.size, shard.tag):
                raise replaced(address, "another size or ETag")
            self._same.add(shard.name)
        with self._explained(address):
            yield bytes(self._fs.cat_file(f"{self._root}/{shard.name}", start=start, end=stop))

    @contextlib.contextmanager
    def _explained(self, address: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, DataError, Passing, GeneratorExit):
            raise
        except PermissionError as error:
            raise _fatal(address, f"no access ({_without_urls(error)})") from error
        except Exception as error:  # each store has errors of its own
            raise Passing(f"{type(error).__name__}: {_without_urls(error)}") from error


def _without_urls(error: Exception) -> str:
    """The first line of a message; addresses in it may be signed."""
    line = (str(error).splitlines() or [""])[0]
    return shown(_URL.sub(lambda found: printable(found[0]), line), 200)


# ---- sets of shards ----------------------------------------------------------------------------------------------


def objects_at(place: str, patience: Patience | None = None) -> Objects:
    """What reads below an address. Raises ConfigError where a package is missing."""
    return (HttpObjects if scheme_of(place) in ("http", "https") else FsspecObjects)(place, patience)


def remote_shards(spec: str, patience: Patience | None = None) -> tuple[Objects, list[Shard]]:
    """The shards that an address stands for, without their splits.

    Args:
        spec: a tar, a pattern of tars, or (but for web servers) a folder of tars.
        patience: how long to try.
    Raises:
        DataError: there are none, or one of a list is missing.
    """
    check_address(spec)
    pattern = spec if is_pattern(spec) or spec.lower().endswith(".tar") else f"{spec.rstrip('/')}/*.tar"
    objects = objects_at(fixed_part(pattern), patience)
    names = objects.names(pattern.removeprefix(f"{objects.place}/"))

    def look(name: str) -> tuple[int, str] | None:
        try:
            return objects.about(name)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(16) as pool:
        found: Sequence[tuple[int, str] | None] = list(pool.map(look, names))
    missing = [name for name, about in zip(names, found, strict=True) if about is None]
    if missing or not names:
        raise DataError(
            f"{printable(spec)}: {'shards are missing' if missing else 'there are no tars'}.",
            got=", ".join(shown(name, 80) for name in missing[:5]) or None,
            expected="shards that are there",
        )
    return objects, [Shard(name, "", *about) for name, about in zip(names, found, strict=True) if about]


def text_at(objects: Objects, name: str, most: int) -> bytes | None:
    """A small file beside the shards; None where there is none. Raises DataError."""
    try:
        size, tag = objects.about(name)
    except (FileNotFoundError, DataError):
        return None
    if size > most:
        raise DataError(f"{printable(objects.place)}/{shown(name)}: too long.", got=size, expected=f"at most {most}")
    return objects.fetch(Shard(name, "", size, tag), 0, size)
