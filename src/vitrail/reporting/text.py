"""A report in a terminal: the verdict, and the curves in block characters, or in ASCII where there are none."""

from collections.abc import Iterator, Sequence

from vitrail.reporting.report import Report
from vitrail.reporting.verdict import percent
from vitrail.terminal import Heading

_WORDS = {"yes": "usable, as far as was measured", "careful": "use with care", "no": "not yet"}
_MARKS = {"warning": "!", "note": "-", "good": "+"}
_BLOCKS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII = " .:-=+*#@"
_WIDTH, _ROWS = 72, 6


def verdict_lines(report: Report) -> list[str]:
    """The first screen, in lines."""
    lines: list[str] = [Heading(f"{_WORDS[report.verdict.answer]}: {report.verdict.headline}")]
    for one in report.accuracies:
        interval = f"between {percent(one.accuracy.low)} and {percent(one.accuracy.high)}"
        right = f"{one.num_correct} of {one.num_examples}"
        lines.append(f"{one.split:<10} {percent(one.accuracy.value)} right, {interval} ({right})")
    return [*lines, *(f"  {_MARKS[finding.level]} {finding.text}" for finding in report.verdict.findings)]


def curve_lines(report: Report, *, unicode: bool) -> list[str]:
    """Loss and accuracy over the steps of a run.

    Args:
        unicode: whether the terminal shows block characters.
    """
    curves = report.subject.curves
    if curves is None or not (curves.loss or curves.evaluations):
        return ["no curves: nothing was logged"]
    lines = list(_chart("training loss", [(p.step, p.value) for p in curves.loss], unicode))
    if len(curves.evaluations) > 1:
        split = curves.evaluations[0].split
        lines += _chart(f"loss, {split}", [(e.step, e.loss) for e in curves.evaluations], unicode)
        lines += _chart(f"accuracy, {split}", [(e.step, e.accuracy) for e in curves.evaluations], unicode)
    return lines


def _chart(title: str, points: Sequence[tuple[int, float]], unicode: bool) -> Iterator[str]:
    """Columns of blocks: each the mean of the values at its steps, the one before where there are none."""
    if not points:
        return
    values = [value for _, value in points]
    low, high, last = min(values), max(values), points[-1][0]
    parts: list[list[float]] = [[] for _ in range(_WIDTH)]
    for step, value in points:
        parts[min(_WIDTH - 1, step * _WIDTH // max(1, last))].append(value)
    column = next(part[0] for part in parts if part)
    marks, heights = (_BLOCKS if unicode else _ASCII), list[float]()
    for part in parts:
        column = sum(part) / len(part) if part else column
        heights.append((column - low) / ((high - low) or 1) * _ROWS)
    yield f"{title}: first {values[0]:.4g}, last {values[-1]:.4g}"
    for row in range(_ROWS - 1, -1, -1):
        filled = (min(max(height - row, 0.0), 1.0) for height in heights)
        line = "".join(marks[max(round(share * 8), 1 if row == 0 else 0)] for share in filled)
        edge = high if row == _ROWS - 1 else low if row == 0 else None
        yield f"{'' if edge is None else f'{edge:.4g}':>9} |{line}"
    yield f"{'':>9} 0{f'step {last}':>{_WIDTH}}"
