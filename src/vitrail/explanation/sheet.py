"""The contact sheet: a row for each map, with the image as the model sees it, the map over it, the map alone, figures.

Colours: cividis (doi:10.1371/journal.pone.0199239) for maps without a sign, blue over white to orange for signed ones;
both read well with any colour vision, and in grey. Drawn with Pillow and the font that it has inside.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from vitrail.explanation.explanations import Explanation, Explanations

_CIVIDIS = (
    (0, 34, 78), (0, 49, 112), (42, 63, 109), (67, 78, 108), (87, 93, 109), (106, 108, 113), (125, 124, 120),
    (145, 139, 120), (165, 156, 116), (188, 174, 108), (210, 192, 96), (233, 211, 78), (254, 232, 56),
)  # fmt: skip
_BLUE_TO_ORANGE = (
    (8, 64, 129), (43, 116, 179), (110, 168, 214), (184, 213, 235), (248, 248, 246), (253, 214, 160), (245, 161, 74),
    (217, 104, 16), (140, 57, 2),
)  # fmt: skip
_CLIPPED = 99
"""Percentile of the values at which a colour is full, so that one patch does not darken all others."""
_ROWS = 20
_SIDE, _GAP, _PANEL, _HEAD = 192, 12, 300, 84
_INK, _GREY, _PAPER, _LINE = (28, 32, 38), (104, 110, 118), (255, 255, 255), (226, 229, 232)
Drawable = Callable[[str, str], str]


def scaled(values: Float32[np.ndarray, "rows columns"], is_signed: bool) -> Float32[np.ndarray, "rows columns"]:
    """A map in [0, 1], of a signed one 0.5 being nothing: divided by the 99th percentile of its size, and cut there."""
    size = np.abs(values)
    largest = max(float(np.percentile(size, _CLIPPED)), float(size.max()) * 1e-3, 1e-30)
    share = np.clip(values / largest, -1 if is_signed else 0, 1)
    return (share / 2 + 0.5 if is_signed else share).astype(np.float32)


def coloured(share: Float[np.ndarray, "*size"], is_signed: bool) -> UInt8[np.ndarray, "*size 3"]:
    """Colours of values in [0, 1]."""
    table = np.array(_BLUE_TO_ORANGE if is_signed else _CIVIDIS, dtype=np.float64)
    places = np.linspace(0, 1, len(table))
    return np.stack([np.rint(np.interp(share, places, table[:, c])) for c in range(3)], axis=-1).astype(np.uint8)


def enlarged(
    share: Float32[np.ndarray, "rows columns"], size: tuple[int, int], smooth: bool
) -> Float32[np.ndarray, "h w"]:
    """A map at (height, width), its cells as cells, or interpolated."""
    filter = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.clip(np.asarray(Image.fromarray(share).resize((size[1], size[0]), filter)), 0, 1)


def mixed(values: Float32[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "rows columns"]:
    """Each patch mixed with its neighbours, 1 : 2 : 1 down and across."""
    for _ in range(2):
        padded = np.pad(values, ((1, 1), (0, 0)), mode="edge")
        values = ((padded[:-2] + 2 * values + padded[2:]) / 4).T
    return np.ascontiguousarray(values)


def overlaid(
    image: UInt8[np.ndarray, "h w 3"], share: Float32[np.ndarray, "h w"], is_signed: bool
) -> UInt8[np.ndarray, "h w 3"]:
    """The image in grey, coloured the more, the more the map says; of a signed map in one blue and one orange."""
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32)[..., None]
    if is_signed:
        colour, opacity = coloured(np.where(share < 0.5, 0.15, 0.85), True), 0.85 * np.abs(2 * share - 1) ** 0.8
    else:
        colour, opacity = coloured(share, False), 0.45 + 0.3 * share
    return np.rint(grey * (1 - opacity[..., None]) + colour * opacity[..., None]).astype(np.uint8)


def draw_sheets(
    found: Explanations, title: str, *, labels: Sequence[str] = (), smooth: bool = False
) -> list[Image.Image]:
    """Draw the pages of the sheet, twenty maps on each.

    Args:
        found: what is drawn.
        title: the model.
        labels: all classes: the number of one stands where the font lacks a character of its name.
        smooth: mix neighbouring patches and interpolate, for the eye; default: cells as cells.
    """
    numbers = {label: f"class {i}" for i, label in enumerate(labels)}

    def drawable(name: str, otherwise: str) -> str:
        return name if is_drawable(name) else numbers.get(name, otherwise)

    pages = range(0, max(len(found.items), 1), _ROWS)
    return [_page(found, list(found.items[i : i + _ROWS]), title, drawable, smooth) for i in pages]


def _page(found: Explanations, items: list[Explanation], title: str, drawable: Drawable, smooth: bool) -> Image.Image:
    sizes = [_fitted(one.image.shape[0], one.image.shape[1]) for one in items]
    width = max((w for _, w in sizes), default=_SIDE)
    heights = [max(h, 132) for h, _ in sizes]
    page_width = 4 * _GAP + 3 * width + 2 * _GAP + _PANEL
    page = Image.new("RGB", (page_width, _HEAD + sum(h + _GAP for h in heights) + _GAP), _PAPER)
    draw = ImageDraw.Draw(page)
    _heading(page, draw, found, drawable(title, "the model"), width)
    top = _HEAD
    for number, (one, size, height) in enumerate(zip(items, sizes, heights, strict=True), start=1):
        share = enlarged(scaled(mixed(one.map) if smooth else one.map, found.is_signed), size, smooth)
        picture = Image.fromarray(one.image)
        is_small = size[0] > one.image.shape[0]
        picture = picture.resize((size[1], size[0]), Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS)
        tiles = (
            np.asarray(picture),
            overlaid(np.asarray(picture), share, found.is_signed),
            coloured(share, found.is_signed),
        )
        for column, tile in enumerate(tiles):
            page.paste(Image.fromarray(tile), (_GAP + column * (width + _GAP), top))
        _panel(draw, one, 5 * _GAP + 3 * width, top, drawable, f"image {number}")
        top += height + _GAP
        if number < len(items):
            draw.line((_GAP, top - _GAP // 2, page_width - _GAP, top - _GAP // 2), fill=_LINE)
    return page


def _heading(page: Image.Image, draw: ImageDraw.ImageDraw, found: Explanations, title: str, width: int) -> None:
    """What the page shows, and what the colours mean."""
    room = 2 * width + _GAP
    draw.text((_GAP, _GAP), _cut(title, _font(18), room), font=_font(18), fill=_INK)
    draw.text((_GAP, 36), _cut(f"{found.method}, {found.engine}", _font(13), room), font=_font(13), fill=_GREY)
    for column, name in enumerate(("what the model sees", "map over it", "map")):
        draw.text((_GAP + column * (width + _GAP), _HEAD - 22), name, font=_font(12), fill=_GREY)
    left, bar = 5 * _GAP + 3 * width, 150
    stripe = coloured(np.repeat(np.linspace(0, 1, bar)[None], 10, axis=0), found.is_signed)
    page.paste(Image.fromarray(stripe), (left, _GAP + 4))
    draw.rectangle((left, _GAP + 4, left + bar - 1, _GAP + 13), outline=_LINE)
    low, high = ("against", "for the class") if found.is_signed else ("little", "much")
    draw.text((left, _GAP + 18), low, font=_font(12), fill=_GREY)
    draw.text((left + bar, _GAP + 18), high, font=_font(12), fill=_GREY, anchor="ra")
    for kind, srg in found.srg.items():
        text = f"mean SRG {srg:.2f}" + ("" if kind == "tokens" else f" ({kind})")
        if interval := found.interval.get(kind):
            text += f"  [{interval[0]:.2f}, {interval[1]:.2f}]"
        draw.text((left, _GAP + 36 + 16 * (kind != "tokens")), text, font=_font(12), fill=_INK)


def _panel(draw: ImageDraw.ImageDraw, one: Explanation, left: int, top: int, drawable: Drawable, number: str) -> None:
    """The figures of one map."""
    label = drawable(one.label, "?") + (f" rather than {drawable(one.against, '?')}" if one.against else "")
    draw.text((left, top), _cut(label, _font(16), _PANEL), font=_font(16), fill=_INK)
    name = drawable(one.path.replace("\\", "/").rsplit("/", 1)[-1], number)
    draw.text((left, top + 22), _cut(name, _font(12), _PANEL), font=_font(12), fill=_GREY)
    y, bar = top + 44, 72
    for ranked in one.top:
        draw.rectangle((left, y + 3, left + bar, y + 11), fill=_LINE)
        is_explained = ranked.label == one.label
        draw.rectangle(
            (left, y + 3, left + round(bar * ranked.probability), y + 11), fill=_INK if is_explained else _GREY
        )
        draw.text((left + bar + 8, y), f"{ranked.probability:.2f}", font=_font(12), fill=_INK)
        draw.text(
            (left + bar + 42, y), _cut(drawable(ranked.label, "?"), _font(12), _PANEL - bar - 42), font=_font(12),
            fill=_INK if is_explained else _GREY,
        )  # fmt: skip
        y += 18
    for kind, value in one.faithfulness.items():
        text = f"SRG {value.srg:.2f}  (kept {value.lerf:.2f}, taken {value.morf:.2f})"
        draw.text((left, y + 4), text + ("" if kind == "tokens" else f", {kind}"), font=_font(12), fill=_GREY)
        y += 16
    if one.label not in {ranked.label for ranked in one.top}:
        draw.text((left, y + 4), f"probability {one.probability:.4f}", font=_font(12), fill=_GREY)


def _fitted(height: int, width: int) -> tuple[int, int]:
    """Height and width of a picture on the page: the longer side as long as all, small images by a whole factor."""
    longest = max(height, width)
    factor = _SIDE // longest if longest <= _SIDE else _SIDE / longest
    return max(1, round(height * factor)), max(1, round(width * factor))


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _cut(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """As much of a text as there is room for, without its middle."""
    if font.getlength(text[:400]) <= room and len(text) <= 400:
        return text
    text = text if len(text) <= 200 else text[:100] + text[-100:]
    for size in itertools.count(len(text) - 1, -1):
        shorter = f"{text[: (size + 1) // 2]}...{text[len(text) - size // 2 :]}"
        if size <= 0 or font.getlength(shorter) <= room:
            return shorter
    raise AssertionError


def is_drawable(text: str) -> bool:
    """Whether the font of the sheet can show a text; it has Latin letters without most accents."""
    font = _font(12)

    def drawn(character: str) -> bytes:
        picture = Image.new("L", (24, 24))
        ImageDraw.Draw(picture).text((0, 0), character, font=font, fill=255)
        return picture.tobytes()

    absent = drawn("\uffff")
    return all(c == " " or (c.isprintable() and drawn(c) not in (absent, drawn(" "))) for c in set(text))
