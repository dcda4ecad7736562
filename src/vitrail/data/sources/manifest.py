"""CSV and TSV manifests: a line an image, with its path, its label and, if there is a column for it, its split."""

import csv
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from vitrail import fsio
from vitrail.data.sources.index import UNLABELLED, Source, Split, listing_of_paths, path_split, places_of
from vitrail.data.sources.labels import LABEL_COLUMNS, Label, label_index, labelled, names_of, tidy_labels
from vitrail.data.sources.split_names import split_of
from vitrail.errors import DataError, shell_word, shown
from vitrail.reading import open_regular

_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"),
    "label": (*LABEL_COLUMNS, "class_name", "category", "class_id", "classid"),
    "split": ("split", "subset", "partition"),
}
MAX_BYTES, MAX_LINES = 256 << 20, 5_000_000
"""Of a manifest."""
_MAX_LINE, _MAX_COLUMNS = 1 << 20, 1000
_MOST_MISSING = 10_000
_DELIMITERS = ("\t", ";", ",")


def open_manifest(path: Path, name: str, *, needs_labels: bool = True) -> Source:
    """Index a CSV or TSV file with the header `path,label[,split]`; paths are relative to its folder.

    Without a split column all examples are "train". Rows without a label are left out and counted.

    Args:
        path: the file.
        name: how messages call the data set.
        needs_labels: otherwise no label is read, and there need be none.
    Raises:
        DataError: it is no table, its header is wrong, or a row has no such file, an unknown split or class.
    """
    rows = _rows(path, needs_labels)
    if not rows:
        raise DataError(f"{shown(path)}: no examples.", expected="rows of path and label after the header")
    by_split: dict[str, list[tuple[Path, Label, int]]] = {}
    given = tidy_labels([row.label for row in rows], shown(path))
    for row, target, label in zip(rows, _files(rows, path), given, strict=True):
        split = split_of(row.split)
        if split is None:
            raise DataError(
                f"{shown(path)}, line {row.line}: unknown split.",
                got=repr(shown(row.split)),
                expected="train, val or test",
            )
        by_split.setdefault(split, []).append((target, label, row.line))
    classes = names_of(label for _, label, _ in by_split["train" if "train" in by_split else min(by_split)])
    splits, places = dict[str, Split](), places_of(classes)
    for split, found in by_split.items():
        index: dict[Label, int] = {}
        for _, label, number in found:
            if label not in index:
                index[label] = label_index(label, None, classes, f"{shown(path)}, line {number}", places)
        targets, labels = [target for target, *_ in found], [index[label] for _, label, _ in found]
        splits[split] = path_split(targets, labels, path.parent)
    files = [path, *(target for found in by_split.values() for target, *_ in found)]
    listing, num_bytes = listing_of_paths(files, path.parent)
    splits, notes = labelled(splits, shown(path))
    return Source(name, classes, splits, listing, num_bytes, notes=tuple(notes))


def check_nameable(path: Path, source: Source) -> None:
    """Raise DataError where `write_manifest` would: before the work that decides what stands in it."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise DataError(f"{shown(path)}: not the name of a manifest.", expected="a name that ends in .csv or .tsv")
    first = next((record for s in source.splits.values() if len(s) for record in s.read(np.array([0]))), None)
    if not isinstance(first, Path):
        raise DataError(
            f"{shown(source.name)}: its images are not files, so no manifest can name them.",
            expected="a folder of images, or a manifest",
        )


def write_manifest(path: Path, source: Source, kept: Mapping[str, Int64[np.ndarray, "n"]]) -> int:
    """Write the examples at some positions of each split as a manifest that `open_manifest` reads.

    Args:
        path: a .csv file, or .tsv with tabs; paths in it are relative to its folder.
        source: of image files.
        kept: ascending positions, by split.
    Returns:
        The number of examples.
    Raises:
        DataError: as `check_nameable`, or a name is not text.
        SaveError: it cannot be written.
    """
    check_nameable(path, source)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", lineterminator="\n")
    writer.writerow(("path", "label", "split"))
    folder = path.absolute().parent
    for split, positions in kept.items():
        content = source.splits[split]
        for position, record in zip(positions, content.read(positions), strict=True):
            assert isinstance(record, Path)
            label = source.classes[content.labels[position]]
            writer.writerow((f"./{os.path.relpath(record.absolute(), folder)}".replace(os.sep, "/"), label, split))
    try:
        fsio.write_bytes(path, text.getvalue().encode())
    except UnicodeEncodeError as error:
        name = shown(error.object[max(0, error.start - 60) : error.end + 20])
        raise DataError(f"{shown(path)}: the name of a file is not text.", got=name, expected="Unicode") from error
    return sum(map(len, kept.values()))


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    split: str


def _files(rows: Sequence[_Row], path: Path) -> list[Path]:
    """The file of each row; an error names the first that is missing, and says how many are."""
    found: list[Path] = []
    missing: list[_Row] = []
    for row in rows:
        if not row.path:
            raise DataError(f"{shown(path)}, line {row.line}: no path.", expected="a path in every row")
        target = _existing(path.parent, row.path)
        if target is None:
            missing.append(row)
        else:
            found.append(target)
        if len(missing) == _MOST_MISSING and not found:
            break  # another folder than that of the images: no need to look for all of them
    if missing:
        looked_at = len(found) + len(missing)
        more = f", the first of {len(missing)} in {looked_at} rows" if len(missing) > 1 else ""
        raise DataError(
            f"{shown(path)}, line {missing[0].line}: the file does not exist.",
            got=shown(missing[0].path) + more,
            expected=f"a path relative to the manifest's folder, {shown(path.parent.absolute())}",
        )
    return found


def _existing(folder: Path, file: str) -> Path | None:
    """The file as it is spelt, with the separators of Windows, or with its accents stored in another way."""
    forward = file.replace("\\", "/")
    spellings = [file, forward]
    if not file.isascii():
        spellings += [unicodedata.normalize(form, forward) for form in ("NFC", "NFD")]
    # Text, because a path object for each spelling of each row takes longer than to look for the file.
    places = dict.fromkeys(os.path.join(folder, spelling) for spelling in spellings)
    return next((Path(place) for place in places if os.path.isfile(place)), None)


def _rows(path: Path, needs_labels: bool) -> list[_Row]:
    """Rows with their line numbers, cells stripped of white space."""
    lines, skipped, first_line = _lines(path), 0, ""
    for first_line in lines:
        if first_line.strip("\r\n"):
            break
        skipped += 1
    # The header holds no text of others, so that the first of these in it is what parts the cells.
    delimiter = next((mark for mark in _DELIMITERS if mark in first_line), ",")
    reader = csv.reader(itertools.chain([first_line], lines), delimiter=delimiter, strict=True)
    rows: list[_Row] = []
    header: list[str] = []
    places: dict[str, int] = {}
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not places:
                header = [cell.strip() for cell in cells]
                places = _places(header, path, needs_labels)
                continue
            line = skipped + reader.line_num
            if len(cells) != len(header):
                raise DataError(
                    f"{shown(path)}, line {line}: wrong number of cells.",
                    got=len(cells),
                    expected=f"{len(header)}, as in the header",
                    do='A cell that holds the separator itself stands in quotes, as "a, b".',
                )
            split = cells[places["split"]].strip() if "split" in places else "train"
            label = cells[places["label"]].strip() if needs_labels else UNLABELLED[0]
            rows.append(_Row(line, cells[places["path"]].strip(), label, split))
    except csv.Error as error:
        raise DataError(
            f"{shown(path)}, line {skipped + reader.line_num}: not a readable table.", got=error, expected="CSV or TSV"
        ) from error
    if not places:
        _places([], path, needs_labels)
    return rows


def _places(header: list[str], path: Path, needs_labels: bool) -> dict[str, int]:
    """Where the columns are that are used. Raises DataError when one is missing or there twice."""
    if len(header) > _MAX_COLUMNS:
        raise DataError(f"{shown(path)}: {len(header)} columns.", expected=f"at most {_MAX_COLUMNS}")
    lower = [name.lower() for name in header]
    chosen = {ours: next((known for known in accepted if known in lower), "") for ours, accepted in _COLUMNS.items()}
    if not needs_labels:
        del chosen["label"]
    if not all(chosen[name] for name in ("path", "label") if name in chosen):
        raise DataError(
            f"{shown(path)}: the first line is no header with a path{' and a label' if needs_labels else ''}.",
            got=shown(", ".join(header)) or "an empty file",
            expected="path,label[,split]; also read: "
            + "; ".join(f"{', '.join(accepted[1:])} as {ours}" for ours, accepted in _COLUMNS.items()),
            do="Rename the columns in the first line; a path has its suffix, as images/1.jpg.",
        )
    twice = [name for name in chosen.values() if lower.count(name) > 1]
    if twice:
        raise DataError(f"{shown(path)}: two columns are called {twice[0]!r}.", expected="one", do="Rename the other.")
    return {ours: lower.index(name) for ours, name in chosen.items() if name}


def _lines(path: Path) -> Iterator[str]:
    """The lines of the file with their ends, one at a time; what is too large is refused before it is in memory."""
    with open_regular(path) as raw:
        encoding = "utf-16" if raw.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        if raw.seek(0, io.SEEK_END) > MAX_BYTES:
            raise _too_large(path, f"more than {MAX_BYTES} bytes")
        raw.seek(0)
        text = io.TextIOWrapper(io.BufferedReader(raw), encoding, newline="")
        number = 0
        try:
            while line := text.readline(_MAX_LINE + 1):
                if len(line) > _MAX_LINE:
                    raise _too_large(path, f"a line of more than {_MAX_LINE} characters")
                number += 1
                if number > MAX_LINES:
                    raise _too_large(path, f"more than {MAX_LINES} lines")
                yield line
        except UnicodeDecodeError as error:
            # Lines that came before are counted, and those that were to be decoded with the one that cannot be.
            line_number = number + 1 + error.object.count(b"\n", 0, error.start)
            raise DataError(
                f"{shown(path)}, line {line_number}: not a readable table.",
                got=f"a byte {error.object[error.start]:#04x} that is not {encoding.removesuffix('-sig').upper()}",
                expected="CSV or TSV in UTF-8",
                do=f"Save it as UTF-8, as with: iconv -f {_encoding(error.object)} -t UTF-8 {shell_word(path.name)} "
                "> new.csv",
            ) from error


def _encoding(text: bytes) -> str:
    """What a table that is not UTF-8 is probably written in: Chinese characters, pairs of bytes; Western letters."""
    strange = re.findall(rb"[\x80-\xff]+", text)
    return "GB18030" if all(re.fullmatch(rb"([\xb0-\xf7][\xa1-\xfe])+", run) for run in strange) else "WINDOWS-1252"


def _too_large(path: Path, got: str) -> DataError:
    return DataError(
        f"{shown(path)}: too large for a manifest.",
        got=got,
        expected=f"at most {MAX_BYTES} bytes, {MAX_LINES} lines, {_MAX_LINE} characters per line",
        do="Give the images in folders or in Parquet files.",
    )
