"""Object stores by fsspec, which knows their credentials; and which shards an address stands for."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vitrail.data.streaming.http_objects import HttpObjects
from vitrail.data.streaming.places import (
    check_address,
    check_kind,
    expanded,
    fixed_part,
    is_pattern,
    printable,
    scheme_of,
)
from vitrail.data.streaming.remote import Objects, Passing, Patience, not_readable, replaced
from vitrail.data.streaming.table import Shard
from vitrail.errors import ConfigError, DataError, install_hint, shown

_TAGS = ("ETag", "etag", "generation", "blob_id", "oid", "md5Hash", "LastModified", "mtime", "created")
"""What file systems of fsspec call that which changes with an object; the first one found."""
_URL = re.compile(r"[a-z0-9+]+://\S+")


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
            raise not_readable(address, f"no access ({_without_urls(error)})") from error
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
        spec: a tar or Parquet file, a pattern of these, or (but for web servers) a folder of them.
        patience: how long to try.
    Raises:
        DataError: there are none, or one of a list is missing.
    """
    check_address(spec)
    is_one = is_pattern(spec) or spec.lower().endswith((".tar", ".parquet"))
    patterns = [spec] if is_one else [f"{spec.rstrip('/')}/{name}" for name in ("*.tar", "**/*.parquet")]
    objects = objects_at(fixed_part(patterns[0]), patience)
    each = (objects.names(pattern.removeprefix(f"{objects.place}/")) for pattern in patterns)
    names = next(filter(None, each), [])
    check_kind(names or ["no.tar"], spec)

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
            f"{printable(spec)}: {'shards are missing' if missing else 'there are no shards'}.",
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
