"""Single colour operations against torchvision on uint8, composition, and the normalisation folded in."""

import colorsys

import pytest
import torch
from torch import Tensor

from tests.support.torchvision_import import functional as tv
from vitrail.augment.colour import LUMINANCE, ColourMatrix, normalise

# torchvision truncates the result to uint8, less than one level; the grey image it blends with is floored before, less
# than another one. Here nothing is rounded.
LEVELS = {"brightness": 1.001, "contrast": 2.0, "saturation": 2.0}
MEAN, STD = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])
FLOAT_TOLERANCE = 2e-6
HUE_MEDIAN, HUE_LARGEST = 0.4, 0.75  # of the turn that was asked for


def noise(num_images: int = 2, num_channels: int = 3) -> Tensor:
    shape = (num_images, num_channels, 12, 16)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def levels(colours: ColourMatrix, images: Tensor) -> Tensor:
    """The recoloured images in [0, 255]."""
    num_channels = images.shape[1]
    return colours.apply(images, torch.zeros(num_channels), torch.ones(num_channels)) * 255


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_operations_are_torchvisions(name: str, factor: float, num_channels: int) -> None:
    images = noise(num_channels=num_channels)
    colours = ColourMatrix(images)
    getattr(colours, name)(torch.full((2,), factor))
    theirs = getattr(tv, f"adjust_{name}")(images, factor)
    assert (levels(colours, images) - theirs.float()).abs().max() < LEVELS[name]


def test_each_image_has_its_own_factor() -> None:
    images = noise(3)
    factors = torch.tensor([0.5, 1.0, 1.5])
    colours = ColourMatrix(images)
    colours.contrast(factors)
    together = levels(colours, images)
    for i in range(3):
        alone = ColourMatrix(images[i : i + 1])
        alone.contrast(factors[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], levels(alone, images[i : i + 1]))


def test_composition_is_one_after_the_other() -> None:
    """As long as nothing leaves the range: torchvision on floats, the same order."""
    images = (noise() // 4 + 90).to(torch.uint8)
    colours = ColourMatrix(images)
    for name, factor in (("brightness", 1.1), ("contrast", 0.8), ("saturation", 1.3)):
        getattr(colours, name)(torch.full((2,), factor))
    theirs = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(images / 255, 1.1), 0.8), 1.3) * 255
    assert (levels(colours, images) - theirs).abs().max() < 0.05  # torchvision's weight of red is 0.2989


def test_hue_of_a_full_turn_and_of_grey_changes_nothing() -> None:
    images = noise()
    colours = ColourMatrix(images)
    colours.hue(torch.tensor([1.0, -1.0]))
    assert (levels(colours, images) - images).abs().max() < 0.01
    grey = images[:, :1].expand(-1, 3, -1, -1)
    colours = ColourMatrix(grey)
    colours.hue(torch.tensor([0.3, -0.2]))
    assert (levels(colours, grey) - grey).abs().max() < 0.01


@pytest.mark.parametrize("turn", [-0.1, 0.05, 0.1])
def test_hue_turns_the_way_of_torchvision(turn: float) -> None:
    """The YIQ angle is not the HSV angle, but near it on muted colours; luminance is kept exactly."""
    muted = (noise(1) // 8 + 112).to(torch.uint8)
    colours = ColourMatrix(muted)
    colours.hue(torch.tensor([turn]))
    ours, theirs = levels(colours, muted), tv.adjust_hue(muted / 255, turn) * 255
    weights = torch.tensor(LUMINANCE).view(1, 3, 1, 1)
    assert ((ours * weights).sum(1) - (muted * weights).sum(1)).abs().max() < 0.01
    pixels = [images.float().permute(0, 2, 3, 1).reshape(-1, 3).tolist() for images in (muted, ours, theirs)]
    coloured = [three for three in zip(*pixels, strict=True) if max(three[0]) - min(three[0]) > 6]
    off = torch.tensor([hue_distance(our, their) for _, our, their in coloured])
    assert off.median() < HUE_MEDIAN * abs(turn)
    assert off.max() < HUE_LARGEST * abs(turn)


def hue_distance(a: list[float], b: list[float]) -> float:
    difference = abs(colorsys.rgb_to_hsv(*a)[0] - colorsys.rgb_to_hsv(*b)[0])
    return min(difference, 1 - difference)


def test_values_are_limited_once_before_the_normalisation() -> None:
    images = noise()
    colours = ColourMatrix(images)
    colours.brightness(torch.tensor([3.0, 0.0]))
    ours = colours.apply(images, MEAN, STD)
    expected = ((images[0] * 3.0 / 255).clamp(max=1) - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    torch.testing.assert_close(ours[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[1], (-MEAN / STD).view(3, 1, 1).expand(3, 12, 16), atol=FLOAT_TOLERANCE, rtol=0)


def test_normalise_is_the_textbook_formula() -> None:
    images = noise()
    expected = (images.double() / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    torch.testing.assert_close(normalise(images, MEAN, STD).double(), expected, atol=FLOAT_TOLERANCE, rtol=0)
