"""What a CPU does faster equals the plain path; which of the two is taken; memory that is used again."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.augment import Augment, cpu, geometry
from vitrail.config import AugmentConfig, Preprocessing

# grid_sample computes coordinates in [-1, 1], here they are in pixels: both in float32, of values up to 3.
TOLERANCE = 2e-4
RESIZE_TOLERANCE = 3e-5
# A point within rounding of the outline may be counted as inside by one and outside by the other.
OUTLINE_FRACTION = 0.002
FILL = torch.tensor([-1.5, 0.25, 2.0])
UPRIGHT = {
    "crop and flip": AugmentConfig(flip=0.5, crop_padding=4),
    "mean": AugmentConfig(flip=0.5, crop_padding=4, fill="mean"),
    "reflected": AugmentConfig(flip=0.5, crop_padding=4, fill="reflect"),
    "resized crop": AugmentConfig(flip=0.5, resized_crop=0.2),
    "both": AugmentConfig(flip=0.5, resized_crop=0.2, crop_padding=3, brightness=0.2),
}


def images(num_images: int = 9, height: int = 32, width: int = 24) -> Tensor:
    return torch.rand(num_images, 3, height, width, generator=torch.Generator().manual_seed(0)) * 4 - 2


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "is_faster_by_axes", lambda images, size: False)


@pytest.mark.parametrize("size", [(224, 224), (32, 25), (45, 24), (33, 97)])
def test_resize_is_the_plain_one(size: tuple[int, int]) -> None:
    source = images()
    assert cpu.is_faster_by_axes(source, size)
    plain = F.interpolate(source, size, mode="bilinear", antialias=True)
    torch.testing.assert_close(geometry.resize(source, size), plain, atol=RESIZE_TOLERANCE, rtol=0)


def test_only_small_magnified_images_on_a_cpu_take_the_fast_path() -> None:
    assert not cpu.is_faster_by_axes(images(), (224, 20))
    assert not cpu.is_faster_by_axes(images(), (20, 224))
    assert not cpu.is_faster_by_axes(torch.empty(1, 3, 200, 200), (224, 224))
    assert not cpu.is_faster_by_axes(torch.empty(1, 3, 32, 32, device="meta"), (224, 224))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_whole_pixels_are_moved_as_plainly(
    dtype: torch.dtype, padding: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(0, 256, (40, 3, 20, 28), generator=generator).to(dtype).contiguous(memory_format=layout)
    flip = torch.rand(40, generator=generator) < 0.5
    x, y = torch.randint(0, 2 * padding + 1, (2, 40), generator=generator)
    fill_values = torch.tensor([1, 2, 3], dtype=dtype)
    before = source.clone()
    fast = geometry.shift_and_flip(source, flip, x, y, padding, "black", fill_values)
    assert torch.equal(source, before)
    assert fast.dtype == dtype
    monkeypatch.setattr(cpu, "is_faster_cut", lambda images: False)
    assert torch.equal(fast, geometry.shift_and_flip(source, flip, x, y, padding, "black", fill_values))


def test_what_numpy_does_not_know_is_moved_plainly() -> None:
    source = images(4)
    flip, edge = torch.tensor([True, False, True, False]), torch.tensor([0, 1, 2, 1])
    expected = geometry.shift_and_flip(source, flip, edge, edge, 1, "black", FILL)
    brief = geometry.shift_and_flip(source.bfloat16(), flip, edge, edge, 1, "black", FILL.bfloat16())
    assert torch.equal(brief, expected.bfloat16())
    source.requires_grad_()
    geometry.shift_and_flip(source, flip, edge, edge, 1, "black", FILL).sum().backward()
    assert source.grad is not None


@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
def test_upright_sampling_is_the_plain_one(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Zoomed in and out, mirrored, shifted beyond the outline: each image in its own way."""
    source = images(40)
    generator = torch.Generator().manual_seed(1)
    zoom = 0.4 + torch.rand(2, 40, generator=generator)
    mirror = torch.where(torch.rand(40, generator=generator) < 0.5, -1.0, 1.0)
    shift = 16 * torch.rand(2, 40, generator=generator) - 8
    matrices = geometry.scaling(mirror * zoom[0], zoom[1]) @ geometry.translation(shift[0], shift[1])

    def sample() -> Tensor:
        return geometry.resample(
            source, matrices, (32, 24), size, fill="black", fill_values=FILL, is_upright=True
        ).clone()

    fast = sample()
    plainly(monkeypatch)
    plain = sample()
    wrong = (fast - plain).abs() > TOLERANCE
    assert wrong.float().mean() < OUTLINE_FRACTION
    is_fill = (plain == FILL.view(3, 1, 1)).all(1)
    assert 0.05 < is_fill.float().mean() < 0.6


@pytest.mark.parametrize("config", UPRIGHT.values(), ids=UPRIGHT)
@pytest.mark.parametrize("size", [(48, 64), (224, 224)])
def test_augmentation_is_the_plain_one(
    config: AugmentConfig, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Preprocessing(image_size=size, decode_size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.3))
    pixels = torch.randint(0, 256, (24, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    augment = Augment(config, settings, seed=3)
    fast = augment(pixels, torch.arange(24), 1).clone()
    plainly(monkeypatch)
    plain = augment(pixels, torch.arange(24), 1)
    assert ((fast - plain).abs() > TOLERANCE).float().mean() < OUTLINE_FRACTION


def test_an_image_is_the_same_in_any_company() -> None:
    """Bit for bit, however many images a batch or a thread has: evaluation must not depend on the batch size."""
    source = images(50)
    whole = geometry.resize(source, (224, 224)).clone()
    parts = torch.cat([geometry.resize(part, (224, 224)) for part in source.split((1, 7, 42))])
    assert torch.equal(whole, parts)


def test_large_outputs_reuse_their_memory_only_when_nobody_holds_it() -> None:
    source = images(4, 32, 32)
    first = geometry.resize(source, (256, 256))
    kept, address = first[1:2].clone(), first.data_ptr()
    view = first[1:2]
    del first
    second = geometry.resize(source.flip(0), (256, 256))
    assert second.data_ptr() != address
    assert torch.equal(view, kept)
    del view
    assert address in {geometry.resize(source, (256, 256)).data_ptr() for _ in range(2)}
