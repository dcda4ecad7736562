"""The figures of a page as PNG files, by matplotlib, which draws shapes and texts here and nothing else."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vitrail.errors import ConfigError, import_hint, shown
from vitrail.reporting.page.drawing import LIGHT, LONGEST, Area, Dot, Drawing, Line, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI, _POINTS = 144, 0.75
"""Dots an inch; points (1/72 inch) of a pixel (1/96 inch)."""
_MARKERS = {"circle": "o", "square": "s", "diamond": "D"}
_DASHES: dict[str, Any] = {"solid": "solid", "dashed": (0, (6, 3)), "dotted": (0, (2, 3))}


def png(drawing: Drawing) -> bytes:
    """A figure as a PNG file, on white.

    Names with letters that the built-in font does not have are given as code points.

    Raises:
        ConfigError: matplotlib is not there.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("PNG files need matplotlib.", got=error, do=import_hint("matplotlib")) from error
    figure = Figure(figsize=(drawing.width / 96, drawing.height / 96), dpi=_DPI, facecolor=LIGHT["paper"])
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.set_axis_off()
    can_draw = _letters()
    for level, shape in enumerate(drawing.shapes):
        _draw(axes, shape, level, can_draw)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _letters() -> Callable[[str], bool]:
    """Whether the built-in font has all letters of a text."""
    from matplotlib import font_manager, ft2font

    known = ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return lambda text: all(ord(letter) in known for letter in text)


def _draw(axes: "Axes", shape: Line | Area | Dot | Text, level: int, can_draw: Callable[[str], bool]) -> None:
    colour = LIGHT.get(shape.colour, shape.colour)
    match shape:
        case Line():
            xs, ys = zip(*shape.points, strict=True) if shape.points else ((), ())
            axes.plot(
                xs, ys, color=colour, linewidth=shape.width * _POINTS, linestyle=_DASHES[shape.dash], zorder=level
            )
        case Area():
            xs, ys = zip(*shape.points, strict=True)
            axes.fill(xs, ys, color=colour, linewidth=0, zorder=level)
        case Dot():
            axes.plot([shape.x], [shape.y], _MARKERS[shape.shape], color=colour, markersize=5, zorder=level)
        case Text():
            text = shown(shape.text, LONGEST)
            if not can_draw(text):
                text = shown("".join(c if can_draw(c) else f"U+{ord(c):04X}" for c in text), 24)
            axes.text(
                shape.x, shape.y, text, color=colour, fontsize=shape.size * _POINTS, family="DejaVu Sans",
                ha={"start": "left", "middle": "center", "end": "right"}[shape.anchor], va="baseline",
                rotation=90 if shape.turned else 0, rotation_mode="anchor", parse_math=False, clip_on=True,
                zorder=level,
            )  # fmt: skip
