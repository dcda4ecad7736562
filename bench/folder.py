"""2,000 JPEG files of 500x375 to the input of a model at 224: ours from files, and packed, beside a Pillow DataLoader.

    .venv/bin/python bench/folder.py [--rounds 3] [--images 2000]

`reference`: torchvision's Resize(256), CenterCrop(224), ToTensor, Normalize on Pillow images, a DataLoader with two
workers. `cold`: our decoder to the same size, filter and crop, once with the same pixels (`exact`) and once with
data.fast-decoding (`fast`); `packed`: what `vitrail data pack` wrote, checksum included in the first pass over it
(`first`), then as every later epoch finds it. All of them end with normalised float batches. The photographs are
CIFAR-10 images, magnified, with some grain. The files are in the page cache for everyone. About two minutes on two
cores.

Out: a Markdown table, and bench/results/folder.json.
"""

import argparse
import io
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from results_file import save
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.torchvision_import import transforms as tv
from vitrail import data
from vitrail.augment import prepare
from vitrail.bench import Work, compare
from vitrail.config import DataConfig
from vitrail.data.sources.packed import _sha256 as packed_hash

BATCH, SIZE, QUALITY = 64, (500, 375), 90
HALF = (0.5, 0.5, 0.5)


class Files(Dataset[torch.Tensor]):
    """Decoded and transformed on access."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = tv.Compose([tv.Resize(256), tv.CenterCrop(224), tv.ToTensor(), tv.Normalize(HALF, HALF)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def write_photographs(folder: Path, count: int) -> None:
    source = data.load(DataConfig(spec="cifar10"), ("test",))["test"]
    generator = np.random.default_rng(0)
    grain = generator.normal(0, 4, (SIZE[1], SIZE[0], 1))
    for number in range(count):
        image = Image.fromarray(source.images[number % len(source)].transpose(1, 2, 0))
        large = np.asarray(image.resize(SIZE, Image.Resampling.BICUBIC)) + np.roll(grain, number, 1)
        buffer = io.BytesIO()
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
        path = folder / source.classes[source.labels[number % len(source)]] / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())


def ours(config: DataConfig) -> Work:
    """Load everything, then one pass over it."""
    settings = data.preprocessing_for(config)

    def work() -> int:
        loaded = data.load(config, ("all",))["all"]
        return one_pass(loaded, settings)

    return work


def one_pass(loaded: data.ImageSet, settings: object) -> int:
    walk = data.batches(loaded, data.epoch_order(0, 0, len(loaded)), BATCH, device=torch.device("cpu"))
    return sum(len(prepare(batch.images, settings)) for batch in walk)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, packed = Path(place, "photographs"), Path(place, "packed")
        write_photographs(folder, arguments.images)
        loader = DataLoader(Files(sorted(folder.rglob("*.jpg"))), BATCH, num_workers=2, persistent_workers=True)
        exact = DataConfig(spec=str(folder), image_size=224, resize_size=256, resize_filter="bilinear")
        fast = replace(exact, fast_decoding=True)
        data.pack(exact, packed)
        from_pack = replace(exact, spec=str(packed))
        first = ours(from_pack)

        def first_pass() -> int:
            packed_hash.cache_clear()  # as in a new process
            return first()

        loaded = data.load(from_pack, ("all",))["all"]
        contenders: dict[str, Work] = {
            "reference": lambda: sum(len(batch) for batch in loader),
            "cold, exact": ours(exact),
            "cold, fast": ours(fast),
            "packed, first": first_pass,
            "packed": lambda: one_pass(loaded, data.preprocessing_for(from_pack)),
        }
        result = compare(contenders, unit="images", rounds=arguments.rounds, seconds=0.1)
    print(f"{arguments.images} JPEG files of {SIZE[0]}x{SIZE[1]}, decoded and resized to 224\n")
    print(result.table("reference"))
    described = {"images": arguments.images, "size": SIZE, "quality": QUALITY, "batch": BATCH}
    print(f"\n{save('folder', {**described, **result.to_json('reference')}, out=arguments.out)}")


if __name__ == "__main__":
    main()
