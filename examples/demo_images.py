"""Write ten held-out digits as PNG files, one of each, to try `vitrail predict` on.

    .venv/bin/python examples/demo_images.py runs/demo/images

The true label is in the name: digit-7-12.png shows a seven, example 12 of the test split.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail import data
from vitrail.config import DataConfig


def main(folder: Path) -> None:
    test = data.load(DataConfig(spec="digits", image_size=8, channels="L"), ("test",))["test"]
    folder.mkdir(parents=True, exist_ok=True)
    for label, name in enumerate(test.classes):
        number = int(np.flatnonzero(test.labels == label)[0])
        Image.fromarray(np.array(test.images[number, 0])).save(folder / f"digit-{name}-{number}.png")
    print(f"Ten digits that the model has not seen: {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
