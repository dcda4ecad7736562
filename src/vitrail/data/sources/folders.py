"""Data sets of plain image files: a folder a class, or a CSV or TSV manifest."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitrail.data.sources.index import Encoded, Source, Split, class_index, listing_of_paths
from vitrail.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})

_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass
class _Found:
    """Images by class folder, and how many other files were passed over."""

    images: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])
    num_ignored: int = 0


def open_folder(root: Path, name: str) -> Source:
    """Index `root/train/<class>/...` with `val` and `test`, or just `root/<class>/...`, which is all "train".

    Hidden entries, __MACOSX and Thumbs.db are passed over. Whatever lies below a class folder, however deep, and has
    the suffix of an image is an example; other files are counted and ignored.

    Args:
        root: the folder.
        name: how messages call the data set.
    Raises:
        DataError: there is no class folder, an empty one, or one that the training set does not have.
    """
    folders = _folders(root)
    splits_here = {_SPLITS[f.name]: f for f in folders if f.name in _SPLITS and _folders(f)}
    is_split = "train" in splits_here or len(splits_here) == len(folders) > 0
    found = {split: _classes(folder, root) for split, folder in splits_here.items()} if is_split else {}
    if not is_split:
        found = {"train": _classes(root, root)}
    first = "train" if "train" in found else min(found)
    classes = tuple(sorted(found[first].images))
    if not classes:
        raise DataError(
            f"{root}: no class folders.",
            got="an empty folder" if not any(root.iterdir()) else "no sub-folders",
            expected="train/<class>/... with val or test, or <class>/..., one folder a class",
        )
    splits: dict[str, Split] = {}
    everything: list[Path] = []
    for split, content in found.items():
        paths: list[Path] = []
        labels: list[int] = []
        for class_name in sorted(content.images):
            where = splits_here[split].name + "/" + class_name if is_split else class_name
            label = class_index(class_name, classes, f"{root}: folder {where}")
            paths += content.images[class_name]
            labels += [label] * len(content.images[class_name])
        splits[split] = _path_split(paths, labels, root)
        everything += paths
    listing, num_bytes = listing_of_paths(everything, root)
    return Source(name, classes, splits, listing, num_bytes, sum(content.num_ignored for content in found.values()))


def open_manifest(path: Path, name: str) -> Source:
    """Index a CSV or TSV file with the header `path,label[,split]`; paths are relative to its folder.

    Without a split column all examples are "train".

    Args:
        path: the file; a suffix .tsv means tabs.
        name: how messages call the data set.
    Raises:
        DataError: the header is wrong, or a row has no label, no such file, an unknown split or class.
    """
    rows = _manifest_rows(path)
    by_split: dict[str, list[tuple[int, Path, str]]] = {}
    for number, row in rows:
        where = f"{path}, line {number}"
        file, label, split = row["path"], row["label"], row.get("split", "train")
        if split not in _SPLITS:
            raise DataError(f"{where}: unknown split.", got=repr(split), expected="train, val or test")
        if not file or not label:
            raise DataError(
                f"{where}: {'no label' if file else 'no path'}.", expected="a path and a label in every row"
            )
        target = path.parent / file
        if not target.is_file():
            raise DataError(
                f"{where}: the file does not exist.", got=file, expected="a path relative to the manifest's folder"
            )
        by_split.setdefault(_SPLITS[split], []).append((number, target, label))
    if not by_split:
        raise DataError(f"{path}: no examples.", expected="rows of path and label after the header")
    first = "train" if "train" in by_split else min(by_split)
    classes = tuple(sorted({label for _, _, label in by_split[first]}))
    splits: dict[str, Split] = {}
    for split, entries in by_split.items():
        first_lines = {label: number for number, _, label in reversed(entries)}
        index = {label: class_index(label, classes, f"{path}, line {first_lines[label]}") for label in first_lines}
        targets = [target for _, target, _ in entries]
        splits[split] = _path_split(targets, [index[label] for _, _, label in entries], path.parent)
    files = [path, *(target for entries in by_split.values() for _, target, _ in entries)]
    listing, num_bytes = listing_of_paths(files, path.parent)
    return Source(name, classes, splits, listing, num_bytes)


def _manifest_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows with their line numbers, cells stripped of white space."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [cell.strip().lower() for cell in next(reader, [])]
            if not {"path", "label"} <= set(header):
                raise DataError(
                    f"{path}: the first line is no header.",
                    got=delimiter.join(header)[:80] or "an empty file",
                    expected=delimiter.join(("path", "label")) + f"[{delimiter}split]",
                )
            rows: list[tuple[int, dict[str, str]]] = []
            for cells in reader:
                if cells:
                    if len(cells) != len(header):
                        raise DataError(
                            f"{path}, line {reader.line_num}: wrong number of cells.",
                            got=len(cells),
                            expected=f"{len(header)}, as in the header",
                        )
                    values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
                    rows.append((reader.line_num, values))
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table.", got=str(error), expected="CSV or TSV in UTF-8") from error


def _path_split(paths: list[Path], labels: list[int], root: Path) -> Split:
    def read(positions: Sequence[int] | np.ndarray) -> Iterator[Encoded]:
        return (paths[position] for position in positions)

    names = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
    return Split(np.array(labels, dtype=np.int64), names, read)


def _visible(entry_name: str) -> bool:
    return not entry_name.startswith(".") and entry_name.lower() not in _CLUTTER


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _visible(path.name) and path.is_dir())


def _classes(folder: Path, root: Path) -> _Found:
    """Images of each class folder below `folder`; files beside the class folders are ignored and counted."""
    found = _Found()
    found.num_ignored = sum(_visible(path.name) and not path.is_dir() for path in folder.iterdir())
    for class_folder in _folders(folder):
        images, others = _images_below(class_folder)
        found.num_ignored += others
        if not images:
            raise DataError(
                f"{root}: the class folder {class_folder.relative_to(root).as_posix()!r} has no images.",
                got=f"{others} other files" if others else "an empty folder",
                expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
                do="Add images, or remove the folder.",
            )
        found.images[class_folder.name] = images
    return found


def _images_below(folder: Path) -> tuple[list[Path], int]:
    """Image files in a class folder and all folders below it, sorted, and the number of other files."""
    images: list[Path] = []
    others = 0
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a symbolic link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _visible(name))
        for file in files:
            if _visible(file):
                if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES:
                    images.append(Path(place, file))
                else:
                    others += 1
    return sorted(images), others
