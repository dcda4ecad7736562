"""Mutants of honest tables, packed data sets and official archives, for tests.support.hostile.

A maker takes a seed, the folder for its mutant and random numbers, and gives what is opened.
"""

import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from tests.support.folders import cifar_files, image_folder, tar_gz, write_images
from tests.support.hostile import BATCH, TARGETS, VALUES, damaged, damaged_json, try_mutants
from tests.support.images import encode, noise
from vitrail import data
from vitrail.config import DataConfig
from vitrail.data.sources import official
from vitrail.data.sources.packed import INDEX

_IMAGES = [encode(noise(6, 6, seed), "PNG") for seed in range(40)]
_CIFAR_FOLDER = "cifar-10-batches-py"


def attempt_tables(kind: str, folder: str, first: int, count: int = BATCH) -> None:
    """Give mutants of a kind, a key of KINDS, to everything that reads it.

    Args:
        kind: what is damaged, and how.
        folder: honest ones, as `make_tables` wrote them.
        first: number of the first mutant.
        count: how many.
    Raises:
        AssertionError: as `tests.support.hostile.attempt_mutants`.
    """
    damage, target = KINDS[kind]
    seeds = sorted(Path(folder).iterdir())
    if target == "cifar10":
        official.check_official = lambda _path, _name: None  # so that the reader itself sees the mutants

    def make(number: int, work: Path) -> tuple[Path, str]:
        seed = seeds[number % len(seeds)]
        return damage(seed, work, random.Random(number)), seed.name

    try_mutants(make, TARGETS[target], Path(folder).parent / f"mutant-{kind}-{first}", first, count)


def make_tables(kind: str, folder: str) -> None:
    """Write the honest ones of a kind."""
    Path(folder).mkdir()
    _SEEDS[kind](Path(folder))


# ---- Parquet -----------------------------------------------------------------------------------------------------


def _parquet_seeds(folder: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(_IMAGES)], struct)
    numbers, words = [i % 4 for i in range(40)], ["ant", "bee", "cat", "doe"]
    names = [words[number] for number in numbers]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": words}}
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    hub = pa.table({"image": images, "label": numbers}).replace_schema_metadata(described)
    plain = pa.table({"image": _IMAGES, "label": names})
    views = {"image": pa.array(_IMAGES, pa.binary_view()), "label": pa.array(names).dictionary_encode()}
    fixed = {"image": pa.array([b"12345678"] * 40, pa.binary(8)), "label": pa.array(numbers, pa.int8())}
    nulls = {"image": [*_IMAGES[:38], None, None], "label": [None, 0.0, float("nan"), *numbers[3:]]}
    paths = {"file_name": [f"img{i % 3}.png" for i in range(40)], "label": names}
    tables: dict[str, tuple[pa.Table, dict[str, Any]]] = {
        "hub": (hub, {"row_group_size": 7}),
        "hub-zstd": (hub, {"compression": "zstd", "data_page_version": "2.0"}),
        "hub-raw": (hub, {"compression": "none", "use_dictionary": False, "write_page_checksum": True}),
        "bytes-gzip": (plain, {"compression": "gzip", "row_group_size": 11, "data_page_size": 200}),
        "bytes-delta": (
            plain,
            {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY", "label": "DELTA_BYTE_ARRAY"}},
        ),
        "bytes-lengths": (
            plain,
            {"use_dictionary": False, "column_encoding": {"image": "DELTA_LENGTH_BYTE_ARRAY", "label": "PLAIN"}},
        ),
        "views": (pa.table(views), {}),
        "fixed": (pa.table(fixed), {}),
        "nulls": (pa.table(nulls), {}),
        "paths": (pa.table(paths), {"compression": "brotli"}),
    }
    for name, (table, options) in tables.items():
        parquet.write_table(table, folder / f"{name}.parquet", **options)


def _damaged_parquet(seed: Path, work: Path, rng: random.Random) -> Path:
    """Bytes of the file, its footer alone, the Hub's description, or a page's header."""
    mutant, raw = work / seed.name, seed.read_bytes()
    length = int.from_bytes(raw[-8:-4], "little")
    match rng.randrange(4):
        case 0:
            table = parquet.read_table(seed)
            text = damaged_json((table.schema.metadata or {}).get(b"huggingface", b'{"info": {}}'), rng)
            parquet.write_table(table.replace_schema_metadata({"huggingface": text}), mutant)
        case 1:
            footer = damaged(raw[-8 - length : -8], rng)
            mutant.write_bytes(raw[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
        case 2:  # of equal length, so that what stands behind it is found
            content = bytearray(raw)
            for _ in range(rng.randrange(1, 4)):
                content[rng.randrange(len(content) - 8)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            mutant.write_bytes(content)
        case _:
            mutant.write_bytes(damaged(raw, rng))
    return mutant


# ---- manifests ---------------------------------------------------------------------------------------------------


def _manifest_seeds(folder: Path) -> None:
    rows = [("path", "label", "split")]
    rows += [(f"images/img{i}.png", ("cat", "dog", "a, b")[i % 3], ("train", "test")[i % 4 == 0]) for i in range(12)]

    def text(mark: str) -> str:
        return "\n".join(mark.join(f'"{cell}"' if mark in cell else cell for cell in row) for row in rows) + "\n"

    forms = {
        "comma.csv": text(",").encode(),
        "tab.tsv": text("\t").encode(),
        "semicolon.csv": text(";").encode("utf-8-sig"),
        "wide.csv": text(",").encode("utf-16"),
        "lines.csv": text(",").replace("\n", "\r\n").encode(),
    }
    for name, content in forms.items():
        write_images(folder / name.replace(".", "-") / "images", 12)
        (folder / name.replace(".", "-") / name).write_bytes(content)


def _damaged_manifest(seed: Path, work: Path, rng: random.Random) -> Path:
    shutil.copytree(seed, work / seed.name)
    mutant = next(path for path in (work / seed.name).iterdir() if path.is_file())
    raw = mutant.read_bytes()
    if rng.random() < 0.5:
        mutant.write_bytes(damaged(raw, rng))
        return mutant
    encoding = "utf-16" if raw[:2] == b"\xff\xfe" else "utf-8"
    lines = [line.split(",") for line in raw.decode(encoding).split("\n")]
    for _ in range(rng.randrange(1, 4)):
        line = rng.choice(lines)
        odd = ("\0", '"', "\r", "\u2028", "/dev/zero", "images", "../" * 500, "~", "-1", *map(str, VALUES))
        line[rng.randrange(len(line))] = rng.choice(odd)
    mutant.write_bytes("\n".join(",".join(line) for line in lines).encode(encoding, "surrogatepass"))
    return mutant


# ---- packed sets -------------------------------------------------------------------------------------------------


def _pack_seeds(folder: Path) -> None:
    photos = image_folder(folder.parent / "photos", {"train/cat": 5, "train/dog": 4, "test/cat": 2, "test/dog": 3})
    (photos / "train" / "cat" / "img2.png").write_text("no image")
    for channels in ("RGB", "L"):
        data.pack(DataConfig(spec=str(photos), image_size=8, channels=channels), folder / channels)


def _damaged_pack(seed: Path, work: Path, rng: random.Random) -> Path:
    """One file of it; mostly with the hashes that make it look as it was written."""
    mutant = work / seed.name
    shutil.copytree(seed, mutant)
    victim = rng.choice(sorted(mutant.iterdir()))
    is_json = victim.suffix == ".json"
    victim.write_bytes((damaged_json if is_json and rng.random() < 0.8 else damaged)(victim.read_bytes(), rng))
    if victim.name != INDEX and rng.random() < 0.8:
        index = json.loads((mutant / INDEX).read_text())
        key = "records_sha256" if is_json else "pixels_sha256"
        index["splits"][victim.stem][key] = hashlib.sha256(victim.read_bytes()).hexdigest()
        (mutant / INDEX).write_text(json.dumps(index))
    return mutant


# ---- CIFAR -------------------------------------------------------------------------------------------------------


def _cifar_seeds(folder: Path) -> None:
    tar_gz(folder / "archive.tar.gz", _CIFAR_FOLDER, cifar_files("cifar10", 4))
    whole = folder / "folder"
    whole.mkdir()
    for name, content in cifar_files("cifar10", 6).items():
        (whole / name).write_bytes(content)


def _damaged_cifar(seed: Path, work: Path, rng: random.Random) -> Path:
    """A file of the folder; of the archive a member, its tar file, or the compressed bytes."""
    mutant = work / seed.name
    if seed.is_dir():
        shutil.copytree(seed, mutant)
        victim = rng.choice(sorted(mutant.iterdir()))
        victim.write_bytes(damaged(victim.read_bytes(), rng))
        return mutant
    raw = seed.read_bytes()
    match rng.randrange(4):
        case 0:
            mutant.write_bytes(damaged(raw, rng))
        case 1:
            mutant.write_bytes(gzip.compress(damaged(gzip.decompress(raw), rng), 1))
        case 2:
            _change_member(raw, mutant, rng)
        case _:
            files = cifar_files("cifar10", 4)
            victim = rng.choice(sorted(files))
            tar_gz(mutant, _CIFAR_FOLDER, {**files, victim: damaged(files[victim], rng)})
    return mutant


def _change_member(raw: bytes, mutant: Path, rng: random.Random) -> None:
    """Other fields of a header, with its right checksum."""
    kinds = (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        tarfile.DIRTYPE,
    )
    with (
        tarfile.open(fileobj=io.BytesIO(raw)) as source,
        tarfile.open(mutant, "w:gz", format=tarfile.PAX_FORMAT, compresslevel=1) as out,
    ):
        members = source.getmembers()
        victim = rng.choice(members)
        for member in members:
            content = source.extractfile(member) if member.isreg() else None
            if member is victim:
                member.type = rng.choice(kinds)
                member.linkname = rng.choice(("", "/dev/zero", member.name, "../../etc/passwd"))
                member.pax_headers = rng.choice(
                    (
                        {},
                        {"size": "-1"},
                        {"size": str(1 << 40)},
                        {"GNU.sparse.map": "0,1"},
                        {"GNU.sparse.size": "9" * 30},
                    )
                )
            out.addfile(member, content)


def _table(path: Path) -> Iterator[Callable[[], object]]:
    config = DataConfig(spec=str(path), image_size=8)
    yield from TARGETS["data"](path)
    yield partial(data.available_splits, config)


Damage = Callable[[Path, Path, random.Random], Path]
KINDS: dict[str, tuple[Damage, str]] = {
    "parquet": (_damaged_parquet, "table"),
    "manifest": (_damaged_manifest, "table"),
    "pack": (_damaged_pack, "table"),
    "cifar": (_damaged_cifar, "cifar10"),
}
_SEEDS = {"parquet": _parquet_seeds, "manifest": _manifest_seeds, "pack": _pack_seeds, "cifar": _cifar_seeds}
TARGETS["table"] = _table
