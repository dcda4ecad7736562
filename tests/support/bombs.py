"""Small files that cost much, or that lie: each is made here byte by byte, none is found in the wild.

A maker takes the folder to write into and gives the path of what is to be opened.
"""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

import vitrail
from tests.support.headers import card_of, change_card, write_file
from tests.support.random_vit import random_vit
from vitrail.config import Preprocessing

# ---- torch files --------------------------------------------------------------------------------------------------


def _torch_zip(folder: Path, pickled: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A torch file with this pickle."""
    path = folder / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
        for name, content in (storages or {}).items():
            archive.writestr(f"a/data/{name}", content)
    return path


def contains_itself(folder: Path) -> Path:
    holds: dict[str, Any] = {}
    holds["model"] = holds
    return _torch_zip(folder, pickle.dumps(holds, 2))


def nested_keys(folder: Path) -> Path:
    """A dictionary whose key is a tuple in a tuple, 400,000 deep: hashing it exhausts the stack."""
    return _torch_zip(folder, b"\x80\x02}" + b")" + b"\x85" * 400_000 + b"K\x01s.")


def nested_lists(folder: Path) -> Path:
    return _torch_zip(folder, b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")


def large_bytearray(folder: Path) -> Path:
    size = (3 << 30).to_bytes(5, "little")
    return _torch_zip(folder, b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x05" + size + b"\x85Rs.")


def stride_zero(folder: Path) -> Path:
    """One number that is said to be 4 TB of them."""
    torch.save({"model": {"a.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}}, folder / "weights.pt")
    return folder / "weights.pt"


def stride_zero_old(folder: Path) -> Path:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, folder / "a.pt", _use_new_zipfile_serialization=False)
    return folder / "a.pt"


def two_directories(folder: Path) -> Path:
    """A zip whose end points to another central directory than the one before it: readers see different members."""
    honest = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, honest)
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(honest.getvalue())) as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for member in source.infolist():
            name = member.filename
            out.writestr(name, bytes(400 << 20) if "/data/" in name else source.read(member))
    at, size = _directory(bomb.getvalue())
    # The honest archive goes behind the bomb, and its end names the place of the bomb's directory.
    raw = bytearray(bomb.getvalue()[: at + size] + honest.getvalue())
    end = raw.rindex(b"PK\x05\x06")
    struct.pack_into("<I", raw, end + 16, at)
    (folder / "weights.pt").write_bytes(raw)
    return folder / "weights.pt"


def _directory(raw: bytes) -> tuple[int, int]:
    end = raw.rindex(b"PK\x05\x06")
    size, at = struct.unpack_from("<II", raw, end + 12)
    return at, size


# ---- safetensors and npz ------------------------------------------------------------------------------------------


def _empty(shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape or [0], "data_offsets": [0, 0]}


def far_block(folder: Path) -> Path:
    state = {f"blocks.{i}.norm1.weight": torch.zeros(64) for i in (0, 1_000_000_000)}
    state |= {"patch_embed.proj.weight": torch.zeros(64, 3, 4, 4), "patch_embed.proj.bias": torch.zeros(64)}
    safetensors.torch.save_file(state, folder / "a.safetensors")
    return folder / "a.safetensors"


def huge_block_number(folder: Path) -> Path:
    state = {f"blocks.{'9' * 5000}.norm1.weight": torch.zeros(64), "patch_embed.proj.weight": torch.zeros(64, 3, 4, 4)}
    safetensors.torch.save_file(state, folder / "a.safetensors")
    return folder / "a.safetensors"


def million_empty_tensors(folder: Path) -> Path:
    entry = json.dumps(_empty())
    text = "{" + ",".join(f'"{i}":{entry}' for i in range(1_000_000)) + "}"
    return write_file(folder / "a.safetensors", text.encode())


def large_metadata(folder: Path) -> Path:
    return write_file(folder / "a.safetensors", {"__metadata__": {"vitrail": "x" * (90 << 20)}, "a": _empty()})


def deep_metadata(folder: Path) -> Path:
    text = '{"a":' * 100_000 + "1" + "}" * 100_000
    return write_file(folder / "a.safetensors", {"__metadata__": {"vitrail": text}, "a": _empty()})


def deep_header(folder: Path) -> Path:
    return write_file(folder / "a.safetensors", b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


def duplicate_names(folder: Path) -> Path:
    one = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    return write_file(folder / "a.safetensors", b"{" + one + b"," + one + b"}", bytes(4))


def bz2_member(folder: Path) -> Path:
    path = folder / "a.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 27,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive, archive.open("a.npy", "w", force_zip64=True) as out:
        out.write(header.getvalue())
        for _ in range(8):
            out.write(bytes(64 << 20))
    return path


def lying_npy(folder: Path) -> Path:
    path = folder / "a.npz"
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"(" * 3000 + b")" * 3000 + b",), }"
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    return path


# ---- model files and folders --------------------------------------------------------------------------------------


def card_with(**changes: Any) -> Callable[[Path], Path]:
    """A model file of ours whose description says something else than its tensors are."""

    def make(folder: Path) -> Path:
        model = random_vit()
        preprocessing = Preprocessing(image_size=(16, 16), decode_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
        card = vitrail.Card(geometry=model.config, classes=tuple("abcde"), preprocessing=preprocessing)
        path = folder / "model.safetensors"
        vitrail.save(path, model, card)
        described = card_of(path)
        for name, value in changes.items():
            part, _, field = name.partition("__")
            (described[part] if field else described)[field or part] = value
        return change_card(path, described)

    return make


def remote_code(folder: Path) -> Path:
    """A folder as of a model that brings its own Python."""
    safetensors.torch.save_file({"a": torch.zeros(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}, "model_type": "vit"}))
    (folder / "evil.py").write_text("import os\nos.mkdir('it-ran')\n")
    return folder


def sidecar(text: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        safetensors.torch.save_file({"a": torch.zeros(3)}, folder / "model.safetensors")
        (folder / "config.json").write_bytes(text)
        return folder

    return make


def named_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.safetensors")
    return folder / "a.safetensors"


def endless(folder: Path) -> Path:
    (folder / "a.safetensors").symlink_to("/dev/zero")
    return folder / "a.safetensors"


def endless_config(folder: Path) -> Path:
    safetensors.torch.save_file({"a": torch.zeros(3)}, folder / "model.safetensors")
    (folder / "config.json").symlink_to("/dev/zero")
    return folder


def piped_config(folder: Path) -> Path:
    safetensors.torch.save_file({"a": torch.zeros(3)}, folder / "model.safetensors")
    os.mkfifo(folder / "config.json")
    return folder


WEIGHTS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        contains_itself, nested_keys, nested_lists, large_bytearray, stride_zero, stride_zero_old, two_directories,
        far_block, huge_block_number, million_empty_tensors, large_metadata, deep_metadata, deep_header,
        duplicate_names, bz2_member, lying_npy, remote_code, named_pipe, endless, endless_config, piped_config,
    )
}  # fmt: skip
WEIGHTS |= {
    "card-wide": card_with(geometry__hidden_size=1_000_000_000),
    "card-deep": card_with(geometry__num_hidden_layers=10_000_000),
    "card-heads": card_with(geometry__num_attention_heads=2**62, geometry__hidden_size=2**62),
    "card-stem": card_with(geometry__stem_channels=[100_000, 100_000], geometry__stem_strides=[1, 1]),
    "card-long-stem": card_with(geometry__stem_channels=[4] * 100_000, geometry__stem_strides=[1] * 100_000),
    "card-mlp": card_with(geometry__mlp_ratio=1e300),
    "card-registers": card_with(geometry__num_registers=10**12),
    "card-labels": card_with(geometry__num_labels=10**12, classes=[]),
    "card-sincos": card_with(geometry__image_size=11_600, geometry__position="sincos"),
    "card-channels": card_with(geometry__num_channels=10**9),
    "card-decode-size": card_with(preprocessing__decode_size=[25_000, 25_000]),
    "card-image-size": card_with(preprocessing__image_size=[2**40, 2**40]),
    "card-mean": card_with(preprocessing__mean=[0.0] * 1_000_000),
    "card-classes": card_with(classes=["x" * 1_000_000] * 5),
    "card-wrong-types": card_with(classes=[None, 1, {}, [], 2.0], metrics=3, provenance="x"),
    "config-deep": sidecar(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "config-digits": sidecar(b'{"hidden_size": ' + b"9" * 100_000 + b"}"),
    "config-utf16": sidecar('{"hidden_size": 3}'.encode("utf-16")),
    "config-large": sidecar(b'{"a": "' + b"x" * (200 << 20) + b'"}'),
}


# ---- archives ------------------------------------------------------------------------------------------------------


def _cifar_pickle(key: bytes = b"label_names") -> bytes:
    return pickle.dumps({key: [b"a"] * 10}, 2)


def cifar_nested(folder: Path) -> Path:
    """batches.meta whose key is a tuple 2,000,000 deep."""
    return _cifar_folder(folder, b"\x80\x02}" + b")" + b"\x85" * 2_000_000 + b"K\x01s.")


def cifar_nested_value(folder: Path) -> Path:
    return _cifar_folder(folder, b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")


def cifar_growing(folder: Path) -> Path:
    """Each list holds the one before twice; printing it never ends."""
    body = b"]q\x00" + b"".join(
        b"]q" + bytes([i + 1]) + b"(h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(60)
    )
    return _cifar_folder(folder, b"\x80\x02}U\x0blabel_names" + body + b"s.")


def cifar_long_number(folder: Path) -> Path:
    return _cifar_folder(folder, b"\x80\x02I" + b"9" * 4_000_000 + b"\n.")


def _cifar_folder(folder: Path, meta: bytes) -> Path:
    (folder / "batches.meta").write_bytes(meta)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(_cifar_pickle())
    return folder


def _tar(folder: Path, write: Callable[[tarfile.TarFile], None]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        write(archive)
    path = folder / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(buffer.getvalue()))
    return path


def tar_sparse(folder: Path) -> Path:
    """A member of a few bytes that says it is 3 GB with a hole."""

    def write(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        info.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(3 << 30),
            "GNU.sparse.name": info.name,
        }  # fmt: skip
        body = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))

    return _tar(folder, write)


def tar_pax(folder: Path) -> Path:
    """A header of many megabytes of attributes, compressed to kilobytes."""
    entry = b"".join(b"%d k%07d=v\n" % (13, i) for i in range(1_000_000))
    return _raw_tar(folder, tarfile.XHDTYPE, entry)


def tar_long_name(folder: Path) -> Path:
    return _raw_tar(folder, tarfile.GNUTYPE_LONGNAME, b"a" * (100 << 20))


def _raw_tar(folder: Path, kind: bytes, content: bytes) -> Path:
    """An archive with a special header, written as it is, and an empty file behind it."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, len(content)
    path = folder / "cifar-10-python.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf() + content + bytes(-len(content) % 512) + tarfile.TarInfo("y").tobuf() + bytes(1024))
    return path


def tar_device_link(folder: Path) -> Path:
    def write(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        info.type, info.linkname = tarfile.SYMTYPE, "/dev/zero"
        archive.addfile(info)

    return _tar(folder, write)


def tar_grows(folder: Path) -> Path:
    path = folder / "cifar-10-python.tar.gz"
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        for _ in range(512):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    return path


def tar_holes(folder: Path) -> Path:
    """An archive of a terabyte, none of it on the disk."""
    path = folder / "cifar-10-python.tar.gz"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    return path


def cifar_many_opcodes(folder: Path) -> Path:
    return _cifar_folder(folder, b"\x80\x02" + b"N" * (30 << 20) + b".")


def cifar_marks(folder: Path) -> Path:
    """Tuples that are made one after the other on top of a large stack."""
    return _cifar_folder(folder, b"\x80\x02" + b"N" * 300_000 + b"(t" * 300_000 + b".")


def cifar_holes(folder: Path) -> Path:
    """Batches of 60 MB each, none of them on the disk."""
    _cifar_folder(folder, _cifar_pickle())
    for path in folder.iterdir():
        with path.open("r+b") as file:
            file.truncate(60 << 20)
    return folder


def cifar_piped(folder: Path) -> Path:
    _cifar_folder(folder, _cifar_pickle())
    (folder / "batches.meta").unlink()
    os.mkfifo(folder / "batches.meta")
    return folder


CIFAR: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        cifar_nested, cifar_nested_value, cifar_growing, cifar_long_number, cifar_many_opcodes, cifar_marks,
        cifar_holes, tar_sparse, tar_pax, tar_long_name, tar_device_link, tar_grows, tar_holes, cifar_piped,
    )
}  # fmt: skip


# ---- tables --------------------------------------------------------------------------------------------------------


def _parquet(folder: Path, labels: Any, images: Any, **options: Any) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / "train.parquet"
    parquet.write_table(pa.table({"image": images, "label": labels}), path, **{"compression": "zstd", **options})
    return path


def _repeated(value: Any, count: int, kind: Any = None) -> Any:
    """A column with one value in every row, which a file has once."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value], kind))


def _plain(column: str) -> dict[str, Any]:
    """Options for pages that hold every value, and that only their compression makes small."""
    return {"use_dictionary": False, "column_encoding": {column: "PLAIN"}, "data_page_size": 1 << 30}


def _prefixed(column: str) -> dict[str, Any]:
    """Options for pages that hold of each value what the one before does not begin with."""
    return {"use_dictionary": False, "column_encoding": {column: "DELTA_BYTE_ARRAY"}}


def parquet_labels(folder: Path) -> Path:
    """Very many rows of one label."""
    return _parquet(folder, _repeated("a" * 20, 40_000_000), _repeated(b"x", 40_000_000))


def parquet_label_once(folder: Path) -> Path:
    """A label of a megabyte in every row, stored once."""
    return _parquet(folder, _repeated("a" * (1 << 20), 9000), _repeated(b"x", 9000))


def parquet_plain_labels(folder: Path) -> Path:
    return _parquet(folder, ["a" * 100_000] * 4000, [b"x"] * 4000, **_plain("label"))


def parquet_prefixed_labels(folder: Path) -> Path:
    return _parquet(folder, ["a" * 100_000 + f"{i:04}" for i in range(1000)], [b"x"] * 1000, **_prefixed("label"))


def parquet_fixed_labels(folder: Path) -> Path:
    """Rows without a label where each would have 10 MB."""
    import pyarrow as pa

    return _parquet(folder, pa.nulls(50, pa.binary(10_000_000)), [b"x"] * 50)


def parquet_list_labels(folder: Path) -> Path:
    """One row, whose label is a list of 50 million numbers."""
    import pyarrow as pa

    labels = pa.ListArray.from_arrays(pa.array([0, 50_000_000], pa.int32()), pa.array(np.zeros(50_000_000, np.int64)))
    return _parquet(folder, labels, [b"x"])


def parquet_struct_labels(folder: Path) -> Path:
    import pyarrow as pa

    return _parquet(folder, pa.StructArray.from_arrays([_repeated("a" * (1 << 20), 2000)], ["a"]), [b"x"] * 2000)


def parquet_images(folder: Path) -> Path:
    """A few rows of one image of many megabytes."""
    import pyarrow as pa

    return _parquet(folder, ["a", "b"] * 32, _repeated(bytes(32 << 20), 64, pa.large_binary()))


def parquet_struct_images(folder: Path) -> Path:
    """The same as the Hub lays images out."""
    import pyarrow as pa

    images = _repeated(bytes(32 << 20), 16, pa.binary()).dictionary_decode()
    return _parquet(folder, ["a", "b"] * 8, pa.StructArray.from_arrays([images], ["bytes"]))


def parquet_plain_images(folder: Path) -> Path:
    return _parquet(folder, ["a", "b"] * 50, [bytes(4 << 20)] * 100, **_plain("image"))


def parquet_prefixed_images(folder: Path) -> Path:
    images = [bytes(1 << 20) + i.to_bytes(2, "big") for i in range(300)]
    return _parquet(folder, ["a", "b"] * 150, images, **_prefixed("image"))


def parquet_fixed_images(folder: Path) -> Path:
    import pyarrow as pa

    return _parquet(folder, ["a", "b"] * 25, pa.nulls(50, pa.binary(10_000_000)))


def parquet_list_images(folder: Path) -> Path:
    """An image column with a part that nobody needs: a list of 50 million numbers."""
    import pyarrow as pa

    numbers = pa.ListArray.from_arrays(
        pa.array([0, 0, 50_000_000], pa.int32()), pa.array(np.zeros(50_000_000, np.int64))
    )
    images = pa.StructArray.from_arrays([pa.array([b"x", b"y"]), numbers], ["bytes", "more"])
    return _parquet(folder, ["a", "b"], images)


def parquet_many_labels(folder: Path) -> Path:
    return _parquet(folder, [f"class {i}" for i in range(200_000)], [b"x"] * 200_000)


def parquet_long_labels(folder: Path) -> Path:
    return _parquet(folder, [f"{i}" + "ab" * 20_000 for i in range(200)], [b"x"] * 200)


def parquet_many_names(folder: Path) -> Path:
    """A declared set of a million classes."""
    import pyarrow as pa
    from pyarrow import parquet

    names = [str(i) for i in range(1_000_000)]
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
    table = pa.table({"image": [b"x"] * 2, "label": [0, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, folder / "train.parquet", store_schema=False)
    return folder / "train.parquet"


def parquet_similar_names(folder: Path) -> Path:
    """A label that is no class, to be compared with 50,000 long names that are nearly the same."""
    names = ["ab" * 90 + f"{i:05}" for i in range(50_000)]
    _parquet(folder, names, [b"x"] * 50_000)
    (folder / "train.parquet").rename(folder / "train-0.parquet")
    _parquet(folder, ["ba" * 90 + "00000", "a"], [b"x"] * 2)
    (folder / "train.parquet").rename(folder / "test-0.parquet")
    return folder


def parquet_large_metadata(folder: Path) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"image": [b"x"] * 2, "label": [0, 1]}).replace_schema_metadata({"a": "x" * (100 << 20)})
    parquet.write_table(table, folder / "train.parquet")
    return folder / "train.parquet"


def _parquet_of(folder: Path, elements: list[bytes]) -> Path:
    """A file of nothing but a schema, whose elements are written here, because no library writes such ones."""
    footer = b"\x15\x02\x19\xfc" + _varint(len(elements)) + b"".join(elements) + b"\x16\x00\x19\x0c\x00"
    path = folder / "train.parquet"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return path


def _varint(number: int) -> bytes:
    more, last = divmod(number, 128)
    return bytes([last]) if not more else bytes([last | 128]) + _varint(more)


def _group(children: int) -> bytes:
    return b"\x35\x00\x18\x01a\x15" + _varint(2 * children) + b"\x00"


def parquet_deep_schema(folder: Path) -> Path:
    return _parquet_of(folder, [*[_group(1)] * 90_000, b"\x15\x04\x25\x00\x18\x01b\x00"])


def parquet_wide_schema(folder: Path) -> Path:
    leaves = [b"\x15\x04\x25\x00\x18\x06" + b"%06d\x00" % i for i in range(100_000)]
    return _parquet_of(folder, [_group(len(leaves)), *leaves])


def parquet_many_groups(folder: Path) -> Path:
    """A row group a row."""
    return _parquet(folder, ["a", "b"] * 5000, [b"x", b"y"] * 5000, row_group_size=1)


def parquet_pipe(folder: Path) -> Path:
    _parquet(folder, ["a", "b"], [b"x", b"y"])
    os.mkfifo(folder / "train-1.parquet")
    return folder


def parquet_endless(folder: Path) -> Path:
    (folder / "train.parquet").symlink_to("/dev/zero")
    return folder


def csv_many_classes(folder: Path) -> Path:
    (folder / "a.csv").write_text("path,label\n" + "".join(f"{i}.png,class {i}\n" for i in range(60_000)))
    return folder / "a.csv"


def csv_long_field(folder: Path) -> Path:
    (folder / "a.csv").write_text("path,label\na.png," + "x" * (64 << 20) + "\n")
    return folder / "a.csv"


def csv_long_line(folder: Path) -> Path:
    """A line of a gigabyte, none of it on the disk."""
    with (folder / "a.csv").open("wb") as file:
        file.write(b"path,label\na.png,")
        file.truncate(200 << 20)
    return folder / "a.csv"


def csv_empty_lines(folder: Path) -> Path:
    (folder / "a.csv").write_bytes(b"path,label\n" + b"\n" * (6 << 20))
    return folder / "a.csv"


def csv_short_rows(folder: Path) -> Path:
    (folder / "a.csv").write_bytes(b"path,label\n" + b"a,b\n" * 400_000)
    return folder / "a.csv"


def csv_columns(folder: Path) -> Path:
    (folder / "a.csv").write_bytes(b"path,label" + b"," * 500_000 + b"\n" + (b"," * 500_000 + b"\n") * 20)
    return folder / "a.csv"


def tsv_quotes(folder: Path) -> Path:
    (folder / "a.tsv").write_bytes(b'path\tlabel\na.png\t"' + b"x\n" * (1 << 20))
    return folder / "a.tsv"


def csv_endless(folder: Path) -> Path:
    (folder / "a.csv").symlink_to("/dev/zero")
    return folder / "a.csv"


def csv_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.csv")
    return folder / "a.csv"


def csv_nul(folder: Path) -> Path:
    (folder / "a.csv").write_bytes(b"path,label\na.png,\x00\x00\n\x00.png,b\n")
    return folder / "a.csv"


def csv_outside(folder: Path) -> Path:
    (folder / "a.csv").write_text("path,label\n/dev/zero,a\n/dev/stdin,b\n/proc/self/mem,b\n")
    return folder / "a.csv"


TABLES: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        parquet_labels, parquet_label_once, parquet_plain_labels, parquet_prefixed_labels, parquet_fixed_labels,
        parquet_list_labels, parquet_struct_labels, parquet_images, parquet_struct_images, parquet_plain_images,
        parquet_prefixed_images, parquet_fixed_images, parquet_list_images, parquet_many_labels, parquet_long_labels,
        parquet_many_names, parquet_similar_names, parquet_large_metadata, parquet_deep_schema, parquet_wide_schema,
        parquet_many_groups, parquet_pipe, parquet_endless,
        csv_many_classes, csv_long_field, csv_long_line, csv_empty_lines, csv_short_rows, csv_columns, tsv_quotes,
        csv_endless, csv_pipe, csv_nul, csv_outside,
    )
}  # fmt: skip
