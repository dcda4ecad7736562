"""CSV and TSV manifests: a line an image, with its path, its label and, if there is a column for it, its split."""

import csv
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from vitrail.data.sources.index import Source, Split, listing_of_paths, path_split, places_of
from vitrail.data.sources.labels import LABEL_COLUMNS, Label, label_index, labelled, names_of, tidy_labels
from vitrail.data.sources.split_names import split_of
from vitrail.errors import DataError, shown
from vitrail.reading import read_regular

_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"),
    "label": (*LABEL_COLUMNS, "class_name", "category", "class_id", "classid"),
    "split": ("split", "subset", "partition"),
}
MAX_BYTES = 256 << 20
"""Of a manifest: about three million images."""
_MAX_LINE_BYTES = 1 << 20
_DELIMITERS = ("\t", ";", ",")


def open_manifest(path: Path, name: str) -> Source:
    """Index a CSV or TSV file with the header `path,label[,split]`; paths are relative to its folder.

    Without a split column all examples are "train". Rows without a label are left out and counted.

    Args:
        path: the file.
        name: how messages call the data set.
    Raises:
        DataError: it is no table, its header is wrong, or a row has no such file, an unknown split or class.
    """
    rows = _rows(path)
    if not rows:
        raise DataError(f"{shown(path)}: no examples.", expected="rows of path and label after the header")
    by_split: dict[str, list[tuple[Path, Label, int]]] = {}
    given = tidy_labels([row["label"] for _, row in rows], shown(path))
    for (number, row), target, label in zip(rows, _files(rows, path), given, strict=True):
        split = split_of(row.get("split", "train"))
        if split is None:
            raise DataError(
                f"{shown(path)}, line {number}: unknown split.",
                got=repr(shown(row["split"])),
                expected="train, val or test",
            )
        by_split.setdefault(split, []).append((target, label, number))
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


def _files(rows: Sequence[tuple[int, dict[str, str]]], path: Path) -> list[Path]:
    """The file of each row; an error names the first that is missing, and says how many are."""
    found: list[Path] = []
    missing: list[tuple[int, str]] = []
    for number, row in rows:
        if not row["path"]:
            raise DataError(f"{shown(path)}, line {number}: no path.", expected="a path in every row")
        target = _existing(path.parent, row["path"])
        if target is None:
            missing.append((number, row["path"]))
        else:
            found.append(target)
    if missing:
        number, file = missing[0]
        more = f", the first of {len(missing)} in {len(rows)} rows" if len(missing) > 1 else ""
        raise DataError(
            f"{shown(path)}, line {number}: the file does not exist.",
            got=shown(file) + more,
            expected=f"a path relative to the manifest's folder, {shown(path.parent.absolute())}",
        )
    return found


def _existing(folder: Path, file: str) -> Path | None:
    """The file as it is spelt, with the separators of Windows, or with its accents stored in another way."""
    spellings = [file, file.replace("\\", "/")]
    spellings += [unicodedata.normalize(form, spellings[1]) for form in ("NFC", "NFD")]
    return next((folder / spelling for spelling in spellings if (folder / spelling).is_file()), None)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows with their line numbers, cells stripped of white space, under the names path, label and split."""
    text = _text(path)
    first_line = text.lstrip("\r\n").split("\n", 1)[0]
    # The header holds no text of others, so that the first of these in it is what parts the cells.
    delimiter = next((mark for mark in _DELIMITERS if mark in first_line), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    header: list[str] = []
    places: dict[str, int] = {}
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not places:
                header = [cell.strip() for cell in cells]
                places = _places(header, path)
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{shown(path)}, line {reader.line_num}: wrong number of cells.",
                    got=len(cells),
                    expected=f"{len(header)}, as in the header",
                    do='A cell that holds the separator itself stands in quotes, as "a, b".',
                )
            rows.append((reader.line_num, {name: cells[place].strip() for name, place in places.items()}))
    except csv.Error as error:
        raise DataError(
            f"{shown(path)}, line {reader.line_num}: not a readable table.", got=error, expected="CSV or TSV"
        ) from error
    if not places:
        _places([], path)
    return rows


def _places(header: list[str], path: Path) -> dict[str, int]:
    """Where the columns are that are used. Raises DataError when one is missing or there twice."""
    lower = [name.lower() for name in header]
    chosen = {ours: next((known for known in accepted if known in lower), "") for ours, accepted in _COLUMNS.items()}
    if not chosen["path"] or not chosen["label"]:
        raise DataError(
            f"{shown(path)}: the first line is no header with a path and a label.",
            got=shown(", ".join(header)) or "an empty file",
            expected="path,label[,split]; also read: "
            + "; ".join(f"{', '.join(accepted[1:])} as {ours}" for ours, accepted in _COLUMNS.items()),
            do="Rename the columns in the first line; a path has its suffix, as images/1.jpg.",
        )
    twice = [name for name in chosen.values() if lower.count(name) > 1]
    if twice:
        raise DataError(f"{shown(path)}: two columns are called {twice[0]!r}.", expected="one", do="Rename the other.")
    return {ours: lower.index(name) for ours, name in chosen.items() if name}


def _text(path: Path) -> str:
    raw = read_regular(path, MAX_BYTES)
    if len(raw) > _MAX_LINE_BYTES and max(map(len, raw.splitlines()), default=0) > _MAX_LINE_BYTES:
        raise DataError(f"{shown(path)}: a line has more than {_MAX_LINE_BYTES} bytes.", expected="CSV or TSV")
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{shown(path)}, line {line}: not a readable table.",
            got=f"a byte {raw[error.start]:#04x} that is not {encoding.removesuffix('-sig').upper()}",
            expected="CSV or TSV in UTF-8",
            do=f"Save it as UTF-8, as with: iconv -f WINDOWS-1252 -t UTF-8 {shown(path.name)} > new.csv",
        ) from error
