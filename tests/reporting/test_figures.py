"""The figures of a report: those of the evaluation, those of other libraries, and what is said about them."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics

import vitrail
from tests.support.answered import answers, default_log, drawn_answers, made_run
from vitrail import data
from vitrail.cli import main
from vitrail.reporting import Private, Report, make, of_run
from vitrail.reporting.confidence import stored_temperature, stored_unknown
from vitrail.reporting.report import json_value
from vitrail.run import Predictions, RunDir
from vitrail.run.lock import hold_lock
from vitrail.selftest.tiny import tiny_run
from vitrail.statistics import wilson
from vitrail.training import train


def report_of(tmp_path: Path, *found: Predictions, **more: object) -> Report:
    run = made_run(tmp_path / "run", *found, **more)  # type: ignore[arg-type]
    return vitrail.report(run.path)


def kinds(report: Report, level: str) -> set[str]:
    return {finding.kind for finding in report.verdict.findings if finding.level == level}


def test_figures_are_those_of_sklearn(tmp_path: Path) -> None:
    found = drawn_answers(600, 7, scale=2.0)
    report = report_of(tmp_path, found)
    measured, predicted = report.measured, found.top_classes[:, 0]
    assert measured is not None and report.confidence is not None
    logits = found.logits
    assert logits is not None
    p = softmax(logits.astype(np.float64), axis=1)
    assert measured.balanced_accuracy.value == pytest.approx(metrics.balanced_accuracy_score(found.labels, predicted))
    assert measured.macro_f1.value == pytest.approx(metrics.f1_score(found.labels, predicted, average="macro"))
    assert measured.loss == pytest.approx(metrics.log_loss(found.labels, p), abs=1e-6)
    assert report.confidence.brier == pytest.approx(
        metrics.brier_score_loss(found.labels, p, labels=range(7), scale_by_half=False), abs=1e-6
    )
    assert report.confusion is not None
    assert (np.array(report.confusion) == metrics.confusion_matrix(found.labels, predicted)).all()
    recall = metrics.recall_score(found.labels, predicted, average=None)
    for one in measured.per_class:
        assert one.recall is not None and one.recall.value == pytest.approx(recall[one.number])
        assert (one.recall.low, one.recall.high) == wilson(one.num_correct, one.num_examples)
    low, high = measured.balanced_accuracy.low, measured.balanced_accuracy.high
    assert low < measured.balanced_accuracy.value < high < low + 0.15


def test_the_answer_is_that_of_the_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A digits run of one epoch: what report says, and what `eval --json` says."""
    train(tiny_run(), tmp_path / "run")
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert main(["report", str(tmp_path / "run"), "--split", evaluated["split"], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    measured = told["measured"]
    for name in ("split", "num_examples", "num_correct", "loss"):
        assert measured[name] == evaluated[name]
    assert measured["accuracy"]["value"] == evaluated["accuracy"]
    assert measured["top5"]["value"] == evaluated["top5_accuracy"]
    assert told["confusion"] == evaluated["confusion"]
    for one in measured["per_class"]:
        theirs = evaluated["per_class"][one["name"]]
        assert one["num_examples"] == theirs["num_examples"]
        for name in ("precision", "recall"):
            assert (one[name]["value"] if one[name] else 0.0) == theirs[name]
        assert (one["f1"] or 0.0) == theirs["f1"]
    assert told == json.loads((tmp_path / "run" / "report.json").read_text())
    model, page = str(tmp_path / "run" / "best.safetensors"), str(tmp_path / "page.html")
    words = ["report", model, "--data", "digits", "--split", evaluated["split"], "--out", page, "--json"]
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["subject"]["state"] == "model" and again["subject"]["title"] == "best.safetensors"
    for name in ("accuracy", "per_class", "loss", "mistakes", "fingerprint"):
        assert again["measured"][name] == measured[name]
    assert (tmp_path / "page.html").exists()
    images = data.load(tiny_run().data, (evaluated["split"],))[evaluated["split"]]
    assert measured["fingerprint"] == images.fingerprint


def test_mistakes_are_ranked_by_loss_and_no_class_is_forgotten(tmp_path: Path) -> None:
    found = drawn_answers(900, 30, scale=1.0)
    measured = report_of(tmp_path, found).measured
    assert measured is not None
    worst = [one.loss for one in measured.mistakes[: measured.num_worst]]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] == pytest.approx(float(found.losses[~found.correct].max()))
    ids = [one.id for one in measured.mistakes]
    assert len(ids) == len(set(ids)) == 24 + 3 * 30
    assert {one.label for one in measured.mistakes} == set(range(30))
    assert all(found.names[one.id] == one.path for one in measured.mistakes)
    counts = [pair.count for pair in measured.pairs]
    assert counts == sorted(counts, reverse=True)
    for pair in measured.pairs[:5]:
        assert pair.count == ((found.labels == pair.label) & (found.top_classes[:, 0] == pair.answer)).sum()
        assert all(found.labels[i] == pair.label and found.top_classes[i, 0] == pair.answer for i in pair.examples)


def test_unreadable_images_count_as_wrong(tmp_path: Path) -> None:
    broken = tuple((f"broken/{i}.jpg", "truncated") for i in range(10))
    report = report_of(tmp_path, drawn_answers(90, 3, scale=30.0, unreadable=broken))
    assert report.measured is not None
    assert report.measured.accuracy.value == 0.9
    assert report.measured.unreadable == broken
    assert "unreadable" in kinds(report, "warning")
    assert report.verdict.answer == "careful"


@pytest.mark.parametrize(("scale", "said"), [(60.0, "All 300 images"), (-60.0, "None of 300 images")])
def test_all_right_and_all_wrong(tmp_path: Path, scale: float, said: str) -> None:
    report = report_of(tmp_path, drawn_answers(300, 4, scale=scale))
    assert report.verdict.headline.startswith(said)
    assert report.verdict.answer == ("yes" if scale > 0 else "no")
    text = (tmp_path / "run" / "report.html").read_text()
    assert "nan" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("num_probed", "probe", "level", "said"),
    [
        (300, 0.5, "good", "Training was worth it: logistic regression"),
        (300, 0.66, "note", "So few images do not show that training was worth it"),
        (300, 0.69, "warning", "So few images do not show that training was worth it"),
        (300, 0.8, "warning", "Training made it worse: logistic regression on the features"),
        (30, 0.8, "warning", "So few images do not show that training was worth it"),
    ],
)
def test_a_probe_is_called_better_only_where_chance_does_not_explain_it(
    tmp_path: Path, num_probed: int, probe: float, level: str, said: str
) -> None:
    """The model is right in 200 of 300 images."""
    labels = np.arange(300) % 3
    logits = 9.0 * np.eye(3)[np.where(np.arange(300) < 200, labels, (labels + 1) % 3)]
    baseline = {"knn": 0.4, "linear": probe, "num_train": 900, "num_examples": num_probed, "split": "val"}
    log = [{"step": 0, "epoch": 0, "baseline": baseline}, *default_log()]
    report = report_of(tmp_path, answers(labels, logits, ("a", "b", "c")), log=log)
    (finding,) = (finding for finding in report.verdict.findings if finding.kind == "baseline")
    assert finding.level == level and finding.text.startswith(said)
    assert f"reached {probe:.1%}".replace("%", " %") in finding.text


def test_a_class_that_nobody_tested_is_named(tmp_path: Path) -> None:
    found = drawn_answers(400, 4, scale=9.0)
    classes = (*found.classes, "unicorn")
    logits = np.concatenate((found.logits, np.full((400, 1), -9.0)), axis=1)  # type: ignore[arg-type]
    report = report_of(tmp_path, answers(found.labels, logits, classes))
    assert report.measured is not None
    last = report.measured.per_class[4]
    assert (last.num_examples, last.recall, last.precision, last.f1) == (0, None, None, None)
    assert report.measured.balanced_accuracy.value == pytest.approx(report.measured.accuracy.value, abs=0.01)
    assert any("unicorn" in finding.text for finding in report.verdict.findings if finding.kind == "empty")


def test_rare_classes_that_do_worse_are_named(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.array([0] * 500 + [1] * 40)
    logits = np.stack((draw.normal(3, 1, 540), draw.normal(0, 1, 540)), axis=1)
    report = report_of(tmp_path, answers(labels, logits, ["common", "rare"]))
    assert {"balance", "majority"} <= kinds(report, "warning")
    assert report.verdict.answer == "no"  # 93 % right, and no better than always saying "common"


def test_confidence_is_judged_against_its_noise(tmp_path: Path) -> None:
    fair = drawn_answers(2000, 5, scale=0.0)
    draw = np.random.default_rng(1)
    p = np.exp(fair.logits - fair.log_sum_exp[:, None])  # type: ignore[operator]
    labels = (p.cumsum(1) < draw.random((2000, 1))).sum(1).clip(max=4)
    calibrated = report_of(tmp_path / "a", answers(labels, fair.logits, fair.classes))  # type: ignore[arg-type]
    assert calibrated.confidence is not None and calibrated.confidence.fits
    assert "confidence" in kinds(calibrated, "good")
    bold = report_of(tmp_path / "b", answers(labels, 3 * fair.logits, fair.classes))  # type: ignore[operator]
    assert bold.confidence is not None and not bold.confidence.fits
    assert "confidence" in kinds(bold, "warning")
    few = report_of(tmp_path / "c", drawn_answers(150, 5))
    assert few.confidence is not None and not few.confidence.is_judged


def test_the_temperature_of_validation_answers_is_proposed_not_applied(tmp_path: Path) -> None:
    bold = drawn_answers(600, 5, scale=2.0)
    val = answers(bold.labels, 4 * bold.logits, bold.classes, split="val")  # type: ignore[operator]
    report = report_of(tmp_path, val)
    assert report.confidence is not None and report.confidence.temperature is not None
    assert report.confidence.temperature.value == pytest.approx(4 / 2, rel=0.1)  # 4 times the logits of scale 2
    assert not report.confidence.temperature.applied
    assert report.confidence.mean == pytest.approx(float(val.top_probabilities[:, 0].mean()), abs=1e-6)


def test_the_temperature_of_a_model_file_is_applied(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", found := drawn_answers(500, 5))
    limits = {"reject": 0.05, "min_probability": 0.3, "max_distance": 99.5}
    stored = {"temperature": 2.0, "reason": "out of fold it helps", "unknown": limits}
    subject = replace(of_run(run, None, Private()), calibration=stored)
    report, _ = make(subject, {"test": found}, run.read_config().data, Private())
    assert report.confidence is not None and report.measured is not None and report.confidence.temperature is not None
    p = softmax(np.asarray(found.logits, np.float64) / 2, axis=1)
    assert report.confidence.temperature.applied
    assert report.confidence.mean == pytest.approx(p.max(1).mean(), abs=1e-9)
    assert report.confidence.nll == pytest.approx(metrics.log_loss(found.labels, p), abs=1e-9)
    worst = report.measured.mistakes[0]
    assert worst.probability == pytest.approx(p[worst.id].max(), abs=1e-9)
    assert json_value(report.confidence.unknown) == limits
    assert report.measured.loss == pytest.approx(float(found.losses.mean()), abs=1e-6)  # as the evaluation has it


@pytest.mark.parametrize(
    "said", [None, [], {}, {"temperature": "2"}, {"temperature": 1e9}, {"temperature": float("nan")}]
)
def test_a_calibration_that_says_nothing_is_none(said: object) -> None:
    assert stored_temperature(said) is None
    assert stored_unknown(said) is None
    assert stored_unknown({"unknown": {"reject": 0.05, "min_probability": True, "max_distance": 1}}) is None


def test_thresholds_keep_what_they_promise(tmp_path: Path) -> None:
    found = drawn_answers(3000, 6, scale=2.0)
    report = report_of(tmp_path, found)
    assert report.confidence is not None
    sure, correct = found.top_probabilities[:, 0], found.correct
    for goal, one in report.confidence.at_goal:
        assert one is not None and one.accuracy.value >= goal
        chosen = sure >= one.threshold - 1e-7
        assert one.accuracy.value == pytest.approx(correct[chosen].mean(), abs=1e-3)
        assert one.coverage == pytest.approx(chosen.mean(), abs=1e-3)


def test_what_was_measured_on_which_split_is_said(tmp_path: Path) -> None:
    val = drawn_answers(300, 3, split="val")
    report = report_of(tmp_path / "a", val)
    assert [one.split for one in report.accuracies] == ["val"]
    assert any("best epoch was chosen" in finding.text for finding in report.verdict.findings)
    both = report_of(tmp_path / "b", val, drawn_answers(200, 3, seed=1))
    assert [one.split for one in both.accuracies] == ["test", "val"]
    assert both.measured is not None and both.measured.split == "test"
    log = [{**line, "split": "test"} if "split" in line else line for line in default_log()]
    chosen = report_of(tmp_path / "c", drawn_answers(300, 3), log=log)
    assert chosen.subject.num_test == 4
    assert {"split", "test"} <= kinds(chosen, "warning")


def test_evaluations_since_are_counted(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", drawn_answers(300, 3))
    lines = [{"split": split, "accuracy": 0.5} for split in ("test", "val", "test")]
    (run.path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert vitrail.report(run.path).subject.num_test == 2


def test_a_run_that_goes_on_one_that_died_and_one_that_is_done(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", drawn_answers(300, 3))
    assert vitrail.report(run.path).subject.state == "finished"
    with hold_lock(run.path):
        running = vitrail.report(run.path)
        assert (running.subject.state, running.verdict.answer) == ("running", "no")
        held = next(run.path.glob(".lock-*")).read_text()
    lock = next(run.path.glob(".lock-*"))
    lock.write_text(json.dumps({**json.loads(held), "process_started": "of another process"}))
    assert vitrail.report(run.path).subject.state == "interrupted"


def test_a_run_that_was_killed_before_it_measured_anything(tmp_path: Path) -> None:
    report = report_of(tmp_path, log=default_log()[:5])
    assert report.verdict.answer == "no" and report.measured is None
    assert "Nothing has been measured yet" in report.verdict.headline
    assert "step 5 of 40" in report.verdict.findings[0].text
    text = (tmp_path / "run" / "report.html").read_text()
    assert "loss over the steps" in text
    assert json.loads((tmp_path / "run" / "report.json").read_text())["measured"] is None


def test_an_older_run_says_what_makes_the_rest(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    run.write_evaluation({"split": "test", "num_correct": 90, "num_examples": 100, "accuracy": 0.9, "loss": 0.3})
    report = vitrail.report(run.path)
    assert report.accuracies[0].accuracy.value == 0.9
    assert any("vitrail eval RUN" in finding.text for finding in report.verdict.findings)


def test_many_classes_keep_the_page_small(tmp_path: Path) -> None:
    found = drawn_answers(2400, 1200, scale=4.0, keep_logits=False)
    report = report_of(tmp_path, found)
    assert report.confusion is None and report.confidence is not None and report.confidence.brier is None
    assert (tmp_path / "run" / "report.html").stat().st_size < 300_000
    told = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(told["measured"]["per_class"]) == 1200


def test_json_has_no_nan(tmp_path: Path) -> None:
    found = drawn_answers(60, 3)
    logits = np.array(found.logits)
    logits[0] = math.nan
    losses = np.array(found.losses)
    losses[0] = math.nan
    broken = replace(found, losses=losses, logits=logits)
    report = report_of(tmp_path, broken, replace(broken, split="val"))
    assert report.to_json()["measured"]["loss"] is None
    assert "numbers" in kinds(report, "warning")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["nothing"], 2, "there is no run here"),
        (["run", "--split", "train"], 2, "no answers of the train split"),
        (["run", "--out", "page.json"], 2, "one name"),
    ],
)
def test_what_cannot_be_reported_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    said: str,
) -> None:
    made_run(tmp_path / "run", drawn_answers(40, 3))
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == status
    assert said in capsys.readouterr().err


def test_a_damaged_file_of_answers_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "run", drawn_answers(40, 3))
    path = run.predictions_path("test")
    path.write_bytes(path.read_bytes()[:-3])
    assert main(["report", str(run.path)]) == 2
    assert "vitrail eval" in capsys.readouterr().err
    assert not (run.path / "report.html").exists()


def test_a_report_belongs_to_its_run(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", drawn_answers(40, 3))
    vitrail.report(run.path)
    RunDir(run.path).check_own()


def test_few_images_are_no_reason_to_call_a_model_usable(tmp_path: Path) -> None:
    few = drawn_answers(34, 3, scale=1.5)
    made = vitrail.report(made_run(tmp_path / "few", few).path)
    assert made.measured
    assert made.measured.accuracy.high - made.measured.accuracy.low > 0.2
    assert made.verdict.answer == "careful"
    trained = vitrail.report(made_run(tmp_path / "trained", drawn_answers(500, 3, split="train")).path)
    assert trained.verdict.answer == "no"
    assert trained.verdict.headline.startswith("These images were trained on")
