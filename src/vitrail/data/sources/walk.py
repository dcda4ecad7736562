"""The files below a folder, and which of them are images: by suffix where that says it, else by their first bytes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitrail.data.formats import image_format
from vitrail.errors import DataError, shell_word, shown
from vitrail.reading import open_regular

_CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
# Also of formats that the decoder may not read: it names such a file, which a walk that passes it over would not.
_IMAGES = ".jpg .jpeg .jpe .jfif .png .apng .webp .bmp .dib .gif .tif .tiff .avif .heic .heif .jp2 .jxl"
IMAGE_SUFFIXES = frozenset(_IMAGES.split())
# So that no file of these is opened: there may be as many of them as images.
_OTHERS = (
    ".txt .md .rst .json .jsonl .csv .tsv .xml .yaml .yml .html .htm .py .ipynb .pdf .doc .docx .xls .xlsx .log .svg "
    ".zip .tar .gz .tgz .bz2 .xz .7z .rar .npy .npz .mat .h5 .hdf5 .pkl .pt .pth .onnx .safetensors .parquet .arrow "
    ".lmdb .mp4 .mov .avi .mkv .mp3 .wav .db .ini .url .lnk"
)
_OTHER_SUFFIXES = frozenset(_OTHERS.split())
_ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"})
_HEAD_BYTES = 32


def is_visible(name: str) -> bool:
    """Neither hidden nor what an operating system leaves in folders."""
    return not name.startswith(".") and name.lower() not in _CLUTTER


def folders_in(folder: Path) -> list[Path]:
    """The visible folders in a folder, links to folders among them, sorted."""
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.is_dir())


def files_in(folder: Path) -> list[Path]:
    """The visible files in a folder, links that lead nowhere among them, sorted."""
    return sorted(Path(entry.path) for entry in _entries(folder) if not entry.is_dir())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if is_visible(entry.name)]


def files_below(folder: Path) -> Iterator[Path]:
    """Visible files in a folder and all folders below it, through links, each folder once; links that lead nowhere too.

    Raises:
        OSError: a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(place)
        if real in seen:  # a link back to a folder above, or to one that was there before
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if is_visible(name))
        yield from (Path(place, name) for name in sorted(files) if is_visible(name))


def files_at(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files among and below `paths`, through links, those of a folder sorted by name, hidden ones left out.

    Raises:
        DataError: a path leads nowhere, or there are no files at all.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        try:
            if path.is_dir():
                files += sorted(files_below(path))
            elif path.exists() or path.is_symlink():
                files.append(path)
            else:
                raise DataError(
                    f"{shown(path)}: there is no such file or folder.",
                    expected="an image, or a folder with images",
                    do=_unquoted([os.fsdecode(p) for p in paths]),
                )
        except OSError as error:
            raise DataError(f"{shown(error.filename or path)}: cannot be read.", got=error.strerror) from error
    if not files:
        raise DataError(f"{', '.join(map(shown, paths))}: there are no files here.", expected="images")
    return files


def _unquoted(words: Sequence[str]) -> str:
    """What to do where words are pieces of a path with spaces; empty: they are not."""
    pieces = [words[i:j] for i in range(len(words)) for j in range(i + 2, len(words) + 1)]
    whole = next((" ".join(piece) for piece in pieces if os.path.lexists(" ".join(piece))), "")
    return f"A path with spaces needs quotes: {shell_word(whole)}" if whole else ""


def is_archive(path: Path) -> bool:
    """Whether a file is there and is called like an archive."""
    return path.suffix.lower() in _ARCHIVES and path.is_file()


def is_image(path: Path) -> bool:
    """Whether a file is meant as an image, readable or not."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in _OTHER_SUFFIXES:
        return False
    try:
        with open_regular(path) as file:
            return image_format(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return False
