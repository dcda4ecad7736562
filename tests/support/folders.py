"""Small data sets on disk: image folders, Parquet shards, official archives."""

import gzip
import io
import json
import pickletools
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.images import encode, noise


def write_images(folder: Path, number: int, seed: int = 0, side: int = 6) -> list[Path]:
    """Write `number` PNG files of noise, img0.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"img{index}.png" for index in range(number)]
    for index, path in enumerate(paths):
        path.write_bytes(encode(noise(side, side, seed * 1000 + index), "PNG"))
    return paths


def image_folder(root: Path, counts: Mapping[str, int], side: int = 6) -> Path:
    """Class folders with so many images: {"train/cat": 3, "train/dog": 2}."""
    for seed, (name, number) in enumerate(counts.items()):
        write_images(root / name, number, seed, side)
    return root


def write_parquet(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    image: str = "image",
    label: str = "label",
    extra: Mapping[str, tuple[Sequence[Any], Sequence[str]]] | None = None,
    rows_in_group: int = 3,
) -> Path:
    """A shard in the layout of the Hub; `extra` are further label columns with their class names."""
    import pyarrow as pa
    from pyarrow import parquet

    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: dict[str, Any] = {
        image: pa.array([{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(images)], struct_type),
    }
    features: dict[str, Any] = {image: {"_type": "Image"}}
    if names is not None:
        features[label] = {"names": list(names), "_type": "ClassLabel"}
    for column, (values, column_names) in (extra or {}).items():
        columns[column] = pa.array(values)
        features[column] = {"names": list(column_names), "_type": "ClassLabel"}
    columns[label] = pa.array(labels)
    table = pa.table(columns)
    if names is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=rows_in_group)
    return path


# ---- CIFAR batches, as Python 2 pickled them ---------------------------------------------------------------------


def python2_pickle(value: Any) -> bytes:
    """Protocol 2 with byte strings and NumPy arrays the way cPickle of Python 2 wrote them."""
    return b"\x80\x02" + b"".join(_opcodes(value, [0])) + b"."


def _opcodes(value: Any, memo: list[int]) -> list[bytes]:
    def remembered() -> bytes:
        memo[0] += 1
        return b"q" + bytes([memo[0]]) if memo[0] < 256 else b"r" + struct.pack("<I", memo[0])

    match value:
        case bytes():
            head = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
            return [head, value, remembered()]
        case bool():
            return [b"\x88" if value else b"\x89"]
        case int():
            return [b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)]
        case None:
            return [b"N"]
        case tuple():
            parts = [part for item in value for part in _opcodes(item, memo)]
            return (
                [*parts, {1: b"\x85", 2: b"\x86", 3: b"\x87"}[len(value)]] if len(value) < 4 else [b"(", *parts, b"t"]
            )
        case list():
            return [b"]", remembered(), b"(", *(part for item in value for part in _opcodes(item, memo)), b"e"]
        case dict():
            pairs = [part for pair in value.items() for item in pair for part in _opcodes(item, memo)]
            return [b"}", remembered(), b"(", *pairs, b"u"]
        case np.ndarray():
            dtype = [b"cnumpy\ndtype\n", *_opcodes((b"u1", 0, 1), memo), b"R", remembered()]
            dtype += [*_opcodes((3, b"|", None, None, None, -1, -1, 0), memo), b"b"]
            make = [b"cnumpy.core.multiarray\n_reconstruct\n", remembered(), b"cnumpy\nndarray\n", remembered()]
            make += [*_opcodes((0,), memo), *_opcodes(b"b", memo), b"\x87R", remembered()]
            state = [b"(K\x01", *_opcodes(value.shape, memo), *dtype, b"\x89", *_opcodes(value.tobytes(), memo), b"tb"]
            return [*make, *state]
        case _:
            raise TypeError(type(value))


def cifar_files(name: str, per_batch: int = 20, seed: int = 0) -> dict[str, bytes]:
    """The members of an official archive, by base name, with few random images."""
    rng = np.random.default_rng(seed)

    def batch(labels_key: bytes, num_classes: int) -> bytes:
        data = python2_pickle(
            {
                b"batch_label": b"testing",
                labels_key: [row % num_classes for row in range(per_batch)],
                b"data": rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8),
                b"filenames": [b"file_%d.png" % row for row in range(per_batch)],
            }
        )
        pickletools.dis(data, out=io.StringIO())  # a wrong opcode here would test nothing
        return data

    if name == "cifar10":
        names = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
        members = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        meta = {b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072}
        return {"batches.meta": python2_pickle(meta)} | {member: batch(b"labels", 10) for member in members}
    fine = [b"class_%03d" % index for index in range(100)]
    meta = {b"fine_label_names": fine, b"coarse_label_names": [b"coarse_%02d" % index for index in range(20)]}
    return {"meta": python2_pickle(meta)} | {member: batch(b"fine_labels", 100) for member in ("train", "test")}


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """A tar file of these members, in their order."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def tar_gz(path: Path, folder: str, files: Mapping[str, bytes], *extra: tarfile.TarInfo) -> Path:
    """An archive with `folder` and its files; `extra` members are put first, without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        directory = tarfile.TarInfo(folder)
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for member in extra:
            archive.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def idx_gz(array: np.ndarray) -> bytes:
    """A gzip'ed IDX file of unsigned bytes."""
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())
