"""Contenders that take turns, medians of their speed, and ratios within a round.

A machine drifts by more than two programs differ; what was measured one minute apart does not compare. So every round
lets each contender work once, another one first each time, and a ratio is taken within its round. The interval of a
median ratio is a bootstrap over the rounds (Efron, 1979): a difference counts as resolved when it leaves out 1.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Work = Callable[[], int]
"""Does a piece of work, all of it, and returns how many things that were (images, steps, calls)."""

_RESAMPLES = 4000


@dataclass(frozen=True)
class Figures:
    """What one contender reached, one entry a round, in things per second."""

    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def milliseconds(self) -> float:
        """Median time of one thing."""
        return 1000 / self.median


@dataclass(frozen=True)
class Comparison:
    """Figures of several contenders over the same rounds.

    Args:
        unit: what is counted, as in "images".
    """

    unit: str
    figures: dict[str, Figures]

    def ratios(self, name: str, base: str) -> tuple[float, ...]:
        """Speed of one contender over that of another, in each round."""
        return tuple(a / b for a, b in zip(self.figures[name].rates, self.figures[base].rates, strict=True))

    def ratio(self, name: str, base: str) -> tuple[float, float, float]:
        """The median ratio and the ends of its 95 % interval."""
        ratios = np.array(self.ratios(name, base))
        draws = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
        medians = np.median(ratios[draws], axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        return float(np.median(ratios)), float(low), float(high)

    def fastest(self, names: Sequence[str]) -> str:
        """Which of some contenders has the highest median."""
        return max(names, key=lambda name: self.figures[name].median)

    def to_json(self, base: str) -> dict[str, Any]:
        """Every single rate, medians, and ratios to `base`."""
        rows: dict[str, Any] = {}
        for name, figures in self.figures.items():
            ratio, low, high = self.ratio(name, base)
            rows[name] = {
                "median": figures.median,
                "min": min(figures.rates),
                "max": max(figures.rates),
                "ratio": ratio,
                "ratio_interval": [low, high],
                "rates": list(figures.rates),
            }
        return {"unit": f"{self.unit}/s", "base": base, "rounds": len(self.figures[base].rates), "contenders": rows}

    def table(self, base: str) -> str:
        """A Markdown table: medians, range, ratio to `base` with its 95 % interval."""
        lines = [f"| contender | {self.unit}/s | min to max | ratio to {base} | 95 % |", "|---|---|---|---|---|"]
        for name, figures in self.figures.items():
            ratio, low, high = self.ratio(name, base)
            resolved = "" if name == base else f"{low:.2f} to {high:.2f}"
            slowest, quickest = (f"{value:,.4g}" for value in (min(figures.rates), max(figures.rates)))
            lines.append(f"| {name} | {figures.median:,.4g} | {slowest} to {quickest} | {ratio:.2f} | {resolved} |")
        return "\n".join(lines)


def compare(
    contenders: Mapping[str, Work],
    *,
    unit: str,
    rounds: int,
    seconds: float,
    on_turn: Callable[[str, int], object] | None = None,
) -> Comparison:
    """Let contenders take turns.

    Each one works once untimed before the first round. The order turns by one place a round, so that nobody is always
    first. The garbage collector rests during a turn.

    Args:
        contenders: name to work. Work on a GPU has to wait for it before it returns.
        unit: what is counted.
        rounds: turns of each.
        seconds: least length of a turn, which is also at least one piece of work.
        on_turn: called before each turn with the contender's name and the round.
    """
    names = list(contenders)
    for work in contenders.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if on_turn:
                on_turn(name, number)
            rates[name].append(rate_of(contenders[name], seconds))
    return Comparison(unit, {name: Figures(tuple(values)) for name, values in rates.items()})


def rate_of(work: Work, seconds: float) -> float:
    """Things per second of work that is repeated for at least this long."""
    gc.collect()
    gc.disable()
    try:
        count, start = 0, time.perf_counter()
        while True:
            count += work()
            passed = time.perf_counter() - start
            if passed >= seconds:
                return count / passed
    finally:
        gc.enable()
