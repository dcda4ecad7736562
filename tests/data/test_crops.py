"""Random crops cut out of files: the pixels of cutting and resizing the whole photograph with Pillow."""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from tests.support.images import encode, exif, noise
from vitrail.config import Preprocessing
from vitrail.data.crops import Crop, load_crop, load_whole
from vitrail.errors import ImageError

FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROPS = [Crop(1.0, 0.0, 0.0, 0.0), Crop(0.3, 0.2, 0.7, 0.1), Crop(0.08, math.log(4 / 3), 1.0, 1.0)]


def settings(side: int, resize_filter: str = "bicubic", **options: object) -> Preprocessing:
    return Preprocessing(
        image_size=(side, side + 3), decode_size=(side, side), resize_filter=resize_filter, **options,  # type: ignore[arg-type]
    )  # fmt: skip


def by_pillow(data: bytes, crop: Crop, preprocessing: Preprocessing) -> np.ndarray:
    """Decode all of it, turn it upright, cut, resize."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    height, width = preprocessing.image_size
    resampling = Image.Resampling[preprocessing.resize_filter.upper()]
    part = image.crop(crop.box(*image.size)).resize((width, height), resampling)
    return np.asarray(part).transpose(2, 0, 1)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("resize_filter", FILTERS)
def test_every_filter(resize_filter: str, crop: Crop) -> None:
    data = encode(noise(90, 130), "JPEG")
    wanted = settings(70, resize_filter)
    assert _difference(load_crop(data, crop, wanted), by_pillow(data, crop, wanted)) <= _levels(resize_filter)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(int) - theirs).max())


def _levels(resize_filter: str) -> int:
    """By how many levels of 255 pixels may differ: torch computes two of the filters."""
    return 2 if resize_filter in ("bilinear", "bicubic") else 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation(kind: str, orientation: int) -> None:
    block = Image.Exif()
    block[0x0112] = orientation
    data = encode(noise(60, 100), kind, exif=block.tobytes() if kind == "TIFF" else exif(orientation))
    for name in ("bicubic", "hamming"):
        wanted = settings(24, name)
        assert _difference(load_crop(data, CROPS[1], wanted), by_pillow(data, CROPS[1], wanted)) <= _levels(name)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P", "1"])
def test_every_mode(mode: str) -> None:
    image = Image.fromarray(noise(60, 100)).convert(mode)
    data = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    for name in ("bicubic", "hamming"):
        wanted = settings(24, name)
        assert _difference(load_crop(data, CROPS[1], wanted), by_pillow(data, CROPS[1], wanted)) <= _levels(name)


def test_pixels_and_grey() -> None:
    pixels = noise(60, 100)
    found = load_crop(pixels, CROPS[1], settings(24))
    np.testing.assert_array_equal(found, load_crop(encode(pixels, "PNG"), CROPS[1], settings(24)))
    grey = settings(24, channels="L", mean=(0.5,), std=(0.5,))
    assert load_crop(pixels, CROPS[1], grey).shape == (1, 24, 27)
    assert load_crop(pixels[..., 0], CROPS[1], grey).shape == (1, 24, 27)


@pytest.mark.parametrize("resize_filter", FILTERS)
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_a_jpeg_at_a_reduced_scale_differs_little(name: str, crop: Crop, orientation: int, resize_filter: str) -> None:
    data = encode(load_sample_image(name), "JPEG", quality=92, exif=exif(orientation))
    wanted = settings(40, resize_filter)
    found, whole = (load(data, crop, wanted).astype(int) for load in (load_crop, by_pillow))
    difference, is_exact = np.abs(found - whole), resize_filter in ("nearest", "box")
    assert difference.mean() <= (0 if is_exact else 2.3)
    assert np.percentile(difference, 99) <= (0 if is_exact else 15)


def test_a_large_photograph_is_not_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    from vitrail.data import crops

    def spy(*inputs: object, **options: object) -> object:
        found = decoded(*inputs, **options)  # type: ignore[arg-type]
        seen.append(found.size if isinstance(found, Image.Image) else found.shape[1::-1])
        return found

    decoded = crops.decoded
    monkeypatch.setattr(crops, "decoded", spy)
    data = encode(np.repeat(np.repeat(load_sample_image("china.jpg"), 3, 0), 3, 1), "JPEG")
    for crop in CROPS:
        load_crop(data, crop, settings(100))
    assert seen == [(240, 161), (480, 216), (960, 641)]


def test_boxes_lie_inside_and_have_the_area(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for width, height in [(1, 1), (500, 375), (4000, 30), (7, 2000)]:
        for _ in range(200):
            area, x, y = rng.uniform(0.01, 1), *rng.uniform(0, 1, 2)
            left, top, right, bottom = Crop(area, rng.uniform(-0.3, 0.3), x, y).box(width, height)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            if min(width, height) >= 300:
                assert (right - left) * (bottom - top) == pytest.approx(area * width * height, rel=0.05)


def test_whole_images_keep_their_shape() -> None:
    data = encode(load_sample_image("china.jpg"), "JPEG", exif=exif(6))
    whole = load_whole(data, settings(24), 48)
    assert whole.shape == (72, 48, 3)
    assert load_whole(data, settings(24), 1000).shape == (640, 427, 3)


@pytest.mark.parametrize("data", [b"", b"no image", encode(noise(60, 90), "JPEG")[:900]])
def test_damage_is_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        load_crop(data, CROPS[1], settings(24), name="odd.jpg")


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_blocks": 7}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_ends_early_with_the_same_pixels(mode: str, options: dict[str, object]) -> None:
    image = Image.fromarray(np.tile(load_sample_image("china.jpg"), (3, 3, 1))).convert(mode)
    data = encode(image, "JPEG", quality=90, **options)
    wanted = settings(100, "hamming")
    for y in (0.0, 0.4, 1.0):
        crop = Crop(0.012, 0.0, 0.5, y)  # too small to be reduced
        np.testing.assert_array_equal(load_crop(data, crop, wanted), by_pillow(data, crop, wanted))
