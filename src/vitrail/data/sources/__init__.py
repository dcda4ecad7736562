"""SPEC -> an index of records: which examples there are, of which class, in which split. Decodes nothing."""

import os
from pathlib import Path

from vitrail.config import DataConfig
from vitrail.data.sources.download import download
from vitrail.data.sources.folders import open_folder
from vitrail.data.sources.hub import open_hub
from vitrail.data.sources.index import (
    Encoded,
    Packed,
    Source,
    Split,
    case_twins,
    class_index,
    few,
    join_splits,
    nfc,
    take_rows,
    without_labels,
)
from vitrail.data.sources.manifest import open_manifest
from vitrail.data.sources.named import NAMED_SETS, open_named, place_of
from vitrail.data.sources.packed import check_whole, is_pack, open_pack, pack_preprocessing
from vitrail.data.sources.parquet import open_parquet, parquet_files
from vitrail.data.sources.walk import is_archive
from vitrail.errors import DataError, shown

__all__ = [
    "NAMED_SETS",
    "Encoded",
    "Packed",
    "Source",
    "Split",
    "case_twins",
    "check_whole",
    "class_index",
    "download",
    "few",
    "join_splits",
    "nfc",
    "open_source",
    "pack_preprocessing",
    "place_of",
    "take_rows",
]
_LISTS = "A list of images is read from a CSV or TSV file with the columns path,label[,split]."


def open_source(
    config: DataConfig, *, may_download: bool = False, progress: bool = False, needs_labels: bool = True
) -> Source:
    """Find and index the data set that `config.spec` names.

    Args:
        config: spec and root are used.
        may_download: fetch a named set that is not there.
        progress: show a bar on stderr while downloading.
        needs_labels: otherwise labels are ignored, and neither a folder nor a manifest need have any.
    Raises:
        DataError: there is no such data set, or it is not laid out as one.
    """
    source = _open(config, may_download=may_download, progress=progress, needs_labels=needs_labels)
    return source if needs_labels else without_labels(source)


def _open(config: DataConfig, *, may_download: bool, progress: bool, needs_labels: bool) -> Source:
    spec = config.spec
    if not spec.strip():
        raise DataError(
            "The name of the data set (--data) is empty.",
            expected=f"one of {', '.join(NAMED_SETS)}; a folder; a file; hf:OWNER/NAME",
        )
    if spec in NAMED_SETS:
        return open_named(spec, config.root, may_download=may_download, progress=progress)
    from vitrail.data.streaming.opening import is_stream, open_stream  # which stands on this room

    if spec.startswith("hf:") and not spec.startswith("hf://"):
        return open_hub(spec)
    path = Path(os.path.expanduser(spec))
    try:
        is_streamed = is_stream(spec)
        source = None if is_streamed else _open_path(path, spec, needs_labels=needs_labels)
        kind = "a file of another kind" if path.exists() else "neither a known name nor an existing path"
    except OSError as error:
        raise DataError(
            f"{shown(error.filename or path)}: cannot be read.",
            got=error.strerror,
            expected="a readable file or folder",
        ) from error
    except ValueError as error:  # a path with a null character
        raise DataError(f"{shown(spec)}: is not a path.", got=error) from error
    if is_streamed:
        return open_stream(spec, config, progress=progress)
    if source is not None:
        return source
    raise DataError(
        f"{shown(spec)!r} is not a data set.",
        got=kind,
        expected=f"one of {', '.join(NAMED_SETS)}; a folder; a .parquet, .csv, .tsv or .tar file",
        do="Unpack it, and give the folder."
        if is_archive(path)
        else _LISTS
        if path.is_file()
        else "Check the spelling.",
    )


def _open_path(path: Path, spec: str, *, needs_labels: bool) -> Source | None:
    if path.is_dir():
        if is_pack(path):
            return open_pack(path, spec)
        shards = parquet_files(path)
        return open_parquet(shards, spec, path) if shards else open_folder(path, spec, needs_labels=needs_labels)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            return open_parquet([path], spec, path.parent)
        if suffix in (".csv", ".tsv"):
            return open_manifest(path, spec, needs_labels=needs_labels)
    return None
