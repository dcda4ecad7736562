"""All that a report says, as data: report.json. Reads answers, the run and the images; evaluates nothing.

schema_version rises when a field is taken away or means something else.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from vitrail.config import DataConfig
from vitrail.reporting import confidence as confidences
from vitrail.reporting.confidence import Confidence
from vitrail.reporting.images import DataFacts, Images, describe, find
from vitrail.reporting.measured import Measured, confusion_counts, measure, rate
from vitrail.reporting.privacy import Private
from vitrail.reporting.subject import Subject
from vitrail.reporting.verdict import SplitAccuracy, Verdict, limits, verdict
from vitrail.run import Predictions, RunDir, read_predictions

SCHEMA_VERSION = 1
MOST_CONFUSION = 100
"""Classes up to which the confusion matrix is in the report."""
_BY_WORTH = ("test", "val", "all", "train")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Every figure of a report, with its interval.

    Args:
        verdict: the answer, and what it rests on.
        subject: the run or model.
        accuracies: of every split that was measured, that which counts first.
        measured: the split that counts; None: there are no answers image by image.
        confusion: [true][predicted]; None above 100 classes.
        confidence: how far its probabilities can be believed; None without answers.
        data: what the data set holds; None without answers.
        limits: what the figures do not say.
    """

    schema_version: int
    verdict: Verdict
    subject: Subject
    accuracies: tuple[SplitAccuracy, ...]
    measured: Measured | None
    confusion: tuple[tuple[int, ...], ...] | None
    confidence: Confidence | None
    data: DataFacts | None
    limits: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The object of report.json; what is no number is null."""
        return {"kind": "vitrail-report", **json_value(self)}


def json_value(value: Any) -> Any:
    """A value as JSON has it."""
    if dataclasses.is_dataclass(value):
        return {field.name: json_value(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): json_value(one) for name, one in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [json_value(one) for one in cast("list[Any]", value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


@dataclass(frozen=True)
class Sources:
    """What a page draws from besides the figures.

    Args:
        predictions: None: there are none.
        images: where the images are, or why they are not to be had.
    """

    predictions: Predictions | None
    images: Images | str


def predictions_of(run: RunDir) -> dict[str, Predictions]:
    """The answers that lie in a run, by split, those that count most first. Raises RunError where one is damaged."""
    paths = {split: run.predictions_path(split) for split in _BY_WORTH}
    return {split: read_predictions(path) for split, path in paths.items() if path.is_file()}


def stated_accuracies(run: RunDir) -> list[SplitAccuracy]:
    """What evaluation.json says. Raises RunError where it is damaged."""
    if not (run.path / "evaluation.json").is_file():
        return []
    found = run.read_evaluation()
    parts = [found, *([found["test"]] if "test" in found else [])]
    return [_accuracy(part["split"], part["num_correct"], part["num_examples"]) for part in parts]


def _accuracy(split: str, num_correct: int, num_examples: int) -> SplitAccuracy:
    return SplitAccuracy(split, num_correct, num_examples, rate(num_correct, num_examples))


def make(
    subject: Subject,
    answers: dict[str, Predictions],
    data: DataConfig,
    private: Private,
    stated: list[SplitAccuracy] | None = None,
) -> tuple[Report, Sources]:
    """Measure, judge and describe.

    Args:
        answers: by split; the first one counts.
        data: the settings of the data set; the spec of the answers is used where they name one.
        private: what is not told.
        stated: accuracies that are known without answers.
    """
    accuracies = {one.split: one for one in stated or []}
    accuracies |= {s: _accuracy(s, int(p.correct.sum()), p.num_examples) for s, p in answers.items()}
    ordered = sorted(accuracies.values(), key=lambda one: _BY_WORTH.index(one.split) if one.split in _BY_WORTH else 9)
    found = next(iter(answers.values()), None)
    if found:  # what is measured counts before what is only stated
        ordered.sort(key=lambda one: one.split != found.split)
    measured = confidence = facts = None
    images: Images | str = "nothing was measured"
    if found:
        measured, confidence = _figures(subject, found, answers.get("val"), private)
        images = find(replace(data, spec=found.data or data.spec), found)
        facts = _told(describe(images, found), private)
    judged = verdict(subject, measured, ordered[0] if ordered else None, confidence, facts)
    report = Report(
        schema_version=SCHEMA_VERSION,
        verdict=judged,
        subject=subject,
        accuracies=tuple(ordered),
        measured=measured,
        confusion=tuple(map(tuple, confusion_counts(found).tolist()))
        if found and len(found.classes) <= MOST_CONFUSION
        else None,
        confidence=confidence,
        data=facts,
        limits=limits(subject, measured, confidence, facts),
    )
    return report, Sources(found, images)


def _figures(
    subject: Subject, found: Predictions, val: Predictions | None, private: Private
) -> tuple[Measured, Confidence | None]:
    stored = confidences.stored_temperature(subject.calibration)
    if stored and found.logits is None and stored.value != 1:
        reason = "not all logits were kept, so it cannot be applied here"
        stored = replace(stored, applied=False, reason=reason)
    temperature = stored or confidences.suggested_temperature(val)
    used = stored.value if stored and stored.applied else 1.0
    confidence, own, brier = confidences.probabilities(found, used)
    unknown = confidences.stored_unknown(subject.calibration)
    measured = measure(found, confidence, own)
    measured = replace(
        measured,
        data=private.path(found.data),
        unreadable=tuple((private.text(path), private.text(why)) for path, why in found.unreadable),
    )
    return measured, confidences.judge(found, confidence, own, brier, temperature, unknown)


def _told(facts: DataFacts, private: Private) -> DataFacts:
    return replace(facts, problem=private.text(facts.problem), notes=tuple(map(private.text, facts.notes)))
