"""Figures as lists of shapes: written as SVG into the page, and by `png` as pictures.

Colours are names that the style sheet knows ("ink", "a", ...), so that one figure serves light, dark and print; or
"#rrggbb". Every text goes through escaping here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

from vitrail.errors import shown

LIGHT = {
    "ink": "#1a1c1f", "muted": "#5b616b", "grid": "#d9dce1", "paper": "#ffffff", "band": "#e3e6ea",
    "a": "#0072b2", "b": "#d55e00", "c": "#009e73",
}  # fmt: skip
"""Okabe and Ito's colours for lines, as page.css has them for light paper."""
CIVIDIS = ("00224e", "002e6a", "1a386f", "32436d", "434e6c", "535a6d", "61656f", "6f7073", "7d7c78") + (
    "8c8878",
    "9b9476",
    "aba072",
    "bcae6c",
    "cdbb63",
    "dec958",
    "f0d846",
    "fee838",
)
"""cividis at 17 even steps. Source: Nunez et al. 2018, arXiv:1712.01662."""
LONGEST = 100
"""Characters of a text in a figure."""
_DASHES = {"solid": "", "dashed": "6 3", "dotted": "2 3"}

Mark = Literal["circle", "square", "diamond"]
Dash = Literal["solid", "dashed", "dotted"]
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Line:
    """A polyline through points in pixels."""

    points: Sequence[tuple[float, float]]
    colour: str
    dash: Dash = "solid"
    width: float = 1.6


@dataclass(frozen=True)
class Area:
    """A filled polygon, with a text that shows on pointing at it, and a place in the page that it leads to."""

    points: Sequence[tuple[float, float]]
    colour: str
    title: str = ""
    target: str = ""


@dataclass(frozen=True)
class Dot:
    """A mark at a point."""

    x: float
    y: float
    colour: str
    shape: Mark = "circle"
    title: str = ""


@dataclass(frozen=True)
class Text:
    """A text beside a point; a colour of the paper behind it decides on black or white."""

    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    colour: str = "muted"
    size: float = 11
    turned: bool = False


Shape = Line | Area | Dot | Text


@dataclass(frozen=True)
class Drawing:
    """A figure: its size in pixels, what it shows for those who do not see it, and its shapes, the lowest first."""

    name: str
    title: str
    width: float
    height: float
    shapes: list[Shape] = field(default_factory=list[Shape])

    def svg(self) -> Markup:
        """The figure as an inline SVG element."""
        parts = [
            Markup('<svg viewBox="0 0 {} {}" width="{}" role="img" aria-label="{}">').format(
                _n(self.width), _n(self.height), _n(self.width), shown(self.title, 400)
            ),
            *(_svg(shape) for shape in self.shapes if not isinstance(shape, Line) or shape.points),
            Markup("</svg>"),
        ]
        return Markup("").join(parts)


def rectangle(x: float, y: float, width: float, height: float, colour: str, title: str = "", target: str = "") -> Area:
    """An upright rectangle by its upper left corner."""
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    return Area(corners, colour, title, target)


def cividis(share: float) -> str:
    """The colour of a value in [0, 1]."""
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    low = min(int(place), len(CIVIDIS) - 2)
    pair = (CIVIDIS[low], CIVIDIS[low + 1])
    mixed = (
        round(int(a, 16) + (int(b, 16) - int(a, 16)) * (place - low))
        for a, b in zip(*([c[i : i + 2] for i in (0, 2, 4)] for c in pair), strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def ink_on(colour: str) -> str:
    """Black or white, what is read better on a colour. Source: WCAG 2.2, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within a range."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(int((high + 1e-9 * step - first * step) / step) + 1)]


@dataclass(frozen=True)
class Axes:
    """The frame of a plot: where values lie in a drawing.

    Args:
        x, y, width, height: of the frame, in pixels.
        x_range, y_range: values at its edges.
    """

    x: float
    y: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a value, kept inside the frame."""
        across, up = ((v - lo) / ((hi - lo) or 1) for v, (lo, hi) in ((x, self.x_range), (y, self.y_range)))
        across, up = min(max(across, 0.0), 1.0), min(max(up, 0.0), 1.0)
        return self.x + across * self.width, self.y + (1 - up) * self.height

    def frame(self, x_label: str, y_label: str, *, percent: tuple[bool, bool] = (False, False)) -> list[Shape]:
        """Grid, numbers and names of the axes."""
        shapes: list[Shape] = []
        left, bottom = self.x, self.y + self.height
        for value in ticks(*self.y_range, max(2, min(4, int(self.height // 30)))):
            _, y = self.at(self.x_range[0], value)
            shapes.append(Line(((left, y), (left + self.width, y)), "grid", width=1))
            shapes.append(Text(left - 6, y + 4, number(value, percent[1]), "end"))
        for value in ticks(*self.x_range, max(2, int(self.width // 80))):
            x, _ = self.at(value, self.y_range[0])
            shapes.append(Line(((x, bottom), (x, bottom + 4)), "muted", width=1))
            shapes.append(Text(x, bottom + 16, number(value, percent[0]), "middle"))
        shapes.append(Line(((left, bottom), (left + self.width, bottom)), "muted", width=1))
        if x_label:
            shapes.append(Text(left + self.width / 2, bottom + 32, x_label, "middle"))
        shapes.append(Text(left, self.y - 8, y_label, "start", "ink"))
        return shapes


def number(value: float, percent: bool = False) -> str:
    """A number at an axis."""
    if percent:
        return f"{100 * value:g} %"
    return f"{value:,.0f}" if abs(value) >= 1000 and value == int(value) else f"{value:g}"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)


def _paint(kind: Literal["f", "s"], colour: str) -> Markup:
    if colour.startswith("#"):
        return Markup(' {}="{}"').format("fill" if kind == "f" else "stroke", colour)
    return Markup(' class="{}-{}"').format(kind, colour)


def _svg(shape: Shape) -> Markup:
    match shape:
        case Line():
            dash = Markup(' stroke-dasharray="{}"').format(d) if (d := _DASHES[shape.dash]) else ""
            return Markup('<path fill="none"{}{} stroke-width="{}" d="{}"/>').format(
                _paint("s", shape.colour), dash, _n(shape.width), _path(shape.points)
            )
        case Area():
            title = Markup("<title>{}</title>").format(shown(shape.title, 200)) if shape.title else ""
            drawn = Markup('<path{} d="{}Z">{}</path>').format(_paint("f", shape.colour), _path(shape.points), title)
            return Markup('<a href="#{}">{}</a>').format(shape.target, drawn) if shape.target else drawn
        case Dot():
            title = Markup("<title>{}</title>").format(shown(shape.title, 200)) if shape.title else ""
            return Markup('<path{} d="{}">{}</path>').format(_paint("f", shape.colour), outline(shape), title)
        case Text():
            turn = Markup(' transform="rotate(-90 {} {})"').format(_n(shape.x), _n(shape.y)) if shape.turned else ""
            return Markup('<text x="{}" y="{}"{} text-anchor="{}" font-size="{}"{}>{}</text>').format(
                _n(shape.x), _n(shape.y), _paint("f", shape.colour), shape.anchor, _n(shape.size), turn,
                shown(shape.text, LONGEST),
            )  # fmt: skip


def outline(dot: Dot, radius: float = 3.6) -> str:
    """The path of a mark."""
    x, y, r = dot.x, dot.y, radius
    if dot.shape == "square":
        return _path(((x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r))) + "Z"
    if dot.shape == "diamond":
        return _path(((x, y - 1.4 * r), (x + 1.4 * r, y), (x, y + 1.4 * r), (x - 1.4 * r, y))) + "Z"
    return f"M{_n(x - r)} {_n(y)}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
