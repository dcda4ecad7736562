"""Which folders of an image folder are splits and which are classes; where that is not clear, an error that asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.data.sources.index import few, nfc
from vitrail.data.sources.split_names import split_of, split_stems
from vitrail.data.sources.walk import files_in, folders_in, is_image
from vitrail.errors import DataError, shown

_IMAGES = frozenset({"images", "imgs", "jpegimages"})
_ANNOTATIONS = frozenset({"annotations", "labels", "masks", "trimaps"})
_AS_CLASSES = "If they are classes: put all class folders into a folder 'train'."
_BY_MANIFEST = "A manifest can say it too: a CSV file with the columns path,label,split."


@dataclass(frozen=True)
class Layout:
    """Where the class folders are.

    Args:
        top: the folder that was meant.
        splits: for each split the folder that holds its class folders.
        notes: what was left out or seen through, a line each.
    """

    top: Path
    splits: dict[str, Path]
    notes: tuple[str, ...]


def find_layout(root: Path, *, needs_labels: bool = True) -> Layout:
    """Tell split folders from class folders.

    Args:
        needs_labels: folders that are no splits are classes; otherwise they mean nothing.

    Raises:
        DataError: the folders can be read as either, or two of them mean the same split.
    """
    top = _inner(root)
    notes = [] if top == root else [f"read from {shown(top)}, the only folder in {shown(root)}"]
    folders = folders_in(top)
    splits = _split_folders(top, folders)
    if not splits:
        if needs_labels:
            _check_are_classes(top, folders)
        return Layout(top, {"train": top}, tuple(notes))
    left_out = [folder.name for folder in folders if folder not in splits]
    if left_out:
        notes.append(f"beside the splits, these folders are left out: {few(left_out)}")
    inner = {split: _same_inside(folder) for folder, split in splits.items()}
    for folder in inner.values() if needs_labels else ():
        _check_no_annotations(folder, folders_in(folder))
    return Layout(top, {split: inner[split] for split in ("train", "val", "test") if split in inner}, tuple(notes))


def _split_folders(top: Path, folders: Sequence[Path]) -> dict[Path, str]:
    """The folders that are splits; none where all of them are classes."""
    called = _named(folders)
    named = {f: split for f, split in called.items() if folders_in(f) or files_in(f)}  # an empty one says nothing
    for split in sorted(set(named.values())):
        same = [folder.name for folder in named if named[folder] == split]
        if len(same) > 1:
            raise DataError(
                f"{shown(top)}: several folders mean the split {split!r}.",
                got=few(same),
                expected="one folder per split",
                do=f"Merge them, or give the others names that mean no split. {_BY_MANIFEST}",
            )
    others = [folder for folder in folders if folder not in called]
    if not named or not others:
        return named
    classes = {folder: _class_names(_same_inside(folder)) for folder in named}
    outside = {nfc(folder.name) for folder in others}
    has_train = any(split == "train" and classes[folder] for folder, split in named.items())
    is_clear = has_train or sum(map(bool, classes.values())) > 1
    if is_clear and not any(outside & inside for inside in classes.values()):
        return named
    raise DataError(
        f"{shown(top)}: it is not clear whether its folders are classes or splits.",
        got=f"{few([f.name for f in named])}, called like a split, beside {few([f.name for f in others])}",
        expected="split folders with class folders in them (train/cat, test/cat), or class folders alone (cat, dog)",
        do=f"If {shown(next(iter(named)).name)} is a split: put the other folders into a folder 'train'. {_AS_CLASSES} "
        f"{_BY_MANIFEST}",
    )


def _named(folders: Sequence[Path]) -> dict[Path, str]:
    """Folders whose whole name means a split, else those that share a stem, as `pets_train` and `pets_test`."""
    named = {folder: split for folder in folders if (split := split_of(folder.name))}
    stems = split_stems(folder.name for folder in folders) if not named else []
    if len(stems) > 1:
        names = [name for stem in stems for name in stem]
        raise DataError(
            f"{shown(folders[0].parent)}: the names of its folders hold both classes and splits.",
            got=few(names),
            expected="one folder per split with one folder per class in it, such as train/cat, test/cat",
            do=f"Sort them so. {_AS_CLASSES}",
        )
    return named or {folder: stems[0][folder.name] for folder in folders if stems and folder.name in stems[0]}


def _check_are_classes(top: Path, folders: Sequence[Path]) -> None:
    """Raise DataError where the folders look like something else than classes."""
    inside = {folder: folders_in(folder) for folder in folders}
    splits = {folder: _named(inner) for folder, inner in inside.items()}
    holding = [f for f, found in splits.items() if "train" in found.values() or len(set(found.values())) > 1]
    if holding and len(holding) < len(folders):
        raise DataError(
            f"{shown(top)}: {shown(holding[0].name)} holds the splits of a data set, the other folders do not.",
            got=f"{few([f.name for f in inside[holding[0]]])} in {shown(holding[0].name)}",
            expected="the folder that holds the splits",
            do=f"Give {shown(holding[0])}. {_AS_CLASSES}",
        )
    nested = [{nfc(f.name) for f in inner} for inner in inside.values() if inner]
    common = sorted(set[str].intersection(*nested)) if nested else []
    if len(common) > 1 and len(nested) == len(folders) > 1 and not any(_has_images(f) for f in folders):
        raise DataError(
            f"{shown(top)}: its folders look like splits, not like classes: the same folders are in each of them.",
            got=f"{few([f.name for f in folders])}, each with {few(common)}",
            expected="train and val or test with one folder per class in each, or one folder per class",
            do=f"If they are splits: call them train, val and test. {_AS_CLASSES} {_BY_MANIFEST}",
        )
    _check_no_annotations(top, folders)


def _check_no_annotations(top: Path, folders: Sequence[Path]) -> None:
    """Raise DataError where images lie in one folder, and what is said about them in another."""
    names = {folder.name.lower() for folder in folders}
    if names & _IMAGES and names & _ANNOTATIONS:
        raise DataError(
            f"{shown(top)}: its folders look like images and their annotations, not like classes.",
            got=few([folder.name for folder in folders]),
            expected="one folder per class",
            do="Write a manifest, a CSV file with the columns path,label[,split], and give that.",
        )


def _inner(folder: Path) -> Path:
    """The folder itself, or the only one in it where that holds folders and no images, and so on."""
    inside = folders_in(folder)
    while len(inside) == 1 and not split_of(inside[0].name) and not _has_images(folder):
        deeper = folders_in(inside[0])
        if not deeper or _has_images(inside[0]):
            break
        folder, inside = inside[0], deeper
    return folder


def _same_inside(folder: Path) -> Path:
    """A split folder, or the one of the same name in it, as archives have it that were unpacked into a folder."""
    inside = folders_in(folder)
    while len(inside) == 1 and _same_name(inside[0], folder) and not _has_images(folder):
        folder, inside = inside[0], folders_in(inside[0])
    return folder


def _same_name(one: Path, other: Path) -> bool:
    return nfc(one.name).casefold() == nfc(other.name).casefold()


def _class_names(folder: Path) -> set[str]:
    return {nfc(inner.name) for inner in folders_in(folder)}


def _has_images(folder: Path) -> bool:
    return any(map(is_image, files_in(folder)))
