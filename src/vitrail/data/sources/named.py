"""The data sets that have a name: where they are looked for, and in which forms."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.order import hold_out
from vitrail.data.sources.download import ARCHIVES, download
from vitrail.data.sources.index import Source, Split, array_split, listing_of
from vitrail.data.sources.official import open_cifar, open_fashion_mnist
from vitrail.data.sources.parquet import open_parquet
from vitrail.errors import DataError
from vitrail.locations import data_root

# The digits have no official test set: a fifth of them is always the same one, whatever the settings.
_DIGITS_TEST_FRACTION, _DIGITS_TEST_SEED = 0.2, 0

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class NamedSet:
    """A named data set: size of all its images, official folder and archive (CIFAR), fixed class names."""

    native_size: tuple[int, int]
    folder: str = ""
    classes: tuple[str, ...] | None = None


NAMED_SETS = {
    "digits": NamedSet((8, 8)),
    "cifar10": NamedSet((32, 32), folder="cifar-10-batches-py"),
    "cifar100": NamedSet((32, 32), folder="cifar-100-python"),
    "fashion-mnist": NamedSet((28, 28), classes=_FASHION_CLASSES),
}


def open_named(name: str, root: str, *, may_download: bool, progress: bool) -> Source:
    """Open a named set: Parquet shards, else the official files, else (if allowed) after downloading those.

    Args:
        name: a key of NAMED_SETS.
        root: where to look; empty: VITRAIL_DATA, else the user's cache folder.
        may_download: fetch what is missing.
        progress: show a bar on stderr while downloading.
    Raises:
        DataError: it is not there and could not be fetched; the message says where it was looked for.
    """
    if name == "digits":
        return _digits()
    base = data_root(root)
    source = _find(name, base)
    if source is not None:
        return source
    places = _places(name, base)
    if not may_download:
        raise DataError(
            f"{name} is not there. Looked for:", listed=places, do=f"Fetch it: vitrail data download {name}."
        )
    try:
        download(name, base, progress=progress)
    except DataError as error:
        raise DataError(
            f"{name} is not there and could not be downloaded. Looked for:",
            listed=places,
            got=f"{error.what} {error.got}",
            do="Put one of these there, or name the folder that has them with --data-root or VITRAIL_DATA.",
        ) from error
    found = _find(name, base)
    assert found is not None, "a verified download is one of the forms that are looked for"
    return found


def place_of(name: str, root: str | Path | None = None) -> Path | None:
    """The folder of a named set's Parquet shards, or its unpacked official one: what `open_named` takes first, and no
    download adds to. None where there is neither.
    """
    if name not in ARCHIVES:
        return None
    base, unpacked = data_root(root), NAMED_SETS[name].folder
    folders = [base / name] if _shards(base / name) else [f / unpacked for f in (base, base / name) if unpacked]
    return next((folder for folder in folders if folder.is_dir()), None)


def _shards(folder: Path) -> list[Path]:
    return sorted(path for split in ("train", "validation", "test") for path in folder.glob(f"{split}-*.parquet"))


def _places(name: str, base: Path) -> list[Path]:
    """Everything that is looked for, in order."""
    named, folder = NAMED_SETS[name], base / name
    archives = [archive.file for archive in ARCHIVES[name]]
    if not named.folder:
        return [folder / "{train,test}-*.parquet", *(folder / file for file in archives)]
    tree = [parent / file for file in (named.folder, *archives) for parent in (base, folder)]
    return [folder / "{train,test}-*.parquet", *tree]


def _find(name: str, base: Path) -> Source | None:
    named, folder = NAMED_SETS[name], base / name
    shards = _shards(folder)
    if shards:
        source = open_parquet(shards, name, base)
        if named.classes and len(named.classes) == len(source.classes):
            source = replace(source, classes=named.classes)  # the Hub spells some of them differently
        return source
    files = _places(name, base)[1:]
    if not named.folder:
        return open_fashion_mnist(files, name, _FASHION_CLASSES) if all(file.is_file() for file in files) else None
    place = next((path for path in files if path.exists()), None)
    return open_cifar(place, name) if place else None


def _digits() -> Source:
    """The 1,797 handwritten digits that come with scikit-learn; 359 of them (a fifth), stratified, are the test set.

    Their 17 grey levels 0 .. 16 become round(level * 255 / 16), so 0 stays black and 16 is white.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    classes = tuple(str(digit) for digit in range(10))
    names = [f"digits:{row}" for row in range(len(labels))]
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[hold_out(labels, classes, _DIGITS_TEST_FRACTION, _DIGITS_TEST_SEED)] = True

    def part(chosen: np.ndarray) -> Split:
        rows = np.flatnonzero(chosen)
        return array_split(pixels[rows], labels[rows], [names[row] for row in rows])

    splits = {"train": part(~is_test), "test": part(is_test)}
    return Source("digits", classes, splits, listing_of([("digits", pixels.nbytes, 0)]), pixels.nbytes)
