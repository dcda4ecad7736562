"""Photographs to random resized crops of 224: ours from files, beside torchvision, albumentations, kornia and others.

    .venv/bin/python bench/crops.py --photographs DIR [--rounds 3] [--images 2000] [--large 200]

DIR has JPEG photographs, as the repository EliSchwartz/imagenet-sample-images has them. Two sets are made of them:
files of 500x375, and files of 4000x3000 with 64 photographs each, so that they are as hard to decode as a camera's.
Every contender crops at random (area 0.08 to 1), flips, and ends with normalised float batches of 64; peers load by two
worker processes, as their documentation says. `ours, fast` is data.fast-decoding. webdataset, litdata and `ours, tar`
read the same files out of shards that were written before; kornia crops what a loader's workers have decoded, image by
image. What is not installed is left out. Files are in the page cache for everyone.

`beside a step`: the share of the time that a training step of a ViT-B/16 waits for its input (one step of 4 images
after the other, the store decoding ahead).

Out: a Markdown table for each size, and bench/results/crops.json.
"""

import argparse
import importlib.util
import io
import json
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from results_file import Results
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.torchvision_import import transforms as tv
from vitrail import data, model
from vitrail.bench import Work, compare
from vitrail.config import AugmentConfig, DataConfig, RunConfig, ViTConfig
from vitrail.distributed import World
from vitrail.training.inputs import Inputs

BATCH, SIDE, QUALITY = 64, 224, 90
SMALL, LARGE, TILES = (500, 375), (4000, 3000), 8
HALF = (0.5, 0.5, 0.5)
AREA = (0.08, 1.0)
CPU = torch.device("cpu")


def write_photographs(folder: Path, photographs: list[Path], count: int, *, large: bool) -> None:
    """Two classes of JPEG files."""
    small = SMALL if not large else (LARGE[0] // TILES, LARGE[1] // TILES)

    def opened(number: int) -> Image.Image:
        with Image.open(photographs[number % len(photographs)]) as file:
            image = file.convert("RGB").resize(small, Image.Resampling.LANCZOS)
        mirrored = number // len(photographs) % 2 == 1
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image

    for number in range(count):
        if large:
            image = Image.new("RGB", LARGE)
            for tile in range(TILES**2):
                place = (tile % TILES * small[0], tile // TILES * small[1])
                image.paste(opened(number * 7 + tile), place)
        else:
            image = opened(number)
        path = folder / "ab"[number % 2] / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=QUALITY)


def torchvision_transform() -> Callable[[Image.Image], torch.Tensor]:
    return tv.Compose(
        [tv.RandomResizedCrop(SIDE, AREA), tv.RandomHorizontalFlip(), tv.ToTensor(), tv.Normalize(HALF, HALF)]
    )


class Files(Dataset[torch.Tensor]):
    """Decoded and transformed on access."""

    def __init__(self, paths: list[Path], transform: Callable[[Path], torch.Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.paths[index])


def by_torchvision(path: Path, transform: Callable[[Image.Image], torch.Tensor]) -> torch.Tensor:
    return transform(Image.open(path).convert("RGB"))


def from_bytes(content: bytes) -> torch.Tensor:
    return torchvision_transform()(Image.open(io.BytesIO(content)).convert("RGB"))


def by_albumentations(path: Path, transform: Callable[..., dict[str, torch.Tensor]]) -> torch.Tensor:
    import cv2

    return transform(image=cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))["image"]


def by_kornia(path: Path, transform: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float().div_(255)
    return transform(pixels)[0]


def loader(source: Dataset[torch.Tensor], **options: object) -> Work:
    made: DataLoader[torch.Tensor] = DataLoader(source, BATCH, num_workers=2, persistent_workers=True, **options)  # type: ignore[arg-type]
    return lambda: sum(len(batch) for batch in made)


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


def peers(paths: list[Path], place: Path) -> Iterator[tuple[str, Work]]:
    yield (
        "torchvision, DataLoader",
        loader(Files(paths, partial(by_torchvision, transform=torchvision_transform())), shuffle=True),
    )
    if installed("albumentations", "cv2"):
        import albumentations as A
        import cv2
        from albumentations.pytorch import ToTensorV2

        cv2.setNumThreads(1)
        crop = A.RandomResizedCrop((SIDE, SIDE), scale=AREA)
        transform = A.Compose([crop, A.HorizontalFlip(), A.Normalize(HALF, HALF), ToTensorV2()])
        yield (
            "albumentations, DataLoader",
            loader(Files(paths, partial(by_albumentations, transform=transform)), shuffle=True),
        )
    if installed("kornia"):
        import kornia.augmentation as K

        transform = K.AugmentationSequential(
            K.RandomResizedCrop((SIDE, SIDE), scale=AREA), K.RandomHorizontalFlip(),
            K.Normalize(torch.tensor(HALF), torch.tensor(HALF)), data_keys=["input"],
        )  # fmt: skip
        yield "kornia, DataLoader", loader(Files(paths, partial(by_kornia, transform=transform)), shuffle=True)
    if installed("webdataset"):
        import webdataset as wds

        shards = sorted(str(path) for path in (place / "tars").glob("*.tar"))
        source = (
            wds.WebDataset(shards, shardshuffle=len(shards), seed=0)
            .shuffle(200)
            .decode("pil")
            .to_tuple("jpg")
            .map_tuple(torchvision_transform())
            .batched(BATCH, partial=True)
        )
        made = wds.WebLoader(source, batch_size=None, num_workers=2, persistent_workers=True)
        yield "webdataset", lambda: sum(len(batch) for (batch,) in made)
    if installed("litdata"):
        import litdata

        chunks = str(place / "litdata")
        if not Path(chunks).exists():
            litdata.optimize(Path.read_bytes, paths, output_dir=chunks, chunk_bytes="64MB", num_workers=1)
        streamed = litdata.StreamingDataset(chunks, shuffle=True, transform=from_bytes)
        batches = litdata.StreamingDataLoader(streamed, batch_size=BATCH, num_workers=2, persistent_workers=True)
        yield "litdata", lambda: sum(len(batch) for batch in batches)


def config_of(spec: Path, **settings: object) -> RunConfig:
    config = DataConfig(spec=str(spec), image_size=SIDE, batch_size=BATCH, resize_filter="bilinear", **settings)  # type: ignore[arg-type]
    return RunConfig(data=config, augment=AugmentConfig(flip=0.5, resized_crop=AREA[0]))


def ours(config: RunConfig) -> Work:
    """One epoch after the other, as training walks over it."""
    train_set = data.load(config.data, ("train",), random_crops=True)["train"]
    inputs = Inputs(config, data.preprocessing_for(config.data), train_set, World())
    epochs = iter(range(1 << 30))

    def work() -> int:
        epoch, count = next(epochs), 0
        for number, batch in enumerate(inputs.batches(epoch, 0, CPU)):
            count += len(inputs(batch, epoch, number, len(batch.labels), 1.0).images)
        return count

    return work


def write_tars(folder: Path, paths: list[Path]) -> None:
    """Shards of 50 files."""
    folder.mkdir()
    (folder / "classes.txt").write_text("a\nb\n", encoding="utf-8")
    for shard, start in enumerate(range(0, len(paths), 50)):
        with tarfile.open(folder / f"train-{shard:05}.tar", "w") as archive:
            for path in paths[start : start + 50]:
                label = tarfile.TarInfo(f"{path.stem}.cls")
                text = str("ab".index(path.parent.name)).encode()
                label.size = len(text)
                archive.add(path, f"{path.stem}.jpg")
                archive.addfile(label, io.BytesIO(text))


def waiting_beside_a_step(config: RunConfig, steps: int) -> float:
    """The share of the time in which a ViT-B/16 on this machine's CPU waits for its input."""
    torch.manual_seed(0)
    vit = model.ViT(ViTConfig(image_size=SIDE, num_labels=2))
    optimizer = torch.optim.SGD(vit.parameters(), 1e-4)
    config = RunConfig(data=DataConfig(**{**vars(config.data), "batch_size": 4}), augment=config.augment)
    train_set = data.load(config.data, ("train",), random_crops=True)["train"]
    inputs = Inputs(config, data.preprocessing_for(config.data), train_set, World())
    waits = data.Timed(inputs.batches(0, 0, CPU))
    for number, batch in enumerate(waits):
        if number == 2:
            waits.waited_s, waits._start = 0.0, time.perf_counter()  # the first batches start the threads
        given = inputs(batch, 0, number, len(batch.labels), 1.0)
        torch.nn.functional.cross_entropy(vit(given.images)["logits"], given.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        if number == steps + 1:
            break
    return waits.waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--large", type=int, default=200)
    parser.add_argument("--steps", type=int, default=12, help="of the B/16; 0: leave it out")
    parser.add_argument("--place", type=Path, help="where the files are made, and kept (default: a temporary folder)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    photographs = sorted(path for path in arguments.photographs.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))
    results = Results("crops")
    with tempfile.TemporaryDirectory() as temporary:
        for name, count in (("500x375", arguments.images), ("4000x3000", arguments.large)):
            place = (arguments.place or Path(temporary)) / name
            folder = place / "files"
            if not folder.exists():
                write_photographs(folder, photographs, count, large=name != "500x375")
                write_tars(place / "tars", sorted(folder.rglob("*.jpg")))
            paths = sorted(folder.rglob("*.jpg"))
            with results.part(name) as answer:
                contenders = dict(peers(paths, place))
                contenders["ours"] = ours(config_of(folder, store="files"))
                contenders["ours, fast"] = ours(config_of(folder, store="files", fast_decoding=True))
                contenders["ours, tar"] = ours(config_of(place / "tars", validation_fraction=1e-9))
                if name == "500x375":
                    contenders["ours, whole in memory"] = ours(config_of(folder, store="memory"))
                result = compare(contenders, unit="images", rounds=arguments.rounds, seconds=0.1)
                print(f"\n{len(paths)} JPEG files of {name}, random resized crops of {SIDE}\n")
                print(result.table("torchvision, DataLoader"), flush=True)
                answer[name] = {"images": len(paths), **result.to_json("torchvision, DataLoader")}
            if arguments.steps:
                with results.part(f"{name} beside a step") as answer:
                    share = waiting_beside_a_step(config_of(folder, store="files"), arguments.steps)
                    print(f"data wait beside a B/16 step: {share:.2%}", flush=True)
                    answer[f"{name} beside a step"] = share
    results.answer |= {"batch": BATCH, "side": SIDE, "quality": QUALITY, "area": AREA}
    results.end()
    print(json.dumps({name: value for name, value in results.answer.items() if "step" in name}))


if __name__ == "__main__":
    main()
