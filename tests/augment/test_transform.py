"""The whole transform: prepare, the exact path, the reference policy, independence of the batch, no waiting."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.torchvision_import import functional as tv
from vitrail.augment import Augment, geometry, mixing, prepare, transform
from vitrail.augment.random import Draw, uniform
from vitrail.config import AugmentConfig, Preprocessing
from vitrail.errors import ConfigError, InputError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
NORMALISED_TOLERANCE = 2e-6
BATCH_TOLERANCE = 1e-6
JITTER = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
REFERENCE = AugmentConfig(flip=0.5, rotation=15, crop_padding=4, **JITTER)
EXACT_POLICIES = {
    "crop and flip": AugmentConfig(flip=0.5, crop_padding=4),
    "reflected": AugmentConfig(flip=0.5, crop_padding=4, fill="reflect"),
    "mean": AugmentConfig(crop_padding=2, fill="mean"),
    "flip": AugmentConfig(flip=0.5),
    "alternating": AugmentConfig(flip=0.5, flip_kind="alternating", crop_padding=4),
}
SAMPLED_POLICIES = {
    "reference": REFERENCE,
    "resized crop": AugmentConfig(flip=0.5, resized_crop=0.2),
    "affine": AugmentConfig(rotation=10, translate=0.1, scale=(0.8, 1.3), shear=8, fill="reflect"),
    "rand-augment": AugmentConfig(flip=0.5, crop_padding=4, policy="rand-augment", fill="mean"),
    "trivial-augment": AugmentConfig(policy="trivial-augment", erasing=0.5),
    "jitter": AugmentConfig(**JITTER),
}
POLICIES = EXACT_POLICIES | SAMPLED_POLICIES


def preprocessing(image_size: tuple[int, int] = (32, 32), decode_size: tuple[int, int] = (32, 32)) -> Preprocessing:
    return Preprocessing(image_size=image_size, decode_size=decode_size, mean=MEAN, std=STD)


def grey(image_size: tuple[int, int] = (28, 28)) -> Preprocessing:
    return Preprocessing(image_size=image_size, decode_size=(28, 28), channels="L", mean=(0.5,), std=(0.3,))


def photo(num_images: int, height: int = 32, width: int = 32, num_channels: int = 3) -> Tensor:
    noise = torch.rand(num_images, num_channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    return F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)


def textbook(pixels: Tensor) -> Tensor:
    """Pixels in [0, 255], normalised."""
    return (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_prepare_normalises() -> None:
    images = photo(4)
    torch.testing.assert_close(prepare(images, preprocessing()), textbook(images), atol=NORMALISED_TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", [(224, 224), (40, 64), (20, 12)])
def test_prepare_resizes_with_antialias(size: tuple[int, int]) -> None:
    images = photo(3)
    resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    ours = prepare(images, preprocessing(size))
    torch.testing.assert_close(ours, textbook(resized), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (48, 64)])
def test_the_default_changes_nothing(size: tuple[int, int]) -> None:
    images, settings = photo(5), preprocessing(size)
    ours = Augment(AugmentConfig(), settings, seed=3)(images, torch.arange(5), 2)
    assert torch.equal(ours, prepare(images, settings))


@pytest.mark.parametrize("config", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("size", [(32, 32), (48, 64)])
def test_shape_type_and_range(config: AugmentConfig, size: tuple[int, int]) -> None:
    ours = Augment(config, preprocessing(size), seed=0)(photo(16), torch.arange(16), 0)
    assert ours.shape == (16, 3, *size)
    assert ours.dtype == torch.float32
    low, high = textbook(torch.zeros(1, 3, 1, 1)), textbook(torch.full((1, 3, 1, 1), 255.0))
    assert (ours >= low - 1e-4).all()
    assert (ours <= high + 1e-4).all()


@pytest.mark.parametrize("name", POLICIES)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    """Other company, another order, another place: the same pixels; bit for bit where pixels are only moved."""
    augment = Augment(POLICIES[name], preprocessing((48, 48) if name in SAMPLED_POLICIES else (32, 32)), seed=1)
    images, ids = photo(24), torch.arange(24) * 1000
    whole = augment(images, ids, 4)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    parts = torch.cat([augment(images[part], ids[part], 4) for part in order.split(7)])
    if name in EXACT_POLICIES:
        assert torch.equal(parts, whole[order])
    else:
        torch.testing.assert_close(parts, whole[order], atol=BATCH_TOLERANCE, rtol=0)


@pytest.mark.parametrize("config", POLICIES.values(), ids=POLICIES)
def test_seed_epoch_and_id_decide(config: AugmentConfig) -> None:
    settings, images, ids = preprocessing(), photo(1).repeat(32, 1, 1, 1), torch.arange(32)
    reference = Augment(config, settings, seed=0)(images, ids, 0)
    assert torch.equal(Augment(config, settings, seed=0)(images, ids, 0), reference)
    for other in (
        Augment(config, settings, seed=0)(images, ids, 1),
        Augment(config, settings, seed=1)(images, ids, 0),
        Augment(config, settings, seed=0)(images, ids + 32, 0),
    ):
        assert (other != reference).flatten(1).any(1).float().mean() > 0.25  # of a flip alone, half are the same
    assert len({image.numpy().tobytes() for image in reference}) > 1


def test_switching_one_option_on_keeps_the_draws_of_the_others() -> None:
    images, ids = photo(8), torch.arange(8)
    plain = Augment(AugmentConfig(flip=0.5, crop_padding=4), preprocessing(), seed=0)(images, ids, 0)
    erased = Augment(AugmentConfig(flip=0.5, crop_padding=4, erasing=0.5), preprocessing(), seed=0)(images, ids, 0)
    kept = erased != 0
    assert torch.equal(erased[kept], plain[kept])
    assert not kept.all()


def test_alternating_flips_show_both_sides_in_two_epochs() -> None:
    """Whichever batch an image is in: the picture in one epoch of a pair, its mirror image in the other."""
    images, ids = photo(40), torch.arange(40) * 77
    augment = Augment(AugmentConfig(flip=0.5, flip_kind="alternating"), preprocessing(), seed=2)
    plain, mirrored = prepare(images, preprocessing()), prepare(images.flip(3), preprocessing())
    for epoch in (0, 2, 6):
        first = augment(images, ids, epoch)
        second = torch.cat([augment(images[part], ids[part], epoch + 1) for part in torch.arange(40).split(7)])
        is_plain = torch.tensor([torch.equal(a, b) for a, b in zip(first, plain, strict=True)])
        assert 10 < is_plain.sum() < 30
        assert torch.equal(first, torch.where(is_plain[:, None, None, None], plain, mirrored))
        assert torch.equal(second, torch.where(is_plain[:, None, None, None], mirrored, plain))


@pytest.mark.parametrize("config", [POLICIES["crop and flip"], *SAMPLED_POLICIES.values()])
@pytest.mark.parametrize("epoch", [0, 3])
def test_alternating_flips_leave_the_other_draws_alone(config: AugmentConfig, epoch: int) -> None:
    """Each image is one of the two that flips drawn anew would make of it in that epoch; in epoch 0 the very one."""
    images, ids = photo(32), torch.arange(32)
    config = replace(config, flip=0.5)

    def drawn(changed: AugmentConfig) -> Tensor:
        return Augment(changed, preprocessing(), seed=0)(images, ids, epoch)

    ours, random = drawn(replace(config, flip_kind="alternating")), drawn(config)
    never, always = drawn(replace(config, flip=0.0)), drawn(replace(config, flip=1.0))
    flips = (uniform(0, 0, ids, [Draw.FLIP])[0] < 0.5) ^ bool(epoch % 2)
    expected = torch.where(flips[:, None, None, None], always, never)
    torch.testing.assert_close(ours, expected, atol=BATCH_TOLERANCE, rtol=0)
    assert torch.equal(ours, random) == (epoch == 0)


def test_crop_and_flip_are_torchvisions_with_the_same_parameters() -> None:
    """Flip, RandomCrop with padding: image by image, with the numbers that the generator gives, to the bit."""
    images, ids = photo(24, 24, 40), torch.arange(24)
    settings = Preprocessing(image_size=(24, 40), decode_size=(24, 40), mean=MEAN, std=STD)
    ours = Augment(AugmentConfig(flip=0.5, crop_padding=4), settings, seed=5)(images, ids, 1)
    flips, lefts, tops = uniform(5, 1, ids, [Draw.FLIP, Draw.CROP_X, Draw.CROP_Y])
    for i in range(24):
        picture = tv.horizontal_flip(images[i]) if flips[i] < 0.5 else images[i]
        cropped = tv.crop(tv.pad(picture, [4]), int(tops[i] * 9), int(lefts[i] * 9), 24, 40)
        assert torch.equal(ours[i], prepare(cropped.unsqueeze(0), settings)[0])
    assert 4 < (flips < 0.5).sum() < 20


def test_the_padding_is_in_pixels_of_the_output() -> None:
    """With a resize: as resizing first and cropping the large image, away from its outline."""
    images, ids = photo(24, 24, 40), torch.arange(24)
    settings = Preprocessing(image_size=(96, 80), decode_size=(24, 40), mean=MEAN, std=STD)
    ours = Augment(AugmentConfig(flip=0.5, crop_padding=4), settings, seed=5)(images, ids, 1)
    flips, lefts, tops = uniform(5, 1, ids, [Draw.FLIP, Draw.CROP_X, Draw.CROP_Y])
    large = prepare(images, settings)
    for i in range(24):
        picture = tv.horizontal_flip(large[i]) if flips[i] < 0.5 else large[i]
        expected = tv.crop(tv.pad(picture, [4]), int(tops[i] * 9), int(lefts[i] * 9), 96, 80)
        torch.testing.assert_close(ours[i][:, 8:-8, 8:-8], expected[:, 8:-8, 8:-8], atol=1e-4, rtol=0)


@pytest.mark.parametrize("fill", ["black", "reflect"])
def test_moving_bytes_and_moving_floats_agree(fill: geometry.Fill) -> None:
    """Without jitter bytes are moved, with it floats: jitter too small to see gives the same pixels."""
    images, ids = photo(8), torch.arange(8)
    config = AugmentConfig(flip=0.5, crop_padding=4, fill=fill)
    with_bytes = Augment(config, preprocessing(), seed=0)(images, ids, 0)
    with_floats = Augment(replace(config, brightness=1e-7), preprocessing(), seed=0)(images, ids, 0)
    torch.testing.assert_close(with_bytes, with_floats, atol=1e-5, rtol=0)


def test_reference_policy_is_torchvisions_with_the_same_parameters() -> None:
    """Flip, rotation and crop of the reference, one after the other on uint8 with bilinear sampling.

    Resampled once here and, the crop being by whole pixels, once there: the interior agrees within rounding; the
    rotated outline does not (torchvision blends it with the fill, and what the rotation has cut off cannot come back).
    """
    images, ids = photo(12), torch.arange(12)
    config = AugmentConfig(flip=0.5, rotation=15, crop_padding=4)
    ours = Augment(config, preprocessing(), seed=0)(images, ids, 0)
    draws = uniform(0, 0, ids, [Draw.FLIP, Draw.ROTATION, Draw.CROP_X, Draw.CROP_Y]).T.tolist()
    one_level = 1.2 / 255 / min(STD)
    for i, (flip, turn, left, top) in enumerate(draws):
        picture = tv.horizontal_flip(images[i]) if flip < 0.5 else images[i]
        turned = tv.rotate(picture, 15 * (2 * turn - 1), interpolation=tv.InterpolationMode.BILINEAR)
        cropped = tv.crop(tv.pad(turned, [4]), int(top * 9), int(left * 9), 32, 32)
        wrong = (ours[i] - textbook(cropped)).abs().amax(0) > one_level
        assert not wrong[10:22, 10:22].any()
        assert wrong.float().mean() < 0.2


def test_jitter_is_torchvisions_in_expectation() -> None:
    """Mean and spread over many draws of one image: brightness, contrast and saturation factors as ColorJitter's."""
    image = (photo(1) // 2 + 60).to(torch.uint8)
    config = AugmentConfig(brightness=0.2, contrast=0.2, saturation=0.2)
    ours = Augment(config, preprocessing(), seed=0)(image.expand(3000, -1, -1, -1), torch.arange(3000), 0)
    generator = torch.Generator().manual_seed(0)
    theirs = []
    for factors in (0.8 + 0.4 * torch.rand(600, 3, generator=generator)).tolist():
        jittered = tv.adjust_brightness(image / 255, factors[0])
        jittered = tv.adjust_saturation(tv.adjust_contrast(jittered, factors[1]), factors[2])
        theirs.append(textbook(jittered * 255)[0])
    expected = torch.stack(theirs)
    assert (ours.mean(0) - expected.mean(0)).abs().max() < 0.1  # standard error of 600 draws: 0.02
    ratio = ours.std(0) / expected.std(0)
    assert 0.8 < ratio.min() and ratio.max() < 1.25


def test_images_left_alone_by_a_sampled_policy_look_as_at_evaluation() -> None:
    config = AugmentConfig(resized_crop=0.999999)
    images, settings = photo(3), preprocessing((80, 80))
    ours = Augment(config, settings, seed=0)(images, torch.arange(3), 0)
    torch.testing.assert_close(ours, prepare(images, settings), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(flip=0.5, crop_padding=3, fill="mean"),
        AugmentConfig(brightness=0.3, contrast=0.3, rotation=10),
        AugmentConfig(policy="rand-augment", policy_magnitude=20, erasing=0.5),
        AugmentConfig(policy="trivial-augment", resized_crop=0.5),
    ],
)
def test_grey_images(config: AugmentConfig) -> None:
    images = photo(20, 28, 28, num_channels=1)
    ours = Augment(config, grey((36, 28)), seed=0)(images, torch.arange(20), 0)
    assert ours.shape == (20, 1, 36, 28)
    assert ours.isfinite().all()
    assert not torch.allclose(ours, prepare(images, grey((36, 28))))


def test_colour_of_grey_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="hue"):
        Augment(AugmentConfig(hue=0.1), grey(), seed=0)


def test_more_reflection_than_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="crop-padding"):
        Augment(AugmentConfig(crop_padding=32, fill="reflect"), preprocessing(), seed=0)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 32, 32, dtype=torch.uint8)],
    ids=["float", "grey"],
)
def test_images_that_do_not_fit_are_refused(images: Tensor) -> None:
    with pytest.raises(InputError, match="uint8"):
        transform.check_images(images, preprocessing())


@pytest.mark.parametrize("ids", [torch.arange(3), torch.arange(2, dtype=torch.int32)], ids=["too many", "int32"])
def test_ids_that_do_not_fit_are_refused(ids: Tensor) -> None:
    with pytest.raises(InputError, match="int64"):
        mixing.check_one_each("id", ids, 2)


@pytest.mark.parametrize("config", POLICIES.values(), ids=POLICIES)
def test_nothing_waits_for_the_device(config: AugmentConfig) -> None:
    """On the meta device there are no values: reading one, or a shape that depends on one, is an error."""
    images = torch.empty(8, 3, 32, 32, dtype=torch.uint8, device="meta")
    ids = torch.empty(8, dtype=torch.int64, device="meta")
    ours = Augment(config, preprocessing((48, 64)), seed=0)(images, ids, 0)
    assert ours.shape == (8, 3, 48, 64)
    assert ours.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.parametrize("config", POLICIES.values(), ids=POLICIES)
def test_cuda_agrees_with_the_cpu(config: AugmentConfig) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    augment = Augment(config, preprocessing((48, 64)), seed=0)
    images, ids = photo(16), torch.arange(16)
    on_cpu = augment(images, ids, 0)
    on_gpu = augment(images.cuda(), ids.cuda(), 0)
    assert on_gpu.is_cuda
    # Coordinates differ in the last bits: a pixel on the outline may fall on the other side.
    assert ((on_gpu.cpu() - on_cpu).abs() < 1e-3).float().mean() > 0.999


@pytest.mark.parametrize("kind", ["random", "alternating"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_flips_are_those_of_the_pixels(kind: Literal["random", "alternating"], epoch: int) -> None:
    preprocessing = Preprocessing(image_size=(4, 4), decode_size=(4, 4))
    augment = Augment(AugmentConfig(flip=0.5, flip_kind=kind), preprocessing, seed=5)
    images = torch.arange(64 * 3 * 16, dtype=torch.int64).remainder(251).to(torch.uint8).view(64, 3, 4, 4)
    ids = torch.arange(64)
    plain, mirrored = prepare(images, preprocessing), augment.flips(ids, epoch)
    assert 0 < int(mirrored.sum()) < 64
    expected = torch.where(mirrored[:, None, None, None], plain.flip(3), plain)
    torch.testing.assert_close(augment(images, ids, epoch), expected)
