"""SPEC -> the shards of a set: which files there are, of which split. Local folders and patterns, and addresses."""

import glob
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vitrail.data.sources.index import few
from vitrail.data.sources.parquet import parquet_files
from vitrail.data.sources.split_names import named_splits, splits_of_file
from vitrail.data.sources.walk import files_below, files_in, folders_in, is_image
from vitrail.data.streaming.table import SPLITS, Shard, is_table
from vitrail.errors import DataError, shown

SCHEMES = ("s3", "gs", "hf", "https", "http", "memory")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MAX_SHARDS = 1_000_000


def scheme_of(spec: str) -> str | None:
    """The scheme of an address, as s3; None for a path."""
    found = _ADDRESS.fullmatch(spec)
    return found[1] if found else None


def printable(address: str) -> str:
    """An address without what may be a password or a key: user, query and fragment."""
    found = _ADDRESS.fullmatch(address)
    if not found:
        return shown(address)
    host, slash, path = re.split(r"[?#]", found[2], maxsplit=1)[0].partition("/")
    return shown(f"{found[1]}://{host.rpartition('@')[2]}{slash}{path}")


def check_address(address: str) -> None:
    """Raise DataError for an address of an unknown scheme, or one that carries a credential."""
    found = _ADDRESS.fullmatch(address)
    if found is None or found[1] not in SCHEMES:
        raise DataError(
            f"{printable(address)}: such addresses are not read.",
            expected=f"a path, or one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}",
        )
    host = found[2].partition("/")[0]
    if "@" in host and found[1] != "hf":
        raise _carries(address, "a user")
    if found[1] in ("http", "https") and re.search(r"[?#]", found[2]):
        raise _carries(address, "a query string")


def _carries(address: str, what: str) -> DataError:
    return DataError(
        f"{printable(address)}: an address with {what} is not taken: it would be written into the run's settings.",
        do="Use s3:// or gs:// with the credentials of your environment, or a path that a file system is mounted at.",
    )


def expanded(pattern: str) -> list[str]:
    """`a-{00..02}.tar` and `{train,val}.tar` as the names they stand for. Raises DataError for too many."""
    names, done = [pattern], False
    while not done:
        done = True
        found: list[str] = []
        for name in names:
            matched = _BRACES.search(name)
            if matched is None:
                found.append(name)
                continue
            done = False
            inner = _RANGE.fullmatch(matched[1])
            words: Iterable[str] = matched[1].split(",")
            if inner:
                width, first, last = len(inner[1]), int(inner[1]), int(inner[2])
                words = (f"{number:0{width}}" for number in range(first, last + 1))
            found += [f"{name[: matched.start()]}{word}{name[matched.end() :]}" for word in _few_enough(words, pattern)]
            if len(found) > _MAX_SHARDS:
                raise _too_many(pattern)
        names = found
    return names


def _few_enough(words: Iterable[str], pattern: str) -> list[str]:
    some = list(itertools.islice(words, _MAX_SHARDS + 1))
    if len(some) > _MAX_SHARDS:
        raise _too_many(pattern)
    return some


def _too_many(pattern: str) -> DataError:
    return DataError(f"{printable(pattern)}: too many shards.", expected=f"at most {_MAX_SHARDS}")


def is_pattern(spec: str) -> bool:
    """Whether a SPEC stands for several files by braces, or `*`, `?` and `[`."""
    return bool(_BRACES.search(spec)) or glob.has_magic(spec)


def tar_files(folder: Path) -> list[Path]:
    """The tars of a folder that holds nothing but these, or folders named as splits that do; empty where it is none.

    Raises:
        DataError: there are folders with images beside the tars.
    """
    folders = [inner for inner in folders_in(folder) if not is_table(inner)]
    if tars := _tars_in(folder, folders):
        return [] if folders else tars
    splits = [inner for inner in folders if named_splits(inner.name)[0]]
    return [tar for inner in splits for tar in _tars_in(inner, folders_in(inner))]


def _tars_in(folder: Path, folders: Sequence[Path]) -> list[Path]:
    """The tars directly in a folder, which also has some folders. Raises DataError where there are images in these."""
    tars = [path for path in files_in(folder) if path.suffix.lower() == ".tar"]
    image = next(filter(is_image, itertools.chain.from_iterable(map(files_below, folders))), None) if tars else None
    if image is not None:
        raise DataError(
            f"{shown(folder)}: has shards and folders of images.",
            got=f"{few([tar.name for tar in tars])}; {shown(image.relative_to(folder))}",
            expected="one of the two",
            do="Move the tars into a folder of their own, and name that one, or the one with the images.",
        )
    return tars


def local_shards(spec: str) -> tuple[Path, list[Shard]]:
    """The folder that a local SPEC is about, and its shards in order.

    Args:
        spec: a folder of tars or Parquet files, one of these, or a pattern of them.
    Raises:
        DataError: there are none, one of a brace list is missing, or a split cannot be told.
    """
    path = Path(os.path.expanduser(spec))
    if path.is_dir():
        root, files = path, tar_files(path) or parquet_files(path)
    elif is_pattern(spec) and not path.exists():
        names = expanded(os.path.expanduser(spec))
        files = [Path(found) for name in names for found in (sorted(glob.glob(name)) or [name])]
        root = Path(fixed_part(os.path.expanduser(spec)))
    else:
        root, files = path.parent, [path]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise DataError(
            f"{shown(spec)}: {'shards are missing' if files else 'no tars and no Parquet files are here'}.",
            got=few(missing) if files else None,
            expected="files that are there" if files else "shards: only these are indexed, streamed and simulated",
            do=None if files else "docs/data.md, Shards, says how a folder of images is written as tars.",
        )
    files = [file for file in dict.fromkeys(files)]
    check_kind([file.name for file in files], spec)
    root = Path(os.path.abspath(root))
    shards = [
        Shard(Path(os.path.abspath(f)).relative_to(root).as_posix(), "", (s := f.stat()).st_size, str(s.st_mtime_ns))
        for f in files
    ]
    return root, with_splits(shards, spec)


def fixed_part(pattern: str) -> str:
    """The folder, or address, below which everything is that a pattern stands for."""
    magic = re.search(r"[*?\[{]", pattern)
    return pattern[: magic.start() if magic else len(pattern)].rpartition("/")[0] or (
        "/" if pattern[:1] == "/" else "."
    )


def check_kind(names: Sequence[str], spec: str) -> None:
    """Raise DataError for files that are no plain tars and no Parquet files, or both, by their names."""
    kinds = {name.lower().rpartition(".")[2] for name in names}
    if kinds == {"parquet"}:
        return
    for name in names:
        if re.search(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)$", name.lower()):
            raise DataError(
                f"{shown(name)}: a compressed tar has no places from which single images can be read.",
                do=f"Unpack the compression: gunzip {shown(name)}",
            )
        if not name.lower().endswith(".tar"):
            raise DataError(
                f"{printable(spec)}: not a set of shards.", got=shown(name), expected="files named .tar, or .parquet"
            )


def with_splits(shards: Sequence[Shard], spec: str) -> list[Shard]:
    """The same with their splits, in the order of splits and names; where no name says one, all are "train".

    Raises:
        DataError: a name means several splits, or only some names mean one.
    """
    found = {shard.name: splits_of_file(PurePosixPath(shard.name)) for shard in shards}
    unclear = next((name for name, splits in found.items() if len(splits) > 1), None)
    unnamed = [name for name, splits in found.items() if not splits]
    if unclear or (unnamed and len(unnamed) < len(found)):
        raise DataError(
            f"{printable(spec)}: the split of {shown(unclear or unnamed[0])} cannot be told from its name.",
            expected="train, validation or test in the name of each file or of its folder",
            do="Rename it, or give the shards of one split alone.",
        )
    known = [replace(shard, split=next(iter(found[shard.name]), "train")) for shard in shards]
    return sorted(known, key=lambda shard: (SPLITS.index(shard.split), shard.name))
