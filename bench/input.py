"""From decoded CIFAR-10 images to the input of a model: ours beside Pillow, torchvision v2, kornia, albumentations.

    .venv/bin/python bench/input.py [--rounds 5] [--seconds 1] [--cases reference crop evaluation small]

Needs kornia and albumentations for their rows: `pip install -e '.[bench]'`; what is not installed is left out. About
eight minutes on two cores; keep the machine quiet.

`reference` transforms each image with Pillow and torchvision's first transforms, in a DataLoader with two workers, as
the reference system does. torchvision v2 (tensors) and albumentations (arrays) work on one image at a time in the same
loader; kornia and ours on a batch, with all threads. Every contender starts from the same uint8 images and ends with
normalised float batches. Measured twice: each in a process of its own, where memory and caches are new, and all of
them taking turns in one process that lives on.

Out: a Markdown table for each case, and bench/results/input.json.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command line has it

import argparse
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from PIL import Image
from results_file import Results
from torch.utils.data import DataLoader, Dataset

from tests.support.torchvision_import import transforms as tv
from vitrail import data
from vitrail.augment import Augment, prepare
from vitrail.bench import Comparison, Figures, Work, compare, in_fresh_process, rate_of
from vitrail.config import AugmentConfig, DataConfig, Preprocessing
from vitrail.training.machine import keep_freed_memory

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
JITTER = (0.2, 0.2, 0.2, 0.1)
BATCH = 128
FRESH = "import sys; sys.argv[0] = 'input.py'; import input as it; it.one_alone(*sys.argv[1:])"


@dataclass(frozen=True)
class Case:
    """Which steps there are; `images` in one pass of a contender, enough that starting the pass hardly counts."""

    title: str
    size: int
    images: int
    goal: float
    crop: bool = True
    rotation_and_jitter: bool = False


CASES = {
    "reference": Case("resize 224, flip, rotation, crop, jitter", 224, 512, 4, rotation_and_jitter=True),
    "crop": Case("resize 224, crop, flip", 224, 2048, 6),
    "evaluation": Case("resize 224", 224, 2048, 6, crop=False),
    "small": Case("32x32: crop, flip", 32, 8192, 10),
}


class Images(Dataset[torch.Tensor]):
    """One image at a time, transformed on access."""

    def __init__(self, images: np.ndarray, transform: Callable[[np.ndarray], torch.Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.images[index])


def through_loader(transform: Callable[[np.ndarray], torch.Tensor], images: np.ndarray) -> Work:
    """A pass over the images, [N, H, W, C], through a DataLoader with two workers that stay."""
    loader = DataLoader(Images(images, transform), BATCH, num_workers=2, persistent_workers=True)
    return lambda: sum(len(batch) for batch in loader)


def reference(case: Case, images: np.ndarray) -> Work:
    steps: list[Any] = [Image.fromarray]
    steps += [tv.Resize(case.size)] if case.size != 32 else []
    steps += [tv.RandomHorizontalFlip()] if case.crop else []
    steps += [tv.RandomRotation(15)] if case.rotation_and_jitter else []
    steps += [tv.RandomCrop(case.size, 4)] if case.crop else []
    steps += [tv.ColorJitter(*JITTER)] if case.rotation_and_jitter else []
    return through_loader(tv.Compose([*steps, tv.ToTensor(), tv.Normalize(MEAN, STD)]), images)


def torchvision_v2(case: Case, images: np.ndarray) -> Work:
    from torchvision.transforms import v2

    steps: list[Any] = [lambda image: torch.from_numpy(image).permute(2, 0, 1)]
    steps += [v2.Resize(case.size, antialias=True)] if case.size != 32 else []
    steps += [v2.RandomHorizontalFlip()] if case.crop else []
    steps += [v2.RandomRotation(15)] if case.rotation_and_jitter else []
    steps += [v2.RandomCrop(case.size, 4)] if case.crop else []
    steps += [v2.ColorJitter(*JITTER)] if case.rotation_and_jitter else []
    return through_loader(v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]), images)


def albumentations(case: Case, images: np.ndarray) -> Work:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)
    steps: list[Any] = [A.Resize(case.size, case.size)] if case.size != 32 else []
    steps += [A.HorizontalFlip(p=0.5)] if case.crop else []
    steps += [A.Rotate(15, p=1, border_mode=cv2.BORDER_CONSTANT)] if case.rotation_and_jitter else []
    steps += [A.PadIfNeeded(case.size + 8, case.size + 8, border_mode=cv2.BORDER_CONSTANT)] if case.crop else []
    steps += [A.RandomCrop(case.size, case.size)] if case.crop else []
    steps += [A.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.1, 0.1), p=1)] if case.rotation_and_jitter else []
    steps += [A.Normalize(MEAN, STD), A.pytorch.ToTensorV2()]
    transform = A.Compose(steps)
    return through_loader(lambda image: transform(image=image)["image"], images)


def kornia(case: Case, images: np.ndarray) -> Work:
    import kornia.augmentation as K

    size = (case.size, case.size)
    steps: list[Any] = [K.Resize(size)] if case.size != 32 else []
    steps += [K.RandomHorizontalFlip()] if case.crop else []
    steps += [K.RandomRotation(15.0, p=1.0)] if case.rotation_and_jitter else []
    steps += [K.RandomCrop(size, padding=4, p=1.0)] if case.crop else []
    steps += [K.ColorJitter(*JITTER, p=1.0)] if case.rotation_and_jitter else []
    transform = torch.nn.Sequential(*steps, K.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
    planes = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def work() -> int:
        return sum(len(transform(part.float() / 255)) for part in planes.split(BATCH))

    return work


def vitrail(case: Case, images: np.ndarray) -> Work:
    count, size = len(images), (case.size, case.size)
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    ids, names = np.arange(count), [""] * count
    image_set = data.ImageSet("train", ("",), planes, np.zeros(count, np.int64), ids, names, (), "")
    settings = Preprocessing(image_size=size, decode_size=(32, 32), mean=MEAN, std=STD)
    config = AugmentConfig(flip=0.5, crop_padding=4) if case.crop else AugmentConfig()
    if case.rotation_and_jitter:
        jitter = dict(zip(("brightness", "contrast", "saturation", "hue"), JITTER, strict=True))
        config = AugmentConfig(flip=0.5, crop_padding=4, rotation=15, **jitter)
    augment = Augment(config, settings, seed=0)

    def batches() -> Iterator[torch.Tensor]:
        order = data.epoch_order(0, 0, count)
        for batch in data.batches(image_set, order, BATCH, device=torch.device("cpu")):
            yield augment(batch.images, batch.ids, 0) if case.crop else prepare(batch.images, settings)

    return lambda: sum(len(batch) for batch in batches())


CONTENDERS = {
    "reference": (reference, "torchvision"),
    "torchvision v2": (torchvision_v2, "torchvision"),
    "albumentations": (albumentations, "albumentations"),
    "kornia": (kornia, "kornia"),
    "vitrail": (vitrail, "torch"),
}


def installed() -> list[str]:
    return [name for name, (_, package) in CONTENDERS.items() if importlib.util.find_spec(package)]


def cifar(count: int) -> np.ndarray:
    """The first test images, [N, H, W, C], repeated if that takes more."""
    images = data.load(DataConfig(spec="cifar10"), ("test",))["test"].images
    return np.ascontiguousarray(np.resize(images, (count, *images.shape[1:])).transpose(0, 2, 3, 1))


def one_alone(case: str, name: str, seconds: str) -> None:
    """What a fresh process does: one contender, once to start, then for some seconds."""
    warnings.simplefilter("ignore")
    if name == "vitrail":
        keep_freed_memory()  # as every training command does; in the shared process it would help the others
    work = CONTENDERS[name][0](CASES[case], cifar(CASES[case].images))
    work()
    print(f'{{"rate": {rate_of(work, float(seconds))}}}')


def in_fresh_processes(case: str, names: list[str], rounds: int, seconds: float) -> Comparison:
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            rates[name].append(in_fresh_process(FRESH, case, name, str(seconds))[0]["rate"])
    return Comparison("images", {name: Figures(tuple(values)) for name, values in rates.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="in one process; half as many in new ones")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    names, results = installed(), Results("input", out=arguments.out)
    results.answer.update(batch=BATCH, cases={})
    for key in arguments.cases:
        case = CASES[key]
        found: dict[str, Any] = {"title": case.title, "goal": case.goal}
        results.answer["cases"][key] = found

        def told(title: str, comparison: Comparison, case: Case = case, found: dict[str, Any] = found) -> None:
            print(f"\n{case.title}; {title} (goal: {case.goal:g} times the reference)\n")
            print(comparison.table("reference"), flush=True)
            found[title] = comparison.to_json("reference")

        with results.part(f"{key}, new processes"):
            rounds = max(1, arguments.rounds // 2)
            told("new processes", in_fresh_processes(key, names, rounds, arguments.seconds))
        with results.part(f"{key}, one process"):
            images = cifar(case.images)
            works = {name: CONTENDERS[name][0](case, images) for name in names}
            told("one process", compare(works, unit="images", rounds=arguments.rounds, seconds=arguments.seconds))
    results.end()


if __name__ == "__main__":
    main()
