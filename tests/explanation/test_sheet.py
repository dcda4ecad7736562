"""The pictures: right colours in the right places, names that the font lacks, sizes."""

import numpy as np
import pytest
from PIL import Image

from vitrail.explanation import Explanation, Explanations, Faithfulness, draw_sheets
from vitrail.explanation.sheet import _cut, _font, coloured, enlarged, is_drawable, mixed, overlaid, scaled
from vitrail.predictor import Ranked


def one(**changes: object) -> Explanation:
    """An explanation of an image of 20 x 40 pixels, in patches of 10."""
    values: dict[str, object] = {
        "path": "folder/image.jpg",
        "label": "cat",
        "probability": 0.9,
        "against": None,
        "method": "removal-gradient",
        "map": np.array([[1.0, 0, 0, 0], [0, 0, 0, -1.0]], np.float32),
        "top": (Ranked("cat", 0.9), Ranked("dog", 0.1)),
        "faithfulness": {"tokens": Faithfulness(0.2, 0.7)},
        "outside": 0.0,
        "outliers": (),
        "image": np.full((20, 40, 3), 128, np.uint8),
    }
    return Explanation(**{**values, **changes})  # type: ignore[arg-type]


def several(*items: Explanation, method: str = "removal-gradient") -> Explanations:
    return Explanations(items=items, method=method, srg={"tokens": 0.5}, random_spread={"tokens": 0.1})


def is_bluer(pixel: np.ndarray) -> bool:
    return int(pixel[2]) > int(pixel[0])


def test_a_map_lies_where_its_patches_are() -> None:
    (page,) = draw_sheets(several(one()), "model")
    pixels = np.asarray(page).astype(int)
    left, top, side = 12 + 2 * (160 + 12), 84, 40  # the third picture: four times the size, 160 x 80
    assert pixels[top + 3, left + 3, 0] > pixels[top + 3, left + 3, 2]  # for the class: orange
    assert is_bluer(pixels[top + side + 3, left + 3 * side + 3])  # against it: blue
    assert np.ptp(pixels[top + 3, left + side + 3]) < 8  # nothing: white
    assert np.array_equal(pixels[top + 3, left + 3], pixels[top + side - 1, left + side - 1])  # a cell is a cell
    (smooth,) = draw_sheets(several(one()), "model", smooth=True)
    assert len(np.unique(np.asarray(smooth)[top : top + 80, left : left + 160].reshape(-1, 3), axis=0)) > 50


def test_scales_and_colours() -> None:
    values = np.arange(-50, 50, dtype=np.float32).reshape(10, 10)
    signed = scaled(values, True)
    assert signed.min() == 0.0
    assert signed[5, 0] == 0.5
    positive = scaled(values.clip(0), False)
    assert positive.min() == 0.0
    assert positive.max() == 1.0
    assert np.all(scaled(np.zeros((2, 2), np.float32), True) == 0.5)
    assert np.all(scaled(np.zeros((2, 2), np.float32), False) == 0.0)
    spike = np.full((10, 20), 0.1, np.float32)
    spike[3, 3] = 1e6
    assert scaled(spike, False)[0, 0] > 0  # one patch does not darken all others
    for is_signed in (True, False):
        colours = coloured(np.linspace(0, 1, 100), is_signed).astype(float)
        luminance = colours @ [0.299, 0.587, 0.114]
        half = luminance[50:] if is_signed else luminance
        assert np.all(np.diff(half) < 0 if is_signed else np.diff(half) > 0)  # grey print still reads
    grey = np.full((4, 4, 3), 90, np.uint8)
    assert np.array_equal(overlaid(grey, np.full((4, 4), 0.5, np.float32), True), grey)
    spot = np.zeros((3, 4), np.float32)
    spot[1, 1] = 16.0
    assert mixed(spot).tolist() == [[1, 2, 1, 0], [2, 4, 2, 0], [1, 2, 1, 0]]
    assert enlarged(np.array([[0.0, 1.0]], np.float32), (5, 4), False).shape == (5, 4)


def test_cividis_is_that_of_matplotlib() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    steps = np.linspace(0, 1, 64)
    theirs = 255 * matplotlib.colormaps["cividis"](steps)[:, :3]
    assert np.abs(coloured(steps, False) - theirs).max() < 8


def test_names_that_the_font_lacks_become_numbers() -> None:
    assert is_drawable("tabby cat, 2!")
    for name in ("猫", "قط", "\N{CAT}", "кот"):
        assert not is_drawable(name)
    hostile = ("猫", "a" * 5000, "line\nbreak", "\u202eleft", "</script>", "", "\x00", "ok")
    items = [one(label=label, path=f"{label}/{label}.png", top=(Ranked(label, 1.0),)) for label in hostile]
    labelled = draw_sheets(several(*items), "模型", labels=hostile)
    assert [page.width for page in labelled] == [draw_sheets(several(one()), "m")[0].width]
    drawn = np.asarray(draw_sheets(several(one(label="猫", top=())), "m", labels=["x", "猫"])[0])
    number = np.asarray(draw_sheets(several(one(label="class 1", top=())), "m")[0])
    assert np.array_equal(drawn, number)


def test_long_names_lose_their_middle() -> None:
    font = _font(12)
    short = _cut("beginning " + "x" * 3000 + " end", font, 200)
    assert short.startswith("begin")
    assert short.endswith("end")
    assert font.getlength(short) <= 200
    assert _cut("short", font, 200) == "short"


def test_pages_and_shapes() -> None:
    tall = one(image=np.zeros((400, 100, 3), np.uint8), map=np.ones((8, 2), np.float32))
    pages = draw_sheets(several(*[one(), tall] * 11, method="grad-cam"), "model")
    assert len(pages) == 2
    assert all(isinstance(page, Image.Image) for page in pages)
    assert draw_sheets(several(tall), "m")[0].height == 84 + 192 + 2 * 12
