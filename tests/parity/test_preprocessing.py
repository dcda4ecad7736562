"""An image file through the steps in a model file gives the input that the source's own processor gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tests.support.torchvision_operators  # noqa: F401  (before transformers and timm)
from vitrail import data
from vitrail.augment import prepare
from vitrail.weights.preprocess import from_huggingface, from_timm

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

# Height and width of photographs: odd, long, smaller than the input, exactly the input.
SIZES = [(333, 517), (517, 333), (225, 227), (41, 57), (224, 224), (61, 640)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Smooth pictures with noise, so that a shift by a pixel and another filter both show."""
    generator, folder = np.random.default_rng(0), tmp_path_factory.mktemp("photographs")
    paths: list[Path] = []
    for i, (height, width) in enumerate(SIZES):
        y, x = np.mgrid[:height, :width]
        waves = [127 + 100 * np.sin(x / (3 + c) + y / (7 - c)) for c in range(3)]
        pixels = np.stack(waves, -1) + generator.normal(0, 12, (height, width, 3))
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def ours(path: Path, preprocessing: Any) -> torch.Tensor:
    pixels = data.load_image(path, preprocessing)
    return prepare(torch.from_numpy(np.asarray(pixels))[None], preprocessing)[0]


HUGGING_FACE: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTImageProcessor", {"size": {"height": 224, "width": 224}, "resample": 2}),
    "ViT, not square": ("ViTImageProcessor", {"size": {"height": 192, "width": 256}, "resample": 3}),
    "DeiT": (
        "DeiTImageProcessor",
        {"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True,
         "resample": 3},
    ),
    "DINOv2": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True,
         "resample": 3, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    ),
}  # fmt: skip


def slow_processor(name: str, values: dict[str, Any]) -> Any:
    """The processor of transformers that resizes through Pillow."""
    for candidate in (f"{name}Pil", name):
        if hasattr(transformers, candidate):
            return getattr(transformers, candidate)(**values)
    raise AssertionError(name)


@pytest.mark.parametrize(("name", "values"), HUGGING_FACE.values(), ids=HUGGING_FACE)
def test_transformers_processors(photographs: list[Path], name: str, values: dict[str, Any]) -> None:
    processor = slow_processor(name, values)
    said = {**json.loads(processor.to_json_string()), "image_processor_type": name}
    size = values.get("crop_size", values["size"])
    preprocessing, _ = from_huggingface(said, {}, (size["height"], size["width"]))
    for path in photographs:
        theirs = processor(Image.open(path), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(ours(path, preprocessing), theirs, atol=1e-5, rtol=0)


TIMM: dict[str, dict[str, Any]] = {
    "crop 0.9": {"crop_pct": 0.9, "interpolation": "bicubic"},
    "crop 0.875, bilinear": {"crop_pct": 0.875, "interpolation": "bilinear", "mean": (0.485, 0.456, 0.406)},
    "no crop": {"crop_pct": 1.0, "interpolation": "bicubic"},
    "squash": {"crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash"},
}


@pytest.mark.parametrize("values", TIMM.values(), ids=TIMM)
def test_timm_transforms(photographs: list[Path], values: dict[str, Any]) -> None:
    config = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_mode": "center", **values}
    transform = timm.data.create_transform(input_size=(3, 224, 224), is_training=False, **config)
    preprocessing, _ = from_timm(config, (224, 224))
    for path in photographs:
        theirs = transform(Image.open(path))
        torch.testing.assert_close(ours(path, preprocessing), theirs, atol=1e-5, rtol=0)
