"""An image in memory gives the pixels of its file; what has no agreed white is refused."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.support.images import encode, exif, noise, png, png_chunk, smooth
from vitrail.config import Preprocessing
from vitrail.data.decode import load_image
from vitrail.errors import ImageError

STEPS = Preprocessing(image_size=(24, 40), decode_size=(24, 40))
SWAPPED = (  # sRGB with red and green exchanged: legal, and visibly different
    ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    .tobytes()
    .replace(b"rXYZ", b"tmp_")
    .replace(b"gXYZ", b"rXYZ")
    .replace(b"tmp_", b"gXYZ")
)


def palette_image() -> Image.Image:
    return Image.fromarray(smooth(24, 40)).quantize(64)


def deep(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (24, 40, channels)).astype(">u2")


def transparent_colour() -> bytes:
    samples = deep(3)
    return png(40, 24, 16, 2, samples.tobytes(), ((b"tRNS", samples[3, 4].tobytes()),))


def with_alpha(channels: int) -> np.ndarray:
    return np.dstack([smooth(24, 40)[..., : channels - 1], noise(24, 40, channels=1)])


FILES: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: encode(smooth(24, 40), "PNG"),
    "grey": lambda: encode(smooth(24, 40)[..., 0], "PNG"),
    "bits": lambda: encode(Image.fromarray(smooth(24, 40)).convert("1"), "PNG"),
    "alpha": lambda: encode(with_alpha(4), "WEBP"),
    "grey and alpha": lambda: encode(Image.fromarray(with_alpha(2), "LA"), "PNG"),
    "palette with alpha": lambda: encode(palette_image(), "PNG", transparency=bytes(range(0, 256, 4))),
    "palette of a GIF": lambda: encode(palette_image(), "GIF", transparency=3),
    "16 bits": lambda: png(40, 24, 16, 0, deep(1).tobytes()),
    "16 bits in colour": lambda: png(40, 24, 16, 2, deep(3).tobytes()),
    "16 bits, a transparent colour": transparent_colour,
    "16 bits, TIFF": lambda: encode(Image.fromarray(deep(1)[..., 0]), "TIFF"),
    "CMYK": lambda: encode(Image.fromarray(smooth(24, 40)).convert("CMYK"), "JPEG"),
    "turned": lambda: encode(smooth(40, 24), "JPEG", exif=exif(6)),
    "turned, PNG": lambda: encode(smooth(40, 24), "PNG", exif=exif(8)),
    "a profile": lambda: encode(smooth(24, 40), "JPEG", icc_profile=SWAPPED),
    "a profile and alpha": lambda: encode(with_alpha(4), "PNG", icc_profile=SWAPPED),
    "a broken profile": lambda: encode(smooth(24, 40), "JPEG", icc_profile=SWAPPED[:300]),
    "EXIF data behind the pixels": lambda: (
        encode(smooth(40, 24), "PNG")[:-12] + png_chunk(b"eXIf", exif(6)[6:]) + png_chunk(b"IEND", b"")
    ),
}


@pytest.mark.parametrize("icc", ["apply", "ignore"])
@pytest.mark.parametrize("name", FILES)
def test_an_image_in_memory_gives_the_pixels_of_its_file(name: str, icc: Any) -> None:
    data, steps = FILES[name](), Preprocessing(image_size=(24, 40), decode_size=(24, 40), icc=icc)
    of_file = load_image(data, steps)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(load_image(opened, steps), of_file)
        np.testing.assert_array_equal(load_image(opened, steps), of_file)  # nothing was done to it


@pytest.mark.parametrize("name", ["RGB", "CMYK", "a profile"])
def test_ignored_profiles_leave_the_numbers_of_the_file(name: str) -> None:
    data, ignore = FILES[name](), Preprocessing(image_size=(24, 40), decode_size=(24, 40), icc="ignore")
    with Image.open(io.BytesIO(data)) as opened:
        theirs = np.asarray(opened.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(load_image(data, ignore), theirs)
    differs = (load_image(data, STEPS) != theirs).any()
    assert differs == (name == "a profile")


def test_sixteen_bits_in_memory_are_those_of_a_file() -> None:
    samples = deep(1)[..., 0]
    of_file = load_image(png(40, 24, 16, 0, samples.tobytes()), STEPS)
    np.testing.assert_array_equal(of_file[0], samples >> 8)
    for form in (samples, samples.astype("<u2"), samples.astype(np.int32)):
        image = Image.fromarray(form)
        assert image.mode == {">u2": "I;16B", "<u2": "I;16", "<i4": "I"}[form.dtype.str]
        np.testing.assert_array_equal(load_image(image, STEPS), of_file)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(smooth(9, 9)[..., 0].astype(np.float32)),
        Image.fromarray(smooth(9, 9)[..., 0].astype(np.int32)),
        Image.fromarray(np.full((9, 9), 70000, np.int32)),
        Image.fromarray(np.full((9, 9), -1, np.int32)),
        Image.new("LAB", (9, 9)),
    ],
)
def test_what_has_no_agreed_white_is_refused(image: Image.Image) -> None:
    with pytest.raises(ImageError, match="convert to mode") as caught:
        load_image(image, STEPS)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA", "RGBX", "HSV", "YCbCr"])
def test_rare_modes_are_converted(mode: str) -> None:
    first = {"RGBa": "RGBA", "La": "LA", "PA": "LA"}.get(mode, "RGB")
    image = Image.fromarray(smooth(24, 40)).convert(first).convert(mode)
    expected = np.asarray(Image.fromarray(smooth(24, 40)).convert("LA" if first == "LA" else "RGB").convert("RGB"))
    # Pillow's HSV and YCbCr are rounded to 8 bits each.
    assert np.abs(load_image(image, STEPS).transpose(1, 2, 0).astype(int) - expected).max() <= 6


def test_an_orientation_set_in_memory_is_followed() -> None:
    image = Image.fromarray(smooth(40, 24))
    image.getexif()[0x0112] = 6
    np.testing.assert_array_equal(load_image(image, STEPS), np.rot90(smooth(40, 24), -1).transpose(2, 0, 1))


def test_closed_and_truncated_images() -> None:
    closed = Image.open(io.BytesIO(encode(smooth(24, 40), "PNG")))
    closed.close()
    cut = Image.open(io.BytesIO(encode(noise(24, 40), "JPEG")[:900]))
    for image in (closed, cut):
        with pytest.raises(ImageError, match="^mine: "):
            load_image(image, STEPS, name="mine")
