"""What became of every tensor: of the file, and of the model. Nothing is left unexplained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vitrail.errors import WeightsError, nearest, shown
from vitrail.weights.key_table import DROP_REASONS, Reading, WeightSource

_MOST_NAMES = 8


@dataclass(kw_only=True)
class Audit:
    """Each tensor of the file is in one of mapped, adapted and dropped; each of the model is filled or reinitialised.

    Args:
        mapped: name in the file -> canonical name, values unchanged but for transposition and concatenation.
        adapted: name in the file -> what was done to its values.
        reinitialised: canonical name -> why it starts anew.
        dropped: name in the file -> why it is not used.
    """

    mapped: dict[str, str] = field(default_factory=dict[str, str])
    adapted: dict[str, str] = field(default_factory=dict[str, str])
    reinitialised: dict[str, str] = field(default_factory=dict[str, str])
    dropped: dict[str, str] = field(default_factory=dict[str, str])

    def adapt(self, canonical: str, what: str) -> None:
        """Move what fills a canonical tensor from mapped to adapted; a second change is added to the first."""
        for name in [name for name, ours in self.mapped.items() if ours == canonical]:
            del self.mapped[name]
            self.adapted[name] = what
            return
        self.adapted[canonical] = f"{self.adapted[canonical]}; {what}" if canonical in self.adapted else what

    def to_json(self) -> dict[str, list[dict[str, str]]]:
        """The object of `vitrail convert --json`."""
        return {
            "mapped": [{"name": name, "to": to} for name, to in self.mapped.items()],
            "adapted": [{"name": name, "reason": what} for name, what in self.adapted.items()],
            "reinitialised": [{"name": name, "reason": why} for name, why in self.reinitialised.items()],
            "dropped": [{"name": name, "reason": why} for name, why in self.dropped.items()],
            "unknown": [],
        }

    def lines(self, family: str, evidence: str) -> list[str]:
        """Five lines for people."""
        return [
            f"read as        {family}: {evidence}",
            f"mapped         {len(self.mapped)} tensors",
            f"adapted        {_grouped(self.adapted)}",
            f"reinitialised  {_grouped(self.reinitialised)}",
            f"dropped        {_grouped(self.dropped)}",
        ]


def check_explained(source: WeightSource, reading: Reading, expected: Mapping[str, Tensor], theirs: Any) -> None:
    """Raise WeightsError unless file and model explain each other completely.

    Args:
        source: the file. reading: what its family made of it.
        expected: the tensors of a model of this geometry, for their shapes.
        theirs: canonical name -> names that the family gives it in files.
    """
    unknown = [
        name
        for name in source.tensors
        if not any(name in x for x in (reading.mapped, reading.adapted, reading.dropped))
    ]
    missing = sorted(expected.keys() - reading.tensors.keys())
    surplus = sorted(reading.tensors.keys() - expected.keys())
    if unknown or missing or surplus:
        wanted = {name: [n for n in theirs(name)] or [name] for name in missing}
        lines = [f"{source.path}: the file is read as {reading.family}, but not every tensor is explained."]
        if missing:
            lines.append(f"missing: {_listed([' or '.join(wanted[n]) for n in missing])}")
        if unknown:
            near = [_with_nearest(name, [n for names in wanted.values() for n in names]) for name in unknown]
            lines.append(f"unknown: {_listed(near)}")
        if surplus:
            back = _names_of(reading)
            lines.append(f"without a place in the model: {_listed([back.get(n, n) for n in surplus])}")
        raise WeightsError(
            " ".join(lines), do="Nothing was loaded. Check that the file is whole and from the library named."
        )
    bad_reasons = sorted(set(reading.dropped.values()) - DROP_REASONS)
    if bad_reasons:
        raise WeightsError(f"{source.path}: tensors were dropped for no known reason.", got=", ".join(bad_reasons))
    back = _names_of(reading)
    wrong = [
        f"{back.get(name, name)} {list(tensor.shape)}, not {list(expected[name].shape)}"
        for name, tensor in reading.tensors.items()
        if tensor.shape != expected[name].shape
    ]
    if wrong:
        raise WeightsError(
            f"{source.path}: tensors do not fit together.",
            got=_listed(wrong),
            expected="the shapes of one model",
            do="Nothing was loaded. Check that the file is whole and from the library named.",
        )


def _names_of(reading: Reading) -> dict[str, str]:
    """Canonical name -> name or names in the file."""
    result: dict[str, str] = {}
    for theirs, ours in reading.mapped.items():
        result[ours] = f"{result[ours]} / {theirs}" if ours in result else theirs
    return result


def _with_nearest(name: str, candidates: Sequence[str]) -> str:
    near = nearest(name, candidates)
    return f"{name} (nearest: {near})" if near else name


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(shown(name, 240) for name in names[:_MOST_NAMES]) + more


def _grouped(reasons: Mapping[str, str]) -> str:
    """Names grouped by what was done: "2 tensors: reason (a, b)"."""
    if not reasons:
        return "nothing"
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return "; ".join(f"{reason} ({_listed(names)})" for reason, names in groups.items())
