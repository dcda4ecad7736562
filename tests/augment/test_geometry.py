"""Matrices against what they say they do, sampling against torchvision and Pillow."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tests.support.torchvision_import import functional as tv
from tests.support.torchvision_import import transforms
from vitrail.augment import geometry

BLACK = torch.zeros(3)
POINT_TOLERANCE = 1e-3  # pixels
INTERIOR_TOLERANCE = 0.05  # of 255: float32 coordinates, computed in another order
EDGE_FRACTION = 0.06  # of the pixels: torchvision blends the outline with the fill, here it is cut as in Pillow


def photo(num_images: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth random images in [0, 255]: neighbours are related, as in photographs."""
    noise = torch.rand(num_images, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255)


def sample(images: Tensor, matrices: Tensor, size: tuple[int, int] | None = None, **options: object) -> Tensor:
    source = (images.shape[2], images.shape[3])
    settings_: dict = {"fill": "black", "fill_values": BLACK} | options
    return geometry.resample(images, matrices, source, size or source, **settings_)


def full(value: float) -> Tensor:
    return torch.tensor([value])


def assert_same_but_for_the_outline(ours: Tensor, theirs: Tensor) -> None:
    differs = (ours - theirs).abs().amax((0, 1)) > INTERIOR_TOLERANCE
    assert differs.float().mean() < EDGE_FRACTION
    assert (ours - theirs).abs().median() < INTERIOR_TOLERANCE


@pytest.mark.parametrize("degrees", [-15.0, 7.5, 90.0])
def test_rotation_is_torchvisions(degrees: float) -> None:
    images = photo(1, 48, 64)
    theirs = tv.rotate(images, degrees, interpolation=tv.InterpolationMode.BILINEAR)
    assert_same_but_for_the_outline(sample(images, geometry.rotation(full(degrees))), theirs)


def test_rotation_is_pillows() -> None:
    """Pillow cuts the outline as we do; it rounds to uint8, at most one level off."""
    images = photo(1, 48, 64).round()
    picture = Image.fromarray(images[0].permute(1, 2, 0).to(torch.uint8).numpy())
    turned = torch.from_numpy(np.array(picture.rotate(10, Image.Resampling.BILINEAR))).permute(2, 0, 1)
    ours = sample(images, geometry.rotation(full(10.0)))[0]
    assert ((ours - turned).abs() <= 1.0).float().mean() > 0.995


@pytest.mark.parametrize(
    ("matrix", "options"),
    [
        (geometry.translation(full(5.0), full(-3.0)), {"translate": [5, -3]}),
        (geometry.scaling(full(1 / 1.3), full(1 / 1.3)), {"scale": 1.3}),
        (geometry.shearing(full(math.tan(math.radians(12))), full(0.0)), {"shear": [12.0, 0.0]}),
        (
            geometry.shearing(full(0.3), full(0.0), (-32, -24)),
            {"shear": [math.degrees(math.atan(0.3)), 0.0], "center": [0, 0]},
        ),
        (
            geometry.shearing(full(0.0), full(0.2), (-32, -24)),
            {"shear": [0.0, math.degrees(math.atan(0.2))], "center": [0, 0]},
        ),
    ],
    ids=["translate", "scale", "shear", "shear x at the corner", "shear y at the corner"],
)
def test_affine_steps_are_torchvisions(matrix: Tensor, options: dict) -> None:
    images = photo(1, 48, 64)
    defaults = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    theirs = tv.affine(images, **(defaults | options), interpolation=tv.InterpolationMode.BILINEAR)
    assert_same_but_for_the_outline(sample(images, matrix), theirs)


def test_flip_through_a_matrix_is_exact() -> None:
    images = photo(2, 16, 20)
    ours = sample(images, geometry.scaling(-torch.ones(2), torch.ones(2)))
    torch.testing.assert_close(ours, images.flip(3), atol=INTERIOR_TOLERANCE, rtol=0)


@pytest.mark.parametrize("box", [(4, 3, 20, 30), (0, 0, 48, 64), (10, 40, 38, 24)])
def test_cropping_is_crop_then_resize(box: tuple[int, int, int, int]) -> None:
    """torchvision's resized_crop, away from the crop's border: there we go on reading the image around it."""
    top, left, height, width = box
    images = photo(1, 48, 64)
    theirs = tv.resized_crop(images, top, left, height, width, [96, 96], antialias=False)
    area, log_aspect = full(height * width / (48 * 64)), full(math.log(width / height))
    x, y = full(left / max(64 - width, 1)), full(top / max(48 - height, 1))
    ours = sample(images, geometry.cropping(area, log_aspect, x, y, (48, 64)), (96, 96), is_inside=True)
    torch.testing.assert_close(ours[..., 6:-6, 6:-6], theirs[..., 6:-6, 6:-6], atol=INTERIOR_TOLERANCE, rtol=0)


@pytest.mark.parametrize("fill", ["black", "mean", "reflect"])
def test_resize_through_a_matrix_is_interpolate(fill: geometry.Fill) -> None:
    """No matrix but the identity: the images that a random policy leaves alone look as at evaluation."""
    images = photo(2, 32, 24)
    ours = sample(images, geometry.identity(2, images.device), (96, 120), fill=fill, fill_values=torch.ones(3) * 99)
    theirs = geometry.resize(images, (96, 120))
    margin = 3 if fill == "reflect" else 0  # mirrored about the centres of the border pixels
    inner = (slice(None), slice(None), slice(margin, 96 - margin), slice(margin, 120 - margin))
    torch.testing.assert_close(ours[inner], theirs[inner], atol=INTERIOR_TOLERANCE, rtol=0)


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_outside_is_the_fill(fill: geometry.Fill) -> None:
    values = torch.tensor([10.0, 20.0, 30.0])
    images = photo(1, 16, 20) + 100
    ours = sample(images, geometry.translation(full(6.0), full(0.0)), (32, 40), fill=fill, fill_values=values)
    assert torch.equal(ours[0, :, :, :12], values.view(3, 1, 1).expand(3, 32, 12))
    assert ours[..., 12:].min() >= 100 - INTERIOR_TOLERANCE


def test_reflection_by_whole_pixels_is_that_of_the_exact_path() -> None:
    images = photo(1, 16, 20)
    ours = sample(images, geometry.translation(full(3.0), full(-2.0)), fill="reflect")
    exact = geometry.shift_and_flip(
        images, torch.tensor([False]), torch.tensor([1]), torch.tensor([6]), 4, "reflect", BLACK
    )
    torch.testing.assert_close(ours, exact, atol=INTERIOR_TOLERANCE, rtol=0)


@pytest.mark.parametrize(("fill", "mode"), [("black", "constant"), ("mean", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("left", "top"), [(0, 0), (8, 3), (4, 4), (1, 8)])
def test_crop_and_flip_are_exact(fill: geometry.Fill, mode: str, flip: bool, left: int, top: int) -> None:
    """The flip first, then torchvision's RandomCrop with padding, pixel for pixel."""
    images = torch.randint(0, 256, (2, 3, 24, 32), generator=torch.Generator().manual_seed(0)).float()
    value = 7.0 if fill == "mean" else 0.0
    picture = images.flip(3) if flip else images
    padded = tv.pad(picture, [4, 4, 4, 4], fill=value, padding_mode=mode)
    places = torch.tensor([left] * 2), torch.tensor([top] * 2)
    ours = geometry.shift_and_flip(images, torch.tensor([flip] * 2), *places, 4, fill, torch.full((3,), value))
    assert torch.equal(ours, tv.crop(padded, top, left, 24, 32))


def test_prefilter_keeps_a_strong_reduction_from_aliasing() -> None:
    """A checkerboard of single pixels is grey from far; sampled bilinearly without a filter it is not."""
    board = ((torch.arange(256).view(-1, 1) // 2 + torch.arange(256) // 2) % 2).float().expand(1, 3, 256, 256)
    matrix = geometry.rotation(full(3.0)) @ geometry.scaling(full(0.7), full(0.7))
    plain = geometry.resample(board, matrix, (256, 256), (32, 32), fill="black", fill_values=BLACK)
    filtered = geometry.prefilter(board, (32, 32), 1.0)
    ours = geometry.resample(filtered, matrix, (256, 256), (32, 32), fill="black", fill_values=BLACK)
    assert (ours - 0.5).abs().max() < 0.05
    assert (plain - 0.5).abs().max() > 0.2


@pytest.mark.parametrize(
    ("have", "want", "area", "expected"),
    [
        ((256, 256), (224, 224), 1.0, (256, 256)),
        ((512, 512), (224, 224), 1.0, (224, 224)),
        ((512, 512), (224, 224), 0.08, (448, 448)),
        ((32, 32), (224, 224), 1.0, (32, 32)),
        ((512, 200), (224, 224), 0.25, (448, 200)),
    ],
)
def test_prefilter_sizes(have: tuple[int, int], want: tuple[int, int], area: float, expected: tuple[int, int]) -> None:
    assert geometry.prefilter(torch.zeros(1, 3, *have), want, area).shape[2:] == expected


angles, shifts, zooms = st.floats(-180, 180), st.floats(-20, 20), st.floats(0.5, 2)
steps = st.one_of(
    st.builds(lambda a: geometry.rotation(full(a)), angles),
    st.builds(lambda x, y: geometry.translation(full(x), full(y)), shifts, shifts),
    st.builds(lambda x, y: geometry.scaling(full(x), full(-y)), zooms, zooms),
    st.builds(lambda x, y: geometry.shearing(full(x / 20), full(y / 20), (-16.0, -12.0)), shifts, shifts),
)


@given(first=steps, second=steps, third=steps, x=shifts, y=shifts)
@settings(max_examples=50, deadline=None)
def test_composition_is_step_by_step(first: Tensor, second: Tensor, third: Tensor, x: float, y: float) -> None:
    """Where a point of the output is read from: last step's matrix first, since it is nearest to the output."""
    point = torch.tensor([x, y, 1.0])
    one_by_one = first[0] @ (second[0] @ (third[0] @ point))
    torch.testing.assert_close((first @ second @ third)[0] @ point, one_by_one, atol=POINT_TOLERANCE, rtol=1e-4)


@given(first=steps, second=steps)
@settings(max_examples=25, deadline=None)
def test_every_step_moves_content_the_opposite_way_of_its_matrix(first: Tensor, second: Tensor) -> None:
    """A matrix and its inverse leave every point where it was, so that no step is degenerate."""
    product = first @ second
    identity = product @ torch.linalg.inv(second) @ torch.linalg.inv(first)
    torch.testing.assert_close(identity[0], torch.eye(3), atol=POINT_TOLERANCE, rtol=0)


@given(
    area=st.floats(0.01, 1),
    log_aspect=st.floats(-1.5, 1.5),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    height=st.integers(8, 64),
    width=st.integers(8, 64),
)
@settings(max_examples=60, deadline=None)
def test_crops_stay_inside_and_have_their_area(
    area: float, log_aspect: float, x: float, y: float, height: int, width: int
) -> None:
    matrix = geometry.cropping(full(area), full(log_aspect), full(x), full(y), (height, width))[0]
    corners = torch.tensor([[-width / 2, -height / 2, 1], [width / 2, height / 2, 1]]).T
    (left, right), (top, bottom), _ = (matrix @ corners).tolist()
    assert -width / 2 - POINT_TOLERANCE <= left < right <= width / 2 + POINT_TOLERANCE
    assert -height / 2 - POINT_TOLERANCE <= top < bottom <= height / 2 + POINT_TOLERANCE
    assert (right - left) * (bottom - top) == pytest.approx(area * height * width, rel=1e-3)


def test_random_crop_of_torchvision_has_the_same_places() -> None:
    """RandomCrop with padding p draws among 2 p + 1 places on each axis, as shift_and_flip takes them."""
    crop = transforms.RandomCrop(32, padding=4)
    picture = Image.new("RGB", (40, 40))
    places = {crop.get_params(picture, (32, 32))[:2] for _ in range(2000)}
    assert {top for top, _ in places} == set(range(9))
