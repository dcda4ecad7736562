"""The figures of a report as drawings: curves, confusion, reliability, what abstaining gains."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from vitrail.errors import shown
from vitrail.reporting.confidence import Confidence
from vitrail.reporting.curves import Curves
from vitrail.reporting.measured import Estimate, Measured, Pair
from vitrail.reporting.page.drawing import (
    Area,
    Axes,
    Dash,
    Dot,
    Drawing,
    Line,
    Shape,
    Text,
    cividis,
    ink_on,
    rectangle,
)
from vitrail.reporting.report import MOST_CONFUSION, Report
from vitrail.reporting.verdict import percent

MOST_NUMBERS = 30
"""Classes up to which the cells of the confusion matrix have numbers."""
_LEFT, _TOP, _WIDTH = 62.0, 26.0, 560.0


def figures(report: Report, confusion: np.ndarray | None) -> dict[str, Drawing]:
    """Every figure for which there is something to draw, by its name.

    Args:
        confusion: counts [true][predicted]; None: no answers.
    """
    found: list[Drawing] = []
    if report.subject.curves:
        found += _curves(report.subject.curves)
    if report.measured and confusion is not None:
        found.append(_confusion(report.measured, confusion))
    if report.confidence:
        found += [_reliability(report.confidence), _coverage(report.confidence)]
    return {drawing.name: drawing for drawing in found}


def _range(values: Sequence[float], *, zero: bool = False) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = 0.0 if zero else min(finite), max(finite)
    return (low, high) if high > low else (low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1))


def _curves(curves: Curves) -> Iterator[Drawing]:
    """Loss, accuracy and learning rate, each over the same steps."""
    steps = (0.0, float(max(curves.last_step, 1)))
    tested = curves.evaluations
    if curves.loss or len(tested) > 1:
        values = [p.value for p in curves.loss] + [e.loss for e in tested]
        axes = Axes(_LEFT, _TOP, _WIDTH, 170, steps, _range(values, zero=True))
        shapes = [*axes.frame("", "loss (nats)"), *_moments(curves, axes)]
        shapes.append(Line([axes.at(p.step, p.value) for p in curves.loss], "a"))
        if tested:
            shapes += _evaluated(axes, [(e.step, e.loss) for e in tested])
        split = tested[0].split if tested else "validation"
        shapes += _legend(("a", "solid", "training batches"), ("b", "dashed", split))
        yield Drawing("loss", "loss over the steps of the run", _LEFT + _WIDTH + 14, 226, shapes)
    if len(tested) > 1:
        axes = Axes(_LEFT, _TOP, _WIDTH, 150, steps, _range([e.accuracy for e in tested], zero=True))
        shapes = [*axes.frame("", f"accuracy ({tested[0].split})", percent=(False, True)), *_moments(curves, axes)]
        shapes += _evaluated(axes, [(e.step, e.accuracy) for e in tested])
        if best := curves.best:
            x, y = axes.at(best.step, best.accuracy)
            shapes += [Dot(x, y, "c", "diamond", f"best: {percent(best.accuracy)} at step {best.step}")]
            told = f"best {percent(best.accuracy)} at step {best.step}"
            shapes += [Text(_LEFT + _WIDTH, _TOP - 8, told, "end", "ink")]
        yield Drawing("accuracy", "accuracy at each evaluation of the run", _LEFT + _WIDTH + 14, 206, shapes)
    if curves.lr:
        axes = Axes(_LEFT, _TOP, _WIDTH, 60, steps, _range([p.value for p in curves.lr], zero=True))
        shapes = [*axes.frame("step", "learning rate"), Line([axes.at(p.step, p.value) for p in curves.lr], "c")]
        yield Drawing("lr", "learning rate over the steps of the run", _LEFT + _WIDTH + 14, 130, shapes)


def _evaluated(axes: Axes, values: Sequence[tuple[int, float]]) -> list[Shape]:
    points = [axes.at(step, value) for step, value in values]
    dots = points if len(points) <= 60 else []
    return [Line(points, "b", "dashed"), *(Dot(x, y, "b", "square") for x, y in dots)]


def _moments(curves: Curves, axes: Axes) -> Iterator[Shape]:
    """Where the run was taken up again."""
    for step in curves.resumed:
        x, _ = axes.at(step, 0)
        yield Line(((x, axes.y), (x, axes.y + axes.height)), "muted", "dotted", 1)
        yield Text(x + 3, axes.y + 10, "resumed")


def _legend(*entries: tuple[str, Dash, str]) -> Iterator[Shape]:
    x = _LEFT + _WIDTH - 150 * len(entries)
    for colour, dash, text in entries:
        yield Line(((x, 14), (x + 26, 14)), colour, dash)
        yield Text(x + 32, 18, text)
        x += 150


def interval_bar(estimate: Estimate) -> Drawing:
    """A share in [0, 1] and its interval, for a cell of a table."""
    width, height = 84.0, 14.0
    low, value, high = (3 + (width - 6) * v for v in (estimate.low, estimate.value, estimate.high))
    title = f"{percent(estimate.value)}, between {percent(estimate.low)} and {percent(estimate.high)}"
    shapes: list[Shape] = [
        rectangle(3, 5.5, width - 6, 3, "grid"),
        Line(((low, 7), (high, 7)), "a", width=2),
        Dot(value, 7, "a"),
    ]
    return Drawing("interval", title, width, height, shapes)


# ---- confusion ---------------------------------------------------------------------------------------------------


def shown_classes(measured: Measured, confusion: np.ndarray) -> list[int]:
    """Classes of the matrix: all, or above 100 those that take most part in mistakes, in their order."""
    count = len(measured.per_class)
    if count <= MOST_CONFUSION:
        return list(range(count))
    wrong = confusion - np.diag(np.diag(confusion))
    part = wrong.sum(0) + wrong.sum(1)
    return sorted(np.argsort(-part, kind="stable")[:MOST_NUMBERS].tolist())


def _confusion(measured: Measured, confusion: np.ndarray) -> Drawing:
    """Rows: true classes; columns: answers; colour: share of the row."""
    chosen = shown_classes(measured, confusion)
    names = [shown(measured.per_class[number].name, 18) for number in chosen]
    totals = confusion.sum(1)
    side = 26.0 if len(chosen) <= MOST_NUMBERS else 6.0
    left = 24 + (7 * max((len(name) for name in names), default=1) if side > 6 else 30)
    top = left
    targets = {(pair.label, pair.answer): f"pair-{rank}" for rank, pair in enumerate(linked(measured))}
    shapes: list[Shape] = [rectangle(left, top, side * len(chosen), side * len(chosen), cividis(0))]
    for row, label in enumerate(chosen):
        for column, answer in enumerate(chosen):
            count, total = int(confusion[label, answer]), int(totals[label])
            if not count:
                continue
            share, x, y = count / total, left + column * side, top + row * side
            colour = cividis(share)
            title = "" if side < 20 else f"{names[row]} taken for {names[column]}: {count} of {total}"
            shapes.append(rectangle(x, y, side, side, colour, title, targets.get((label, answer), "")))
            if side > 20:
                text = Text(
                    x + side / 2, y + side / 2 + 4, str(count), "middle", ink_on(colour), 11 if count < 1000 else 8
                )
                shapes.append(text)
    shapes += _names_of_matrix(names, left, top, side)
    size = left + side * len(chosen) + 12
    return Drawing("confusion", "confusion matrix: true classes in rows, answers in columns", size, size, shapes)


def _names_of_matrix(names: Sequence[str], left: float, top: float, side: float) -> Iterator[Shape]:
    length = side * len(names)
    yield Text(left + length / 2, 12, "answer", "middle", "ink")
    yield Text(12, top + length / 2, "is", "middle", "ink", turned=True)
    every = 1 if side > 20 else 10
    for place, name in enumerate(names):
        if place % every == 0:
            text = name if side > 20 else str(place)
            middle = (place + 0.5) * side + 4
            yield Text(left - 5, top + middle, text, "end")
            yield Text(left + middle, top - 5, text, "start", turned=True)


def linked(measured: Measured, most: int = 10) -> tuple[Pair, ...]:
    """The pairs of classes whose images are shown."""
    return measured.pairs[:most]


# ---- confidence --------------------------------------------------------------------------------------------------


def _reliability(found: Confidence) -> Drawing:
    """Accuracy against confidence, with what chance allows, over a histogram of the confidences."""
    groups = found.groups
    least = min(min(g.confidence, g.accuracy.low, g.expected_low) for g in groups)
    lowest = next(place for place, count in enumerate(found.histogram) if count) / len(found.histogram)
    unit = (min(0.9, math.floor(10 * min(least, lowest) + 1e-9) / 10), 1.0)
    axes = Axes(_LEFT, _TOP, 330, 300, unit, unit)
    band = [axes.at(g.confidence, g.expected_low) for g in groups]
    band += [axes.at(g.confidence, g.expected_high) for g in reversed(groups)]
    shapes: list[Shape] = [Area(band, "band")] if len(groups) > 1 else []
    shapes += axes.frame("", "right", percent=(True, True))
    shapes.append(Line((axes.at(unit[0], unit[0]), axes.at(1, 1)), "muted", "dashed", 1))
    for group in groups:
        x, y = axes.at(group.confidence, group.accuracy.value)
        low, high = axes.at(group.confidence, group.accuracy.low)[1], axes.at(group.confidence, group.accuracy.high)[1]
        shapes.append(Line(((x, low), (x, high)), "a", width=1.2))
        said = f"{group.count} images: said {percent(group.confidence)}, right {percent(group.accuracy.value)}"
        shapes.append(Dot(x, y, "a", title=said))
    below = Axes(_LEFT, _TOP + 350, 330, 70, unit, (0.0, float(max(found.histogram))))
    right = sum(group.count * group.accuracy.value for group in groups) / found.num_examples
    told = f"images; it says {percent(found.mean)} on average (dashed), {percent(right)} are right (line)"
    shapes += below.frame("confidence", told, percent=(True, False))
    bins = len(found.histogram)
    for place, count in enumerate(found.histogram):
        if count:
            (left, top), (end, _) = below.at(place / bins, count), below.at((place + 1) / bins, 0)
            height = below.y + below.height - top
            shapes.append(rectangle(left + 1, top, end - left - 2, height, "a", f"{count} images"))
    marks: tuple[tuple[float, str, Dash], ...] = ((found.mean, "b", "dashed"), (right, "c", "solid"))
    for value, colour, dash in marks:
        x, _ = below.at(value, 0)
        shapes.append(Line(((x, below.y - 4), (x, below.y + below.height)), colour, dash, 2))
    return Drawing("reliability", "how often it is right, by how sure it says it is", 412, 494, shapes)


def _coverage(found: Confidence) -> Drawing:
    """Error among the answered images against their share."""
    errors = [error for _, error in found.curve]
    axes = Axes(_LEFT, _TOP, 330, 230, (0.0, 1.0), (0.0, max(*errors, 0.01)))
    shapes: list[Shape] = axes.frame("share of the images that is answered", "error among them", percent=(True, True))
    shapes.append(Line([axes.at(share, error) for share, error in found.curve], "a"))
    for one in found.at_coverage:
        x, y = axes.at(one.coverage, 1 - one.accuracy.value)
        title = f"from {percent(one.threshold)}: {percent(one.coverage)} answered, {percent(one.accuracy.value)} right"
        shapes.append(Dot(x, y, "b", "square", title))
    return Drawing("coverage", "errors that remain when only the surest answers are taken", 412, 300, shapes)
