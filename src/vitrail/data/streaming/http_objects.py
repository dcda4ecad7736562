"""Ranges of files of a web server, by the standard library.

Not by fsspec: whether a range is whole and of the same object is in the status, Content-Range and ETag of each answer,
which fsspec does not show, and its http needs aiohttp and an event loop in a thread of its own.

Source: RFC 9110, sections 13 (conditional requests) and 14 (ranges).
"""

import contextlib
import http.client
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from vitrail.data.streaming.places import expanded, printable
from vitrail.data.streaming.remote import Objects, Passing, not_readable, replaced
from vitrail.data.streaming.table import Shard
from vitrail.errors import DataError, shown

_PIECE = 1 << 18
_REQUEST_TIMEOUT, _TOO_MANY = 408, 429
_NOT_MET, _NO_SUCH_RANGE = 412, 416


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
                raise not_readable(f"{self.place}/{name}", "an answer that does not say how long the file is")
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

    def stream(self, shard: Shard) -> Iterator[bytes]:
        """The bytes of a file from first to last, in pieces; one request, until a body breaks off and is continued.

        Raises:
            DataError: as `fetch`.
        """
        address, at, tries, began = f"{self.place}/{shard.name}", 0, 0, time.monotonic()
        while at < shard.size:
            before = at
            try:
                for piece in self._body(shard, at, shard.size):
                    at += len(piece)
                    yield piece
                if at < shard.size:
                    raise Passing(f"the body ended after {at} of {shard.size} bytes")
            except FileNotFoundError as error:
                raise replaced(address, "no such object") from error
            except Passing as error:
                if at > before:
                    tries, began = 0, time.monotonic()
                tries += 1
                self._pause(address, error, tries, began, began, Future[None]())

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
                    raise not_readable(address, "an answer that is compressed")
                yield answer
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                self._raise_for(error, address)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise not_readable(address, "a certificate that is not valid") from error
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
        raise not_readable(address, f"HTTP status {error.code}") from error


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
