"""Pictures of soft blobs, which resemble photographs in what the doctor measures, and changed copies of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance


def picture(seed: int, side: int = 96) -> Image.Image:
    """Colours that vary smoothly, with some detail; no two seeds are alike."""
    generator = np.random.default_rng(seed)
    layers = [
        Image.fromarray(generator.integers(0, 255, (n, n, 3), dtype=np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for n in (4, 9, 24)
    ]
    return Image.blend(Image.blend(layers[0], layers[1], 0.5), layers[2], 0.3)


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer)


def shifted(image: Image.Image) -> Image.Image:
    pixels = np.pad(np.asarray(image), ((6, 0), (0, 6), (0, 0)), mode="edge")
    return Image.fromarray(pixels[: image.height, 6:])


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def cropped(image: Image.Image) -> Image.Image:
    edge = image.width // 20
    return image.crop((edge, edge, image.width - edge, image.height - edge))


def darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.7)


CHANGES = (jpeg, shifted, mirrored, cropped, darker)


def pictures_folder(root: Path, classes: int = 2, images: int = 14) -> Path:
    """root/train/<class>/<number>.png and a test split of a third as many; a class is brighter or darker."""
    for split, count in (("train", images), ("test", images // 3)):
        for label in range(classes):
            folder = root / split / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * label + number + (500 if split == "test" else 0)
                picture(seed).point(lambda v, by=label: v // (1 + by)).save(folder / f"{number}.png")
    return root
