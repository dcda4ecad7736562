"""Fast decoding beside the exact one: how far apart, in every mode, upright or turned; off unless asked for."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vitrail.config import Preprocessing
from vitrail.config.strict_json import from_json, to_json
from vitrail.data import load_image
from vitrail.data.fit import fit

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


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_a_large_jpeg_is_decoded_small(changes: dict, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    monkeypatch.setattr("vitrail.data.decode.fit", lambda image, p: decoded.append(image.size) or fit(image, p))
    exact, data = replace(EXACT, **changes), jpeg(photograph(640, 480), orientation)
    theirs = load_image(data, exact).astype(int)
    ours = load_image(data, replace(exact, fast_decoding=True)).astype(int)
    full = (640, 480) if orientation == 1 else (480, 640)
    assert decoded[0] == full
    assert decoded[1][0] in (full[0] // 4, full[0] // 8) and decoded[1][0] >= 48 and decoded[1][1] >= 60
    assert np.abs(ours - theirs).mean() < MEAN_LEVELS
    assert np.abs(ours - theirs).max() <= MOST_LEVELS


def test_grey_input_and_other_filters_stay_pillows() -> None:
    for changes in ({"channels": "L", "mean": (0.5,), "std": (0.5,)}, {"resize_filter": "lanczos"}):
        exact = replace(EXACT, **changes)
        fast = replace(exact, fast_decoding=True)
        assert np.array_equal(fit(photograph(100, 91), exact), fit(photograph(100, 91), fast))


def test_a_model_file_from_before_is_exact() -> None:
    stored = to_json(EXACT)
    del stored["fast_decoding"]
    assert not from_json(Preprocessing, stored, allow_missing=True).fast_decoding
