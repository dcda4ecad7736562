"""Figures -> sentences that their owner understands: can it be used, and what speaks against it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vitrail.errors import shown
from vitrail.reporting.confidence import FEWEST, Confidence
from vitrail.reporting.images import DataFacts
from vitrail.reporting.measured import ClassFigures, Estimate, Measured
from vitrail.reporting.subject import Subject
from vitrail.statistics import wilson

FEW, SMALL = 30, 10
"""Images of a class below which it is not judged; below which its figures say nothing."""
GAP = 0.05
_WIDE = 0.2
"""An interval of accuracy that is wider tells too little to rely on."""
_OFTEN = 3
"""Measurements on the test split from which on it is no longer quite new."""
_MOST_NAMES = 3

Level = Literal["good", "note", "warning"]
Answer = Literal["no", "careful", "yes"]


@dataclass(frozen=True)
class Finding:
    """One thing to know before the model is used.

    Args:
        kind: which of the checks found it.
        level: whether it speaks for the model, is to be known, or speaks against it.
    """

    kind: str
    level: Level
    text: str


@dataclass(frozen=True)
class SplitAccuracy:
    """The accuracy on a split, whether its answers are there or only its counts."""

    split: str
    num_correct: int
    num_examples: int
    accuracy: Estimate


@dataclass(frozen=True)
class Verdict:
    """The first thing that a report says.

    Args:
        answer: whether it can be used.
        headline: why, in a sentence.
        findings: what speaks for and against it.
    """

    answer: Answer
    headline: str
    findings: tuple[Finding, ...]


def percent(value: float) -> str:
    """A share as "97.2 %"; one that is not quite all or nothing does not look so."""
    text = f"{100 * value:.1f}"
    if (text == "100.0" and value < 1) or (text == "0.0" and value > 0):
        text = f"{100 * value:.2f}" if 0.00005 <= value < 0.99995 else ("> 99.99" if value > 0.5 else "< 0.01")
    return f"{text} %"


def verdict(
    subject: Subject,
    measured: Measured | None,
    main: SplitAccuracy | None,
    confidence: Confidence | None,
    data: DataFacts | None,
) -> Verdict:
    """Judge a model by what was measured.

    Args:
        measured: with the answers image by image; None: they are not there.
        main: the accuracy on the split that counts; None: nothing was measured yet.
    """
    findings = [*_of_the_run(subject, main, measured)]
    if measured:
        findings += [*_of_accuracy(subject, measured), *_of_classes(measured)]
    if confidence and measured:
        findings += _of_confidence(confidence)
    findings += _of_data(subject, measured, data)
    order = {"warning": 0, "note": 1, "good": 2}
    findings.sort(key=lambda finding: order[finding.level])
    if main is None:
        wait = "Nothing has been measured yet"
        more = ": the run goes on." if subject.state == "running" else "."
        return Verdict("no", wait + more, tuple(findings))
    kinds = {finding.kind for finding in findings if finding.level == "warning"}
    is_early = subject.state == "running" or kinds & {"majority", "few", "trained"} or main.num_examples < FEW
    answer: Answer = "no" if is_early else "careful" if kinds else "yes"
    headline = _headline(main)
    if "trained" in kinds:
        right = f"{main.num_correct} of {main.num_examples} images were recognised"
        headline = f"These images were trained on, so they do not tell what to expect: {right}."
    return Verdict(answer, headline, tuple(findings))


def _headline(main: SplitAccuracy) -> str:
    low, high, about = (100 * v for v in (main.accuracy.low, main.accuracy.high, main.accuracy.value))
    if main.num_examples < FEW:
        right = f"{main.num_correct} of {main.num_examples} images were recognised"
        return f"Too few images to tell: {right}, so expect anything from {low:.0f} to {high:.0f} of 100."
    if main.num_correct == 0:
        return f"None of {main.num_examples} images was recognised: expect at most {high:.0f} of 100."
    if main.num_correct == main.num_examples:
        return f"All {main.num_examples} images were recognised: expect at least {int(low)} of 100 like them."
    return f"Expect about {about:.0f} of 100 images like these to be recognised, between {low:.0f} and {high:.0f}."


def _of_the_run(subject: Subject, main: SplitAccuracy | None, measured: Measured | None) -> Iterator[Finding]:
    curves = subject.curves
    if curves and subject.state != "finished":
        done = f"{curves.last_step} of {curves.total_steps}" if curves.total_steps else f"{curves.last_step}"
        if subject.state == "running":
            yield Finding("state", "warning", f"The run is still training: {done} steps are done.")
        else:
            text = f"Interrupted: the log ends at step {done}. vitrail train --run RUN --resume finishes it."
            yield Finding("state", "warning", text)
    if curves and curves.best and curves.best.step == 0 and len(curves.evaluations) > 1:
        text = "The best weights are those before the training: no epoch was better on the images that choose."
        yield Finding("start", "note", text)
    if main and measured is None:
        text = (
            "The answers image by image are not there, so most of this report is missing: vitrail eval RUN makes them."
        )
        yield Finding("answers", "warning", text)
    if main is None:
        return
    if main.split == "test" and subject.chosen_on == "test":
        text = "The best of several epochs was chosen on this test split: the accuracy on new images is a little lower."
        yield Finding("split", "warning", text)
    elif main.split == "test" and subject.state != "model":
        chose = "the epoch was chosen on another split" if subject.chosen_on else "no choice was made by it"
        text = f"Measured on the test split, which it was not trained on; {chose}. Copies of training images in it are "
        yield Finding("split", "good", f"{text}not looked for here: vitrail data check DATA --near finds them.")
    elif subject.state == "model" and measured and main.split == "test" and measured.data == subject.data_spec:
        text = f"Measured on the test split of {shown(measured.data)}, on whose training images it was trained."
        yield Finding("split", "good", text)
    elif main.split == "val":
        text = "Measured on validation images, which were not trained on. "
        if subject.chosen_on:
            text += "The best epoch was chosen on them, so new images do a little worse. "
        yield Finding("split", "note", f"{text}There is no figure for a test split.")
    elif main.split == "train":
        yield Finding("trained", "warning", "Measured on training images: new ones will do worse.")
    elif subject.state == "model" and measured and measured.data == subject.data_spec:
        text = "Measured on all images, most of which the model was trained on: new ones will do worse."
        yield Finding("trained", "warning", text)
    elif subject.state == "model":
        text = f"Measured on {main.split} of {shown(measured.data if measured else '')}; whether the model was trained "
        yield Finding("split", "note", text + "on some of these images, the file does not tell.")
    if subject.num_test and main.split == "test":
        times = "once" if subject.num_test == 1 else f"{subject.num_test} times"
        level: Level = "warning" if subject.num_test > _OFTEN else "note" if subject.num_test > 1 else "good"
        worn = "" if level == "good" else ": whoever chooses by it makes it a training set, step by step"
        yield Finding("test", level, f"The test split was measured {times} in this run{worn}.")


def _of_accuracy(subject: Subject, found: Measured) -> Iterator[Finding]:
    accuracy, n = found.accuracy, found.num_examples
    if not math.isfinite(found.loss) and n > len(found.unreadable):
        text = "Some of its answers are not numbers: the weights are damaged, or they overflow in this precision."
        yield Finding("numbers", "warning", text)
    if n < FEW:
        advice = "Get more of them; or train anew and hold out a larger part: --data.validation-fraction."
        yield Finding("few", "warning", f"{n} images are too few to tell much. {advice}")
    elif (width := accuracy.high - accuracy.low) > 0.1:
        text = f"Few images: with {n}, the accuracy may lie anywhere from {percent(accuracy.low)} to "
        yield Finding("width", "warning" if width > _WIDE else "note", f"{text}{percent(accuracy.high)}.")
    always = f'always answering "{shown(found.majority, 40)}" would be right in {percent(found.majority_share)}'
    if accuracy.low <= found.majority_share:
        yield Finding("majority", "warning", f"It is not clearly better than a guess: {always}.")
    else:
        yield Finding("majority", "good", f"It has learnt something: {always}.")
        if accuracy.high < 0.5:
            yield Finding("half", "warning", "It is wrong more often than right.")
    if (base := subject.baseline) is not None:
        best, name = max((base.linear, "logistic regression"), (base.knn, "nearest neighbours"))
        text = f"{name} on the features of the pretrained weights reached {percent(best)} ({base.split})"
        surely, _ = wilson(round(best * base.num_examples), base.num_examples)
        if best > accuracy.high and surely > accuracy.value:
            yield Finding("baseline", "warning", f"Training made it worse: {text}.")
        elif best >= accuracy.low:
            level: Level = "warning" if best > accuracy.value else "note"
            yield Finding("baseline", level, f"So few images do not show that training was worth it: {text}.")
        else:
            yield Finding("baseline", "good", f"Training was worth it: {text}.")
    gap = accuracy.value - found.balanced_accuracy.value
    if abs(gap) > GAP:
        which = "rarer" if gap > 0 else "more frequent"
        text = f"Classes do not fare alike: the mean over classes is {percent(found.balanced_accuracy.value)}, "
        yield Finding("balance", "warning", f"{text}{abs(100 * gap):.0f} points apart; {which} classes do worse.")


def _of_classes(found: Measured) -> Iterator[Finding]:
    judged = [one for one in found.per_class if one.num_examples >= FEW and one.recall]
    weak = [one for one in judged if one.recall and one.recall.high < found.accuracy.low]
    weak.sort(key=lambda one: one.recall.value if one.recall else 0.0)
    if weak:
        worst = ", ".join(
            f'"{shown(one.name, 40)}" ({percent(one.recall.value)} recognised)'
            for one in weak[:_MOST_NAMES]
            if one.recall
        )
        more = f" and {len(weak) - _MOST_NAMES} more" if len(weak) > _MOST_NAMES else ""
        yield Finding("weak", "warning", f"Clearly worse than the rest: {worst}{more}.")
    empty = [one for one in found.per_class if not one.num_examples]
    if empty:
        text = f"Never tested, as there is no image of them here: {_names(empty)}."
        yield Finding("empty", "warning", text)
    small = [one for one in found.per_class if 0 < one.num_examples < SMALL]
    if small:
        yield Finding("small", "note", f"Fewer than {SMALL} images, so that their figures say little: {_names(small)}.")
    if pairs := [pair for pair in found.pairs if pair.share >= 0.1 and pair.count >= 5]:
        names = {one.number: one.name for one in found.per_class}
        top = pairs[0]
        text = f'Most often, "{shown(names[top.label], 40)}" is taken for "{shown(names[top.answer], 40)}": '
        yield Finding("pair", "note", f"{text}{top.count} times, {percent(top.share)} of its images.")


def _names(classes: list[ClassFigures]) -> str:
    names = ", ".join(f'"{shown(one.name, 40)}"' for one in classes[:_MOST_NAMES])
    return names + (f" and {len(classes) - _MOST_NAMES} more" if len(classes) > _MOST_NAMES else "")


def _of_confidence(found: Confidence) -> Iterator[Finding]:
    if not found.is_judged:
        text = (
            f"Whether its confidence can be believed is not judged: {found.num_examples} images, {FEWEST} are needed."
        )
        yield Finding("confidence", "note", text)
        return
    right = sum(group.count * group.accuracy.value for group in found.groups) / found.num_examples
    ece = f"calibration error {found.ece.value:.3f}, up to {found.floor_95:.3f} may be chance"
    if found.fits:
        yield Finding("confidence", "good", f"Its confidence can be believed as far as these images show ({ece}).")
    else:
        way = "surer than it is right" if found.mean > right else "less sure than it is right"
        said = f"it says {percent(found.mean)} on average and is right in {percent(right)}"
        yield Finding("confidence", "note" if found.mean <= right else "warning", f"It is {way}: {said} ({ece}).")
    one = next((one for _, one in reversed(found.at_goal) if one and one.coverage >= 0.05), None)
    if one and one.coverage < 1:
        text = (
            f"Where it is at least {percent(one.threshold)} sure, which is {percent(one.coverage)} of the images, it "
        )
        yield Finding("threshold", "good", f"{text}is right in {percent(one.accuracy.value)}.")


def _of_data(subject: Subject, measured: Measured | None, data: DataFacts | None) -> Iterator[Finding]:
    if measured and measured.unreadable:
        count = len(measured.unreadable)
        text = f"{_images(count)} could not be read and count{'s' if count == 1 else ''} as wrong."
        yield Finding("unreadable", "warning", text)
    left_out = sum(about["num_unreadable"] for split, about in subject.data.items() if split == "train")
    if left_out:
        text = f"{_images(left_out)} for training could not be read and {'was' if left_out == 1 else 'were'} left out."
        yield Finding("unreadable-train", "note", text)
    if data and data.problem:
        yield Finding("data", "note", f"No pictures and no counts of the data: {data.problem}.")


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def limits(
    subject: Subject, measured: Measured | None, confidence: Confidence | None, data: DataFacts | None
) -> tuple[str, ...]:
    """What the figures do not say, a sentence each."""
    found: list[str] = []
    if measured:
        found.append(
            f"All figures are of {measured.num_examples} images of one source. Other cameras, places or times were not "
            "measured; expect less there."
        )
        few = [one for one in measured.per_class if 0 < one.num_examples < FEW]
        if few:
            found.append(
                f"{len(few)} of {len(measured.per_class)} classes have fewer than {FEW} images here: for them read the "
                "interval, not the figure."
            )
    found.append(
        "A picture of something else gets one of the known classes as well; how sure it is then was not measured."
        if not (confidence and confidence.unknown)
        else "How many pictures of something else are noticed was not measured: the limit is a budget of false alarms."
    )
    found.append(
        "Copies of training images among the measured ones were not looked for, nor several pictures of one scene: "
        "both make the accuracy too high and the intervals too narrow. vitrail data check finds exact copies."
    )
    if confidence and confidence.temperature and confidence.temperature.value != 1 and measured:
        if confidence.temperature.applied and measured.split == "val":
            found.append("The temperature was fitted to these validation images: it looks a little better than it is.")
    elif confidence:
        found.append("The confidences are the softmax as it is, without a temperature.")
    if confidence:
        found.append("Thresholds were found on these images; on new ones they reach a little less.")
    if subject.num_test is None:
        found.append("How often the test split of this model was measured before is not known.")
    else:
        times = {0: "not measured", 1: "measured once"}.get(subject.num_test, f"measured {subject.num_test} times")
        found.append(f"The test split was {times} in this run; other runs on it are not counted.")
    found.append("Why the model answers as it does is not part of this report.")
    if data and data.problem:
        found.append(f"The images were not looked at: {data.problem}.")
    return tuple(found)
