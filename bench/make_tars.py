"""Any data set as WebDataset tars: images as they are stored, each with its class as a name.

    python bench/make_tars.py cifar10 /tmp/cifar-tars --per-class
    python bench/make_tars.py FOLDER OUT --shard-mib 64

Out: OUT/SPLIT-00000.tar ... and OUT/classes.txt. With --per-class a shard holds one class, the worst case for an order
that reads chunks; else the images are shuffled by --seed. Arrays (CIFAR's batches, digits) become PNGs.
"""

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.config import DataConfig
from vitrail.data import decode_image, epoch_order, open_source
from vitrail.data.formats import format_of
from vitrail.data.sources import Encoded, Split

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "AVIF": "avif"}


def encoded(record: Encoded, as_png: bool) -> tuple[bytes, str]:
    """The bytes of an image file, and its extension."""
    if isinstance(record, np.ndarray) or as_png:
        file = io.BytesIO()
        pixels = record if isinstance(record, np.ndarray) else decode_image(record, name="an image")
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue(), "png"
    content = record if isinstance(record, bytes) else record.read_bytes()
    return content, EXTENSIONS.get(format_of(content) or "", "img")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """One member; owner and time are left out, so that equal images make equal tars."""
    about = tarfile.TarInfo(name)
    about.size = len(content)
    archive.addfile(about, io.BytesIO(content))


def records(split: Split, positions: np.ndarray) -> Iterator[tuple[int, Encoded]]:
    """Examples in this order, some thousands read at a time."""
    for some in np.split(positions, range(4096, len(positions), 4096)):
        in_order = np.sort(some)
        found = dict(zip(in_order.tolist(), split.read(in_order), strict=True))
        yield from ((position, found[position]) for position in some.tolist())


def shards(split: Split, per_class: bool, seed: int) -> Iterator[np.ndarray]:
    """Positions in the order in which they are written; a new shard begins with each array."""
    if per_class:
        yield from (np.flatnonzero(split.labels == label) for label in np.unique(split.labels))
    else:
        yield epoch_order(seed, 0, len(split))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", action="store_true")
    parser.add_argument("--png", action="store_true", help="write pixels as PNG whatever they are stored as")
    parser.add_argument("--shard-mib", type=float, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    source = open_source(DataConfig(spec=args.spec), may_download=True, progress=True)
    args.out.mkdir(parents=True)
    (args.out / "classes.txt").write_text("".join(f"{name}\n" for name in source.classes), encoding="utf-8")
    for name, split in source.splits.items():
        number = 0
        for positions in shards(split, args.per_class, args.seed):
            left = records(split, positions)
            example = next(left, None)
            while example is not None:
                path = args.out / f"{name}-{number:05}.tar"
                with tarfile.open(path, "w") as archive:
                    while example is not None and archive.offset < args.shard_mib * 2**20:
                        position, record = example
                        content, extension = encoded(record, args.png)
                        add(archive, f"{position:08}.{extension}", content)
                        add(archive, f"{position:08}.cls", source.classes[split.labels[position]].encode())
                        example = next(left, None)
                print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
                number += 1


if __name__ == "__main__":
    main()
