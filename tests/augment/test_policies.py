"""Single operations against torchvision on uint8, and which operations are chosen how strongly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment, TrivialAugmentWide

from tests.support.torchvision_import import functional as tv
from vitrail.augment import geometry, policies
from vitrail.augment.colour import ColourMatrix
from vitrail.augment.policies import Operation, Slot

EXACT, ONE_LEVEL = 0, 1  # of 255
MAGNITUDE_TOLERANCE = 1e-4
NAMES = {  # torchvision's, in the order of ours
    Operation.IDENTITY: "Identity",
    Operation.SHEAR_X: "ShearX",
    Operation.SHEAR_Y: "ShearY",
    Operation.TRANSLATE_X: "TranslateX",
    Operation.TRANSLATE_Y: "TranslateY",
    Operation.ROTATE: "Rotate",
    Operation.BRIGHTNESS: "Brightness",
    Operation.SATURATION: "Color",
    Operation.CONTRAST: "Contrast",
    Operation.SHARPNESS: "Sharpness",
    Operation.POSTERIZE: "Posterize",
    Operation.SOLARIZE: "Solarize",
    Operation.AUTOCONTRAST: "AutoContrast",
    Operation.EQUALIZE: "Equalize",
}


def photo(num_images: int = 3, num_channels: int = 3, height: int = 24, width: int = 32) -> Tensor:
    """Smooth images whose values do not fill the range, and one flat one."""
    noise = torch.rand(num_images, num_channels, height // 4, width // 4, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(noise * 180 + 40, (height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)
    images[-1] = 77
    return images


def values(number: float, num_images: int = 3) -> Tensor:
    return torch.full((num_images, 1, 1, 1), float(number))


def largest_difference(ours: Tensor, theirs: Tensor) -> int:
    return int((ours.int() - theirs.int()).abs().max())


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_posterize(bits: int, num_channels: int) -> None:
    images = photo(num_channels=num_channels)
    assert largest_difference(policies.posterize(images, values(bits)), tv.posterize(images, bits)) == EXACT


@pytest.mark.parametrize("threshold", [0.0, 100.0, 127.5, 255.0])
def test_solarize(threshold: float) -> None:
    images = photo()
    assert largest_difference(policies.solarize(images, values(threshold)), tv.solarize(images, threshold)) == EXACT


def test_solarize_from_zero_is_invert() -> None:
    images = photo()
    assert torch.equal(policies.solarize(images, values(0.0)), tv.invert(images))


@pytest.mark.parametrize("num_channels", [1, 3])
def test_autocontrast(num_channels: int) -> None:
    """Integers here, floats in torchvision and Pillow: where the exact result is a whole number they may fall below."""
    images = photo(num_channels=num_channels)
    ours = policies.autocontrast(images, values(0.0))
    assert largest_difference(ours, tv.autocontrast(images)) <= ONE_LEVEL
    assert ours[0].amin() == 0
    assert ours[0].amax() == 255
    assert torch.equal(ours[-1], images[-1])


@pytest.mark.parametrize("num_channels", [1, 3])
def test_equalize_is_torchvisions_and_pillows(num_channels: int) -> None:
    images = photo(num_channels=num_channels)
    ours = policies.equalize(images, values(0.0))
    assert largest_difference(ours, tv.equalize(images)) == EXACT
    assert not torch.equal(ours[0], images[0])
    for image, equalized in zip(images, ours, strict=True):
        for channel, expected in zip(image, equalized, strict=True):
            pillow = np.array(ImageOps.equalize(Image.fromarray(channel.numpy())))
            assert largest_difference(torch.from_numpy(pillow), expected) == EXACT


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.9])
def test_sharpness(factor: float) -> None:
    images = torch.randint(0, 256, (3, 3, 24, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ours = policies.sharpness(images, values(factor))
    assert largest_difference(ours, tv.adjust_sharpness(images, factor)) <= ONE_LEVEL
    assert (ours == tv.adjust_sharpness(images, factor)).float().mean() > 0.99


def test_repaint_touches_the_chosen_images_alone() -> None:
    images = photo()
    operations = torch.tensor([Operation.EQUALIZE, Operation.ROTATE, Operation.POSTERIZE])
    ours = policies.repaint(Slot(operations, torch.tensor([0.0, 30.0, 2.0])), images)
    assert torch.equal(ours[0], tv.equalize(images[0]))
    assert torch.equal(ours[1], images[1])
    assert torch.equal(ours[2], tv.posterize(images[2], 2))


def test_repaint_without_selecting_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every operation runs on the whole batch and a mask chooses: the result is that of the CPU's way."""
    images = photo(14)
    slot = Slot(torch.arange(14), torch.tensor([0.0] * 9 + [1.5, 3.0, 99.0, 0.0, 0.0]))
    selected = policies.repaint(slot, images)
    masked = images
    for operation, function in policies._REPAINT.items():
        mask = (slot.operation == operation).view(-1, 1, 1, 1)
        masked = torch.where(mask, function(masked, slot.magnitude.view(-1, 1, 1, 1)), masked)
    assert torch.equal(selected, masked)


@pytest.mark.parametrize("name", ["rand-augment", "trivial-augment"])
@pytest.mark.parametrize("level", [0, 1, 9, 17, 30])
def test_magnitudes_are_torchvisions(name: policies.Policy, level: int) -> None:
    space = RandAugment._AUGMENTATION_SPACE if name == "rand-augment" else TrivialAugmentWide._AUGMENTATION_SPACE
    assert sorted(space) == sorted(NAMES.values())
    ours = policies._magnitudes(name, (48, 64), torch.device("cpu"))
    for operation, their_name in NAMES.items():
        function, is_signed = space[their_name]
        magnitudes = function(policies.NUM_LEVELS, 48, 64)
        magnitude = 0.0 if magnitudes is None else float(magnitudes[level])
        if their_name.startswith("Translate"):
            magnitude = float(int(magnitude))  # torchvision shifts by whole pixels
        if their_name == "Solarize":
            magnitude *= 255
        neutral = 1.0 if Operation.BRIGHTNESS <= operation <= Operation.SHARPNESS else 0.0
        assert ours[0, operation, level] == pytest.approx(neutral + magnitude, abs=MAGNITUDE_TOLERANCE)
        opposite = neutral - magnitude if is_signed else magnitude
        assert ours[1, operation, level] == pytest.approx(opposite, abs=MAGNITUDE_TOLERANCE)


def test_choices_cover_operations_levels_and_signs_evenly() -> None:
    draws = torch.rand(4, 40_000, generator=torch.Generator().manual_seed(0))
    slot = policies.choose("trivial-augment", draws, (32, 32))
    counts = torch.bincount(slot.operation, minlength=len(Operation)).float()
    assert len(counts) == len(Operation)
    assert (counts / 40_000 - 1 / 14).abs().max() < 0.01
    angles = slot.magnitude[slot.operation == Operation.ROTATE]
    assert angles.mean().abs() < 10
    assert (angles.min(), angles.max()) == (-135.0, 135.0)
    assert len(angles.abs().unique()) == policies.NUM_LEVELS


def test_one_level_for_all_images() -> None:
    draws = torch.rand(4, 500, generator=torch.Generator().manual_seed(0))
    slot = policies.choose("rand-augment", draws, (32, 32), level=30)
    assert set(slot.magnitude[slot.operation == Operation.ROTATE].tolist()) == {-30.0, 30.0}
    assert set(slot.magnitude[slot.operation == Operation.POSTERIZE].tolist()) == {4.0}


@pytest.mark.parametrize(
    ("operation", "magnitude", "options"),
    [
        (Operation.SHEAR_X, 0.3, {"shear": [np.degrees(np.arctan(0.3)), 0.0], "center": [0, 0]}),
        (Operation.SHEAR_Y, -0.2, {"shear": [0.0, np.degrees(np.arctan(-0.2))], "center": [0, 0]}),
        (Operation.TRANSLATE_X, 5.0, {"translate": [5, 0]}),
        (Operation.TRANSLATE_Y, -4.0, {"translate": [0, -4]}),
        (Operation.ROTATE, 20.0, {"angle": -20.0}),
    ],
)
def test_geometric_operations(operation: Operation, magnitude: float, options: dict) -> None:
    """torchvision's affine turns clockwise, its rotate counter-clockwise; the policies use rotate."""
    images = photo(2).float()
    slot = Slot(torch.full((2,), int(operation)), torch.full((2,), magnitude))
    defaults = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    theirs = tv.affine(images, **(defaults | options), interpolation=InterpolationMode.BILINEAR)
    ours = geometry.resample(
        images, policies.matrix(slot, (24, 32)), (24, 32), (24, 32), fill="black", fill_values=torch.zeros(3)
    )
    differs = (ours - theirs).abs().amax((0, 1)) > 0.05
    assert differs.float().mean() < 0.1  # the outline, which torchvision blends with the fill
    assert (ours - images).abs().mean() > 1


@pytest.mark.parametrize("operation", [Operation.BRIGHTNESS, Operation.SATURATION, Operation.CONTRAST])
def test_colour_operations(operation: Operation) -> None:
    images = photo(2)
    colours = ColourMatrix(images)
    policies.recolour(Slot(torch.full((2,), int(operation)), torch.full((2,), 1.6)), colours)
    ours = colours.apply(images, torch.zeros(3), torch.ones(3)) * 255
    theirs = getattr(tv, f"adjust_{operation.name.lower()}")(images, 1.6)
    assert (ours - theirs).abs().max() < 2  # levels: see tests/augment/test_colour.py
    assert (ours - images).abs().mean() > 1
