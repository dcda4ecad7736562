"""Augmentation: ours on a batch beside torchvision's transforms on one Pillow image after the other.

    python bench/augment.py [--rounds 7] [--threads 2] [--json]

The contenders take turns; medians of images per second. torchvision runs in this one process and thread, as in one
DataLoader worker; ours runs with `--threads` threads. Pixels are random: no operation here is quicker for easy ones.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.torchvision_import import transforms as tv
from vitrail.augment import Augment
from vitrail.config import AugmentConfig, Preprocessing

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH = 256
JITTER = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
TO_TENSOR = (tv.ToTensor(), tv.Normalize(MEAN, STD))

CASES: dict[str, tuple[int, int, AugmentConfig, tuple[object, ...]]] = {
    # name: image size, images for torchvision in a round, ours, theirs
    "crop, flip, normalise, 32": (
        32,
        BATCH,
        AugmentConfig(flip=0.5, crop_padding=4),
        (tv.RandomCrop(32, 4), tv.RandomHorizontalFlip()),
    ),
    "reference policy, 32 to 224": (
        224,
        BATCH // 4,
        AugmentConfig(flip=0.5, rotation=15, crop_padding=4, **JITTER),
        (
            tv.RandomHorizontalFlip(),
            tv.RandomRotation(15, tv.InterpolationMode.BILINEAR),
            tv.RandomCrop(32, 4),
            tv.Resize(224),
            tv.ColorJitter(0.2, 0.2, 0.2, 0.1),
        ),
    ),
    "RandAugment 2 x 9, crop, flip, 32": (
        32,
        BATCH,
        AugmentConfig(flip=0.5, crop_padding=4, policy="rand-augment", policy_ops=2, policy_magnitude=9),
        (
            tv.RandomCrop(32, 4),
            tv.RandomHorizontalFlip(),
            tv.RandAugment(2, 9, interpolation=tv.InterpolationMode.BILINEAR),
        ),
    ),
}


def images_per_second(work: Callable[[], object], num_images: int) -> float:
    start = time.perf_counter()
    work()
    return num_images / (time.perf_counter() - start)


def measure(case: str, rounds: int) -> dict[str, float | str]:
    size, num_theirs, config, steps = CASES[case]
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images[:num_theirs]]
    preprocessing = Preprocessing(image_size=(size, size), decode_size=(32, 32), mean=MEAN, std=STD)
    augment, transform = Augment(config, preprocessing, seed=0), tv.Compose([*steps, *TO_TENSOR])
    ids = torch.arange(BATCH)

    def ours() -> object:
        return augment(images, ids, 0)

    def theirs() -> object:
        return torch.stack([transform(picture) for picture in pictures])

    for warm_up in (ours, theirs, ours):
        warm_up()
    figures = [(images_per_second(ours, BATCH), images_per_second(theirs, num_theirs)) for _ in range(rounds)]
    our_median, their_median = (statistics.median(column) for column in zip(*figures, strict=True))
    ratio = statistics.median(our / their for our, their in figures)
    return {"case": case, "vitrail": round(our_median), "torchvision": round(their_median), "ratio": round(ratio, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = [measure(case, arguments.rounds) for case in CASES]
    if arguments.json:
        print(json.dumps({"threads": arguments.threads, "torch": torch.__version__, "results": results}))
        return
    print(f"{'images per second':36s} {'vitrail':>9s} {'torchvision':>12s} {'ratio':>7s}")
    for row in results:
        print(f"{row['case']:36s} {row['vitrail']:9,} {row['torchvision']:12,} {row['ratio']:7}")


if __name__ == "__main__":
    main()
