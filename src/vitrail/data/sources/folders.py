"""Data sets of plain image files: a folder a class, in a folder a split or not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitrail.data.sources.index import (
    UNLABELLED,
    Source,
    Split,
    class_index,
    few,
    listing_of_paths,
    nfc,
    path_split,
    places_of,
)
from vitrail.data.sources.layout import find_layout
from vitrail.data.sources.walk import files_below, files_in, folders_in, is_archive, is_image
from vitrail.errors import DataError, shown


@dataclass
class _Found:
    """What lies below a split: images by class, the folders of the classes, and what is no example."""

    images: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])
    folders: dict[str, Path] = field(default_factory=dict[str, Path])
    others: list[Path] = field(default_factory=list[Path])
    loose: list[Path] = field(default_factory=list[Path])

    def empty(self) -> list[Path]:
        """The class folders without images."""
        return [self.folders[label] for label, images in sorted(self.images.items()) if not images]


def open_folder(root: Path, name: str, *, needs_labels: bool = True) -> Source:
    """Index `root/train/<class>/...` with `val` and `test`, or just `root/<class>/...`, which is all "train".

    Split folders may be called in any of the usual ways, as `Training`, `test_set`, `pets_valid`. A folder that is
    the only one, around all others, is seen through. Hidden entries, __MACOSX and Thumbs.db are passed over. Whatever
    lies below a class folder, however deep, and is an image is an example; other files are counted and left out.

    Args:
        root: the folder.
        name: how messages call the data set.
        needs_labels: the folders are classes; otherwise every image in and below a split's folder is an example, of the
            only class there is.
    Raises:
        DataError: there is no class folder or no image, it is not clear which folders are classes and which are
            splits, or a folder is no class of the training set.
    """
    layout = find_layout(root, needs_labels=needs_labels)
    notes, wanted = list(layout.notes), "class folders" if needs_labels else "images"
    found: dict[str, _Found] = {}
    for split, folder in layout.splits.items():
        content = _classes(folder) if needs_labels else _images(folder)
        if content.images:
            found[split] = content
        elif split == "train" or len(layout.splits) == 1:
            raise _no_classes(folder, root) if needs_labels else _no_images(folder)
        else:
            left = f": {len(content.loose)} images" if content.loose else ""
            notes.append(f"{split}: {shown(folder.name)} has no {wanted} and is left out{left}; there is no such split")
    first = "train" if "train" in found else min(found)
    classes = tuple(sorted(found[first].images))
    splits, places = dict[str, Split](), places_of(classes)
    for split, content in found.items():
        paths: list[Path] = []
        labels: list[int] = []
        for class_name, images in sorted(content.images.items()):
            if images:
                place = _relative(content.folders[class_name], root)
                label = class_index(class_name, classes, f"{shown(root)}: folder {place}", places=places)
                labels += [label] * len(images)
                paths += images
        splits[split] = path_split(paths, labels, root)
    everything = [path for content in found.values() for images in content.images.values() for path in images]
    listing, num_bytes = listing_of_paths(everything, root)
    empty = {split: [_relative(folder, root) for folder in content.empty()] for split, content in found.items()}
    others = [path for content in found.values() for path in content.others]
    loose = [path for content in found.values() for path in content.loose]
    notes += _nested(found[first]) if needs_labels else []
    notes += _left_out(root, others, loose, [folder for folders in empty.values() for folder in folders])
    return Source(name, classes, splits, listing, num_bytes, len(others), tuple(notes), tuple(empty[first]))


def _classes(folder: Path) -> _Found:
    """The class folders in a folder with everything below them, and the files beside them."""
    found = _Found()
    for path in files_in(folder):
        (found.loose if is_image(path) else found.others).append(path)
    for class_folder in folders_in(folder):
        class_name = nfc(class_folder.name)
        images: list[Path] = []
        for path in files_below(class_folder):
            (images if is_image(path) else found.others).append(path)
        found.folders.setdefault(class_name, class_folder)
        found.images.setdefault(class_name, []).extend(sorted(images))
    return found


def _images(folder: Path) -> _Found:
    """Every image in a folder and below it, as those of one class."""
    found = _Found()
    (label,) = UNLABELLED
    for path in files_below(folder):
        if is_image(path):
            found.images.setdefault(label, []).append(path)
        else:
            found.others.append(path)
    found.folders = dict.fromkeys(found.images, folder)
    for images in found.images.values():
        images.sort()
    return found


def _nested(found: _Found) -> list[str]:
    """A line for a class that looks like a folder of classes: all its images lie in several folders of its own."""
    notes: list[str] = []
    for name, images in sorted(found.images.items()):
        inner = {
            path.relative_to(found.folders[name]).parts[0]
            for path in images
            if path.is_relative_to(found.folders[name])
        }
        if len(inner) > 1 and not any((found.folders[name] / part).is_file() for part in inner):
            notes.append(
                f"class {shown(name)}: its images lie in {len(inner)} folders ({few(sorted(inner))}); "
                f"if these are the classes, give {shown(found.folders[name])} instead"
            )
    return notes


def _left_out(root: Path, others: Sequence[Path], loose: Sequence[Path], empty: Sequence[str]) -> list[str]:
    notes: list[str] = []
    for paths, what in ((others, "no images"), (loose, "images in no class folder")):
        if paths:
            examples = [_relative(path, root) for path in paths[:3]]
            notes.append(f"left out, {what}: {len(paths)} file{'s'[: len(paths) > 1]}, such as {', '.join(examples)}")
    if empty:
        notes.append(f"class folders without images: {few(empty)}")
    return notes


def _relative(path: Path, root: Path) -> str:
    return shown(path.relative_to(root).as_posix())


def _no_images(folder: Path) -> DataError:
    return DataError(
        f"{shown(folder)}: no images in it or below.",
        got=f"{len(list(files_below(folder)))} other files",
        expected="image files, in folders or not",
    )


def _no_classes(folder: Path, root: Path) -> DataError:
    files = files_in(folder)
    images = sum(map(is_image, files))
    tables = [path for path in (*files, *files_in(root)) if path.suffix.lower() in (".csv", ".tsv")]
    archives = [path for path in files if is_archive(path)]
    do = "Put the images of each class into a folder, or write a manifest: a CSV file with the columns path,label."
    if tables:
        do = f"If {shown(tables[0].name)} says which image is what, give that file: it needs the columns path,label."
    elif archives and not images:
        do = f"Unpack {shown(archives[0].name)} first."
    return DataError(
        f"{shown(folder)}: no class folders.",
        got=f"{images} images and {len(files) - images} other files, no folders" if files else "an empty folder",
        expected="train/<class>/... with val or test, or <class>/..., one folder per class",
        do=do,
    )
