"""Small WebDataset shards, written with Python's tarfile."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def png(seed: int, side: int = 8) -> bytes:
    """A small image of noise, another one for each seed."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def tar_bytes(members: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar with these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return file.getvalue()


def samples(seeds: Iterable[int], classes: Sequence[str] = ("cat", "dog"), side: int = 8) -> list[tuple[str, bytes]]:
    """Members of one image and one `.cls` for each seed; the class goes round."""
    return [
        member
        for seed in seeds
        for member in (
            (f"{seed:05}.png", png(seed, side)),
            (f"{seed:05}.cls", classes[seed % len(classes)].encode()),
        )
    ]


def write_shards(folder: Path, counts: Sequence[int], split: str = "train", side: int = 8) -> list[Path]:
    """Shards with so many images each; the seed of an image is its number among all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, first = [], 0
    for number, count in enumerate(counts):
        paths.append(folder / f"{split}-{number:03}.tar")
        paths[-1].write_bytes(tar_bytes(samples(range(first, first + count), side=side)))
        first += count
    return paths
