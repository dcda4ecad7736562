"""The official files of CIFAR-10, CIFAR-100 and Fashion-MNIST, read in memory.

The CIFAR batches are pickles. They are not unpickled: a small interpreter builds the few plain values that these
files consist of and refuses every other opcode and every other global name, so nothing of a file is ever called.
Archives are never extracted.

Sources: https://www.cs.toronto.edu/~kriz/cifar.html, https://github.com/zalandoresearch/fashion-mnist.
"""

import gzip
import hashlib
import os
import pickletools
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from vitrail.data.sources.download import ARCHIVES
from vitrail.data.sources.index import Source, Split, array_split, join_splits, listing_of_paths
from vitrail.data.sources.labels import check_classes
from vitrail.errors import DataError, shown
from vitrail.reading import DAMAGE, open_regular, read_regular

_MAX_BYTES = {"cifar10": 64 << 20, "cifar100": 200 << 20}
"""Of one file: the largest have 31 MB and 155 MB."""
_MAX_IDX_BYTES = 64 << 20
"""The largest file of Fashion-MNIST unpacks to 47 MB."""
_MAX_OPCODES = 1_000_000
"""Of a pickle: CIFAR-100's train has 400,000."""

_CIFAR_SIDE = 32
_FILES = {
    "cifar10": ("batches.meta", {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}),
    "cifar100": ("meta", {"train": ["train"], "test": ["test"]}),
}
_KEYS = {"cifar10": (b"label_names", b"labels"), "cifar100": (b"fine_label_names", b"fine_labels")}


def open_cifar(place: Path, name: str) -> Source:
    """Read CIFAR-10 or CIFAR-100 from the official folder or the official .tar.gz.

    Args:
        place: the folder or the archive.
        name: "cifar10" or "cifar100".
    Raises:
        DataError: a file is missing or damaged, or is not what the official archive holds.
    """
    meta, batches = _FILES[name]
    wanted = [meta, *(batch for split in batches.values() for batch in split)]
    packed = None if place.is_dir() else _read_archive(place, wanted, name)

    def content(member: str) -> bytes:
        return packed.pop(member) if packed is not None else _read_member(place / member, _MAX_BYTES[name])

    names_key, labels_key = _KEYS[name]
    class_names = _plain_values(content(meta), f"{place}: {meta}").get(names_key)
    if not isinstance(class_names, list) or not all(isinstance(n, bytes) for n in class_names):
        raise _unexpected(f"{place}: {meta}", f"no list of names under {names_key!r}")
    classes = tuple(n.decode("ascii", errors="replace") for n in class_names)
    check_classes(classes)
    splits: dict[str, Split] = {}
    for split, members in batches.items():
        parts: list[Split] = []
        for member in members:
            pixels, labels = _batch(content(member), labels_key, len(classes), f"{place}: {member}")
            names = [f"{place.name}/{member}:{row}" for row in range(len(labels))]
            parts.append(array_split(pixels, labels, names))
        splits[split] = join_splits(parts)
    paths = [place / member for member in wanted] if place.is_dir() else [place]
    listing, num_bytes = listing_of_paths(paths, place.parent)
    return Source(name, classes, splits, listing, num_bytes)


def open_fashion_mnist(files: Sequence[Path], name: str, classes: tuple[str, ...]) -> Source:
    """Read the four official files: images and labels of train, images and labels of test, gzip'ed IDX.

    Raises:
        DataError: a file is damaged, or images and labels differ in number.
    """
    splits: dict[str, Split] = {}
    for split, images_path, labels_path in (("train", *files[:2]), ("test", *files[2:])):
        images, labels = _idx(images_path, num_axes=3), _idx(labels_path, num_axes=1).astype(np.int64)
        if len(images) != len(labels) or not len(labels) or labels.max() >= len(classes):
            raise _unexpected(str(labels_path), f"{len(labels)} labels for {len(images)} images")
        names = [f"{images_path.name}:{row}" for row in range(len(labels))]
        splits[split] = array_split(images, labels, names)
    listing, num_bytes = listing_of_paths(files, files[0].parent)
    return Source(name, classes, splits, listing, num_bytes)


def _unexpected(where: str, got: object) -> DataError:
    return DataError(
        f"{where} is not what the official data set holds.",
        got=got,
        expected="the unchanged official file",
        do="Delete it and fetch it again: vitrail data download NAME.",
    )


# ---- archives ----------------------------------------------------------------------------------------------------


def _read_member(path: Path, most: int) -> bytes:
    try:
        return read_regular(path, most)
    except OSError as error:
        raise _unexpected(shown(error.filename or path), error.strerror) from error


def _read_archive(path: Path, wanted: Sequence[str], name: str) -> dict[str, bytes]:
    """The wanted members of the official .tar.gz, by their base names. No other archive is opened."""
    try:
        check_official(path, name)
        with open_regular(path) as raw, tarfile.open(fileobj=raw, mode="r:gz") as archive:
            found: dict[str, bytes] = {}
            while len(found) < len(wanted) and (member := archive.next()) is not None:
                base = member.name.rsplit("/", 1)[-1]
                if base in wanted and member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    found[base] = _content(archive, member, _MAX_BYTES[name])
            return {base: found[base] for base in wanted}
    except (tarfile.TarError, *DAMAGE) as error:
        raise _unexpected(shown(path), shown(error)) from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    file = archive.extractfile(member)
    if file is None or member.sparse is not None or not 0 <= member.size <= most:
        raise ValueError(f"a member of {member.size} bytes")
    return file.read()


def check_official(path: Path, name: str) -> None:
    """Raise DataError where a file is not the official archive of a data set. An OSError is left to the caller."""
    official = ARCHIVES[name][0]
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size  # which tells most of them apart without reading them
        found = "" if size != official.num_bytes else hashlib.file_digest(file, "sha256").hexdigest()
    if found != official.sha256:
        got = f"SHA-256 {found[:16]}..." if found else f"{size} bytes instead of {official.num_bytes}"
        raise _unexpected(f"{shown(path)}, or the part of it that was downloaded,", got)


def _idx(path: Path, num_axes: int) -> UInt8[np.ndarray, "..."]:
    """One gzip'ed IDX file of unsigned bytes. Source: yann.lecun.com/exdb/mnist, "FILE FORMATS"."""
    try:
        with open_regular(path) as raw, gzip.open(raw, "rb") as file:
            data = file.read(_MAX_IDX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _unexpected(shown(path), shown(error)) from error
    if len(data) > _MAX_IDX_BYTES:
        raise _unexpected(shown(path), f"more than {_MAX_IDX_BYTES} bytes when unpacked")
    header = 4 + 4 * num_axes
    shape = tuple(int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(num_axes))
    size = 1
    for side in shape:
        size *= side
    if data[:4] != bytes((0, 0, 8, num_axes)) or len(data) != header + size:
        raise _unexpected(str(path), f"header {data[:header].hex()} and {len(data)} bytes")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


# ---- CIFAR batches -----------------------------------------------------------------------------------------------


def _batch(
    data: bytes, labels_key: bytes, num_classes: int, where: str
) -> tuple[UInt8[np.ndarray, "N 32 32 3"], Int64[np.ndarray, "N"]]:
    values = _plain_values(data, where)
    pixels, labels = values.get(b"data"), values.get(labels_key)
    width = 3 * _CIFAR_SIDE**2
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != width:
        raise _unexpected(where, f"no pixels of {width} bytes an image under b'data'")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise _unexpected(where, f"not one label for each of {len(pixels)} images under {labels_key!r}")
    if not all(isinstance(label, int) and 0 <= label < num_classes for label in labels):
        raise _unexpected(where, f"a label outside 0 .. {num_classes - 1}")
    planes = pixels.reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE)
    return planes.transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)


@dataclass
class _Object:
    """Stands for what a pickle would have made by a call; `value` is filled in by BUILD."""

    kind: str
    value: Any = None


# What the files name, and what it stands for here. Nothing is imported.
_GLOBALS = {
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "INT"}
_STRINGS = {"BINSTRING", "SHORT_BINSTRING"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINUNICODE"}


def _plain_values(data: bytes, where: str) -> dict[Any, Any]:
    """The dictionary in a pickle of protocol 2, byte strings as bytes, arrays of bytes as NumPy arrays.

    Raises:
        DataError: the pickle holds anything else than dictionaries, lists, tuples, strings, integers and such arrays.
    """
    try:
        result = _interpret(data)
    except DataError:
        raise
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise _unexpected(where, f"a pickle that cannot be read ({shown(error)})") from error
    if not isinstance(result, dict):
        raise _unexpected(where, f"a pickled {type(result).__name__}")
    return {key: value.value if isinstance(value, _Object) else value for key, value in result.items()}


def _interpret(data: bytes) -> object:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > _MAX_OPCODES:
            _refuse(f"a pickle of more than {_MAX_OPCODES} opcodes")
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in _NUMBERS:
            stack.append(argument)
        elif name in _STRINGS:  # pickletools shows the bytes of Python 2 strings as Latin-1
            stack.append(str(argument).encode("latin-1"))
        elif name in _BYTES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[int(str(argument))] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(str(argument))])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            stack[-size:] = [_tuple(stack[-size:])]
        elif name == "TUPLE":
            stack.append(_tuple(since_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = since_mark() if name == "APPENDS" else [stack.pop()]
            _as(list, stack[-1]).extend(
                item if not isinstance(item, list) else _refuse("a list in a list") for item in items
            )
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _as(dict, stack[-1]).update({_key(k): v for k, v in zip(items[::2], items[1::2], strict=True)})
        elif name == "GLOBAL":
            stack.append(_Object(_GLOBALS[str(argument)]) if argument in _GLOBALS else _refuse(f"name {argument!r}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduce(function, arguments))
        elif name == "BUILD":
            _build(stack[-2], stack.pop())
        elif name != "PROTO":
            _refuse(f"opcode {name}")
    raise ValueError("no end")


def _tuple(items: list[Any]) -> tuple[Any, ...]:
    """A tuple, at most in one other: the shape of an array in its state."""
    if any(isinstance(inner, tuple) for item in items if isinstance(item, tuple) for inner in item):
        _refuse("a tuple in a tuple in a tuple")
    return tuple(items)


def _key(value: Any) -> bytes:
    """A key of a dictionary. Python 2 wrote bytes; files that were pickled anew by Python 3 have text."""
    if isinstance(value, bytes | str):
        return value.encode() if isinstance(value, str) else value
    return _refuse(f"a key that is a {type(value).__name__}")


def _refuse(what: str) -> Any:
    raise ValueError(f"{what} does not occur in the official files")


def _as(kind: type, value: Any) -> Any:
    return value if type(value) is kind else _refuse(f"a {type(value).__name__} in place of a {kind.__name__}")


def _reduce(function: Any, arguments: Any) -> _Object:
    """What a call would return, for the two calls that an array of bytes takes."""
    if isinstance(function, _Object) and function.kind == "reconstruct":
        return _Object("array")
    if isinstance(function, _Object) and function.kind == "dtype" and arguments[0] in (b"u1", "u1"):
        return _Object("bytes")
    return _refuse("this call")


def _build(target: Any, state: Any) -> None:
    """Give an array its pixels: the state is (version, shape, dtype, is_fortran, data)."""
    if not isinstance(target, _Object) or target.kind not in ("array", "bytes"):
        _refuse("this state")
    if target.kind == "array":
        _, shape, dtype, is_fortran, pixels = state
        if not isinstance(dtype, _Object) or dtype.kind != "bytes" or is_fortran:
            _refuse("this layout of an array")
        target.value = np.frombuffer(_as(bytes, pixels), dtype=np.uint8).reshape(_as(tuple, shape))
