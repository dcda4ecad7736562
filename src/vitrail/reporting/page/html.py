"""The page: a template, a style sheet and a script of our own, filled with a report. Same report, same bytes.

What comes from strangers, names of classes and files above all, reaches the page through one place, `_shown`, and is
escaped after that: it stands in texts and in titles, never in a script, a style, an address or an id.
"""

import base64
import functools
import hashlib
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from vitrail.errors import shown
from vitrail.reporting.measured import ClassFigures, Estimate, Mistake, confusion_counts
from vitrail.reporting.page.drawing import Drawing
from vitrail.reporting.page.figures import figures, interval_bar, linked, shown_classes
from vitrail.reporting.page.pictures import Pictures, pictures
from vitrail.reporting.report import Report, Sources
from vitrail.reporting.verdict import FEW, percent

MOST_CLASSES, WORST_CLASSES = 200, 50
"""Up to so many classes all are in the table; of more, so many of the worst."""
_LONGEST = 400


def render(report: Report, sources: Sources, *, with_images: bool = True) -> str:
    """The text of the HTML file.

    Args:
        with_images: False: no picture of any image, for data that are not to be passed on.
    """
    found = sources.predictions
    confusion = confusion_counts(found) if found else None
    drawings = figures(report, confusion)
    shown_pictures = pictures(sources.images, report.measured, found) if with_images else Pictures({}, (), 0)
    style, script, policy = style_and_script()
    return template("page.html.j2").render(
        report=report,
        svg={name: drawing.svg() for name, drawing in drawings.items()},
        style=Markup(style),
        script=Markup(script),
        policy=policy,
        classes=_classes_shown(report),
        pairs=linked(report.measured) if report.measured else (),
        matrix=shown_classes(report.measured, confusion) if report.measured and confusion is not None else [],
        pictures=shown_pictures,
        with_images=with_images,
        mistake_classes=_classes_of(report.measured.mistakes) if report.measured else [],
        settings=[(one.name, _value(one.value), _value(one.of_recipe)) for one in report.subject.settings],
        FEW=FEW,
    )  # fmt: skip


def style_and_script() -> tuple[str, str, str]:
    """The style sheet and the script of a page, and the policy that allows these alone."""
    style, script = _file("page.css"), _file("page.js")
    return style, script, _policy(style, script)


def _file(name: str) -> str:
    return (resources.files("vitrail.reporting.page") / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """What the page may do: show its own pictures, with its own style, and run its own script; nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of this folder, whose every expression is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    environment.filters.update(
        percent=_percent, interval=_interval, bar=_bar, plain=_plain, number=_number, short=_short, chance=_chance
    )
    return environment.from_string(_file(name))


def _shown(value: Any) -> Any:
    """What an expression of the template gives, as it may be seen: no control or bidirectional character is left."""
    if value is None:
        return "-"
    return shown(value, _LONGEST) if type(value) is str else value


def _percent(value: float | None) -> Markup | str:
    """A share, with the exact value beside the rounded one."""
    if value is None or not math.isfinite(value):
        return "-"
    return Markup('<data value="{}">{}</data>').format(repr(value), percent(value))


def _number(value: float | None, digits: int = 4) -> Markup | str:
    if value is None or not math.isfinite(value):
        return "-"
    return Markup('<data value="{}">{}</data>').format(repr(value), f"{value:.{digits}f}")


def _chance(value: float) -> Markup:
    """A p-value."""
    return Markup('<data value="{}">{}</data>').format(repr(value), "< 0.001" if value < 0.001 else f"{value:.3f}")


def _interval(estimate: Estimate | None) -> Markup | str:
    """A share with its interval, as "97.2 % [95.0, 98.5]"."""
    if estimate is None or not math.isfinite(estimate.value):
        return "-"
    return Markup('{} <span class="interval">[{:.1f}, {:.1f}]</span>').format(
        _percent(estimate.value), 100 * estimate.low, 100 * estimate.high
    )


def _bar(estimate: Estimate | None) -> Markup:
    return interval_bar(estimate).svg() if estimate else Markup("")


def _short(name: str) -> str:
    """The name of a class where there is little room."""
    return shown(name, 60)


def _plain(value: float | None) -> str:
    """A value to sort by."""
    return "-1" if value is None else repr(value)


def _value(value: Any) -> str:
    """A setting as it stands in config.json."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"  # pyright: ignore[reportUnknownArgumentType]
    return "none" if value is None or value == "" else str(value)


def _classes_shown(report: Report) -> Sequence[ClassFigures]:
    """The rows of the table, the worst first; classes without images come last."""
    if not report.measured:
        return ()
    rows = sorted(
        report.measured.per_class,
        key=lambda one: (one.recall.value if one.recall else 2.0, -one.num_examples, one.number),
    )
    return rows if len(rows) <= MOST_CLASSES else rows[:WORST_CLASSES]


def _classes_of(mistakes: Sequence[Mistake]) -> list[int]:
    return sorted({mistake.label for mistake in mistakes} | {mistake.answer for mistake in mistakes})


def drawings_of(report: Report, sources: Sources) -> dict[str, Drawing]:
    """The figures of the page, for pictures of them."""
    return figures(report, confusion_counts(sources.predictions) if sources.predictions else None)
