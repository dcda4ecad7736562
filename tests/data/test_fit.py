"""Fast decoding beside the exact one: how far apart, in every mode, upright or turned; off unless asked for."""

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from vitrail.config import Preprocessing
from vitrail.config.strict_json import from_json, to_json
from vitrail.data import decode, load_image
from vitrail.data.fit import fit
from vitrail.errors import ImageError

EXACT = Preprocessing(image_size=(60, 48), decode_size=(60, 48))
TWO_LEVELS = 2  # each of two passes rounds, to 8 bits, with weights of 15 bits
# A DCT-scaled image is a box filter's, Pillow's bicubic is sharper: on smooth photographs little is left of that.
MEAN_LEVELS, MOST_LEVELS = 1.5, 16
WAYS = {
    "crop": {},
    "squash": {"resize_mode": "squash"},
    "bilinear": {"resize_filter": "bilinear"},
    "whole, then crop": {"resize_size": (68, 68)},
}


def photograph(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("size", [(75, 91), (130, 64), (60, 200), (40, 30)])
def test_the_resize_is_pillows_within_two_levels(changes: dict, size: tuple[int, int]) -> None:
    exact = replace(EXACT, **changes)
    theirs = fit(photograph(*size), exact).astype(int)
    ours = fit(photograph(*size), replace(exact, fast_decoding=True)).astype(int)
    assert ours.shape == theirs.shape == (3, 60, 48)
    assert np.abs(ours - theirs).max() <= TWO_LEVELS
    assert (ours == theirs).mean() > 0.8


def _size(image: Image.Image | np.ndarray) -> tuple[int, int]:
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_a_large_jpeg_is_decoded_small(changes: dict, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []

    def noted(image: Any, p: Preprocessing, **how: bool) -> Any:
        decoded.append(_size(image))
        return fit(image, p, **how)

    monkeypatch.setattr("vitrail.data.decode.fit", noted)
    exact, data = replace(EXACT, **changes), jpeg(photograph(640, 480), orientation)
    theirs = load_image(data, exact).astype(int)
    ours = load_image(data, replace(exact, fast_decoding=True)).astype(int)
    full = (640, 480) if orientation == 1 else (480, 640)
    assert decoded[0] == full
    assert decoded[1][0] in (full[0] // 4, full[0] // 8) and decoded[1][0] >= 48 and decoded[1][1] >= 60
    assert np.abs(ours - theirs).mean() < MEAN_LEVELS
    assert np.abs(ours - theirs).max() <= MOST_LEVELS


def test_a_grey_image_that_becomes_rgb_is_resized_quickly_too() -> None:
    exact = replace(EXACT, fast_decoding=True)
    grey = photograph(90, 80).convert("L")
    assert np.array_equal(fit(grey, exact), fit(grey.convert("RGB"), exact))
    assert not np.array_equal(fit(grey, exact), fit(grey, EXACT)), "within two levels of Pillow's, but not Pillow's"


def test_memory_that_is_not_there_is_an_error_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode, "simplejpeg", SimpleNamespace(decode_jpeg=without))
    fast = replace(EXACT, fast_decoding=True)
    assert load_image(jpeg(photograph(90, 80)), fast).shape == (3, 60, 48)  # Pillow had enough
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", without)
    with pytest.raises(ImageError, match="memory"):
        load_image(jpeg(photograph(90, 80)), fast)


def _kinds_of_jpeg(size: tuple[int, int]) -> dict[str, bytes]:
    """One photograph in many forms of the format, some of them damaged."""
    image, kinds = photograph(*size), {}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ways: dict[str, dict] = {
        **{f"subsampled {way}": {"subsampling": way} for way in ("4:4:4", "4:2:2", "4:2:0")},
        "progressive": {"progressive": True},
        "with a profile": {"icc_profile": profile},
        "as RGB": {"keep_rgb": True},
        "with restarts": {"restart_marker_rows": 1},
    }
    for name, way in ways.items():
        for mode in ("RGB", "L", "CMYK") if name == "progressive" else ("RGB",):
            buffer = io.BytesIO()
            image.convert(mode).save(buffer, "JPEG", quality=92, **way)
            kinds[f"{name}, {mode}"] = buffer.getvalue()
    whole = jpeg(image)
    return kinds | {
        "turned": jpeg(image, 8),
        "cut short": whole[:-40],
        "no end": whole[:-2],
        "flipped": _flipped(whole),
    }


def _flipped(data: bytes) -> bytes:
    spoilt = bytearray(data)
    spoilt[len(spoilt) // 2] ^= 0x55
    return bytes(spoilt)


def _outcome(data: bytes, preprocessing: Preprocessing) -> np.ndarray | str:
    try:
        return load_image(data, preprocessing, name="x.jpg")
    except ImageError as error:
        return str(error)


@pytest.mark.skipif(decode.simplejpeg is None, reason="needs simplejpeg")
@pytest.mark.parametrize("size", [(640, 480), (131, 97), (61, 49), (9, 30), (5, 7)])
def test_the_second_decoder_changes_no_pixel_and_no_message(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = replace(EXACT, fast_decoding=True)
    used: list[int] = []
    decoder = decode.simplejpeg.decode_jpeg
    counting = SimpleNamespace(decode_jpeg=lambda *a, **k: used.append(1) or decoder(*a, **k))
    for name, data in _kinds_of_jpeg(size).items():
        monkeypatch.setattr(decode, "simplejpeg", counting)
        ours = _outcome(data, fast)
        monkeypatch.setattr(decode, "simplejpeg", None)
        assert np.array_equal(ours, _outcome(data, fast)), name
    assert len(used) == (9 if min(size) >= 8 else 0)  # every colour image that is upright and without a profile


def test_grey_input_and_other_filters_stay_pillows() -> None:
    for changes in ({"channels": "L", "mean": (0.5,), "std": (0.5,)}, {"resize_filter": "lanczos"}):
        exact = replace(EXACT, **changes)
        fast = replace(exact, fast_decoding=True)
        assert np.array_equal(fit(photograph(100, 91), exact), fit(photograph(100, 91), fast))


def test_a_model_file_from_before_is_exact() -> None:
    stored = to_json(EXACT)
    del stored["fast_decoding"]
    assert not from_json(Preprocessing, stored, allow_missing=True).fast_decoding
