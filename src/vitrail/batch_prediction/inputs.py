"""SOURCE ... -> units: image files and folders, tar files, Parquet files, and whatever training can be given."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vitrail.batch_prediction.shards import is_pattern, is_remote, parquet_units, remote_units, shards_of, tar_units
from vitrail.batch_prediction.units import Inputs, Record, Unit, as_text, rows_a_unit, sha256_of
from vitrail.config import DataConfig
from vitrail.data import open_source
from vitrail.data.sources import NAMED_SETS, Split
from vitrail.data.sources.index import few, listing_of_paths
from vitrail.data.sources.packed import is_pack
from vitrail.data.sources.walk import files_below, is_image
from vitrail.data.streaming.opening import open_stream
from vitrail.data.streaming.table import is_table
from vitrail.errors import DataError, shown

_TABLES, _SHARDS = (".csv", ".tsv"), (".tar", ".parquet")


def find_units(words: Sequence[str], out: Path, *, split: str = "all", root: str = "") -> Inputs:
    """The units of one or several sources.

    Args:
        words: image files; folders of images, .tar or .parquet files; patterns and addresses of .tar files; a manifest;
            an index of shards; a named set or anything else that `open_source` knows.
        out: where the parts go; it may not lie in a source.
        split: of a data set that has splits: train, val, test, or all of them.
        root: where named sets are; empty: the default.
    Raises:
        DataError: there is no such source, or nothing in it.
    """
    units: list[Unit] = []
    notes: list[str] = []
    loose: list[str] = []
    for word in words:
        path = Path(os.path.expanduser(word))
        try:
            if is_remote(word):
                units += remote_units(word)
            elif path.is_dir() and not is_pack(path) and not is_table(path):
                if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(path)):
                    raise DataError(
                        f"-o {shown(out)} lies in {shown(word)}: the next call would take the parts for input.",
                        do="Write to a folder beside it.",
                    )
                units += _folder(path, word if len(words) > 1 else "", notes)
            elif word not in NAMED_SETS and is_pattern(word):
                units += _shards(shards_of(os.path.expanduser(word)), None, "")
            elif path.suffix.lower() in _SHARDS and path.is_file():
                units += _shards([path], path.parent, "")
            elif (path.is_file() or path.is_symlink()) and path.suffix.lower() not in _TABLES:
                loose.append(os.path.expanduser(word))
            elif not path.exists() and word not in NAMED_SETS and not word.startswith("hf:"):
                raise DataError(
                    f"{shown(word)}: there is no such file, folder or data set.",
                    expected="image files, or a folder of them; .tar or .parquet files; a .csv or .tsv file; or one of "
                    f"{', '.join(NAMED_SETS)}",
                    do="Check the spelling.",
                )
            else:
                units += _data_set(word, split, root, notes)
        except OSError as error:
            raise DataError(f"{shown(error.filename or word)}: cannot be read.", got=error.strerror or error) from error
    units += _listing(loose, len(loose), Path(), "")
    if not any(unit.count is None or unit.count for unit in units):
        raise DataError(f"{few(words)}: there are no images here.", expected="images, or shards of them")
    return Inputs(units, notes)


def _folder(folder: Path, shard: str, notes: list[str]) -> list[Unit]:
    """A folder of shards, else every visible file in it and below.

    Args:
        shard: what tells its files from those of other sources; empty: there are none.
    """
    shards = list[Path]()
    others, has_image = 0, False
    for path in files_below(folder):
        if path.suffix.lower() in _SHARDS:
            shards.append(path)
        elif not shards or not has_image:
            others += 1
            has_image = has_image or is_image(path)
    if not shards:
        names = (os.path.relpath(path, folder) for path in files_below(folder))
        return list(_listing(names, others, folder, shard))
    if has_image:
        raise DataError(
            f"{shown(folder)}: has images and shards.",
            got=few([path.name for path in shards]),
            expected="a folder of images, or one of .tar or .parquet files",
            do="Give the folders or files one by one.",
        )
    if others:
        notes.append(f"{shown(folder)}: {others} other files are left out, no shards")
    return _shards(shards, folder, f"{shard}/" if shard else "")


def _shards(paths: Sequence[Path], root: Path | None, prefix: str) -> list[Unit]:
    """Units of tar and Parquet files, named by their paths below `root`; None: below the folder that all are in."""
    if strange := [path.name for path in paths if path.suffix.lower() not in _SHARDS]:
        raise DataError("These files are no shards.", got=few(strange), expected=".tar or .parquet files")
    folder = root or Path(os.path.commonpath([path.parent for path in paths]))
    named = [(prefix + path.relative_to(folder).as_posix(), path) for path in paths]
    return [
        *tar_units([one for one in named if one[1].suffix.lower() == ".tar"]),
        *parquet_units([one for one in named if one[1].suffix.lower() == ".parquet"]),
    ]


def _listing(names: Iterable[str], count: int, folder: Path, shard: str) -> Iterator[Unit]:
    """Runs of the files of a folder, of which there are `count`.

    A unit keeps the names of its own as bytes: of millions, tens of MB.
    """
    left, first = iter(names), 0
    while run := list(itertools.islice(left, rows_a_unit(count))):
        identity, num_bytes = listing_of_paths([folder / name for name in run], folder)
        packed = b"\0".join(map(os.fsencode, run))

        def records(packed: bytes = packed, first: int = first) -> Iterator[Record]:
            for row, name in enumerate(map(os.fsdecode, packed.split(b"\0")), first):
                yield Record(as_text(name.replace(os.sep, "/")), row, folder / name)

        yield Unit(as_text(shard), sha256_of("files", shard, first, identity), len(run), num_bytes, records)
        first += len(run)


def _data_set(word: str, split: str, root: str, notes: list[str]) -> list[Unit]:
    """The splits of a data set, one after the other."""
    if is_table(Path(os.path.expanduser(word))):
        source = open_stream(word, keep_unlabelled=True)
    else:
        source = open_source(DataConfig(spec=word, root=root), may_download=True, progress=True)
    notes += source.notes
    wanted = list(source.splits) if split == "all" else [split]
    if split not in ("all", *source.splits):
        raise DataError(f"{shown(word)}: has no split {split}.", expected=", ".join(source.splits))
    units: list[Unit] = []
    for name in wanted:
        content = source.splits[name]
        rows = rows_a_unit(len(content))
        for first in range(0, len(content), rows):
            stop = min(first + rows, len(content))
            units.append(_run(content, name, first, stop, source.listing, source.num_bytes))
    return units


def _run(content: Split, name: str, first: int, stop: int, listing: str, num_bytes: int) -> Unit:
    def records() -> Iterator[Record]:
        for row, image in enumerate(content.read(np.arange(first, stop)), first):
            yield Record(as_text(content.names[row]), row, image)

    return Unit(name, sha256_of("set", listing, name, first, stop), stop - first, num_bytes, records)
