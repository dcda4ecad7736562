"""Two models on the same images: known counts, aligned classes, other data refused, strangers' names harmless."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import vitrail
from tests.reporting.test_page import HOSTILE, Elements
from tests.support.answered import answers, drawn_answers, made_run
from vitrail.cli import main
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.reporting.compared import Answers
from vitrail.reporting.comparison import compare_answers
from vitrail.run import Predictions
from vitrail.statistics import compare_paired


def _one(found: Predictions, name: str = "a") -> Answers:
    return Answers(name=name, predictions=found)


def _changed(found: Predictions, places: np.ndarray, *, to_right: bool) -> Predictions:
    """The same answers but for some images, which are made right or wrong."""
    assert found.logits is not None
    logits = found.logits.copy()
    rows = np.arange(len(logits))[places]
    target = found.labels[places] if to_right else (found.labels[places] + 1) % len(found.classes)
    logits[rows, target] = logits.max() + 1
    return answers(found.labels, logits, found.classes)


def test_a_model_and_itself() -> None:
    found = drawn_answers(500, 7)
    same = compare_answers([_one(found)], [_one(found, "b")])
    assert (same.paired.p_mid, same.paired.p_exact, same.paired.difference) == (1.0, 1.0, 0.0)
    assert (same.paired.only_first, same.paired.only_second, same.changed_wrong) == (0, 0, 0)
    assert same.answer == "unclear"
    assert same.verdict.startswith("a and b have the same 500 images right and wrong")
    assert not same.fixed
    assert not same.broken
    assert same.both_right + same.both_wrong == 500


def test_known_changes() -> None:
    found = drawn_answers(500, 7, scale=2.0)
    right, wrong = np.flatnonzero(found.correct), np.flatnonzero(~found.correct)
    other = _changed(_changed(found, right[:3], to_right=False), wrong[:12], to_right=True)
    made = compare_answers([_one(found)], [_one(other, "b")])
    assert made.paired == compare_paired(3, 12, 500)
    assert made.paired.p_mid == pytest.approx(0.0213, abs=5e-5)
    assert made.answer == "second"
    assert "b is better on these 500 images" in made.verdict
    assert {one.id for one in made.fixed} == set(wrong[:12].tolist())
    assert {one.id for one in made.broken} == set(right[:3].tolist())
    assert sum(row.fixed for row in made.per_class) == 12
    assert sum(row.broken for row in made.per_class) == 3
    for row in made.per_class:
        assert (row.p_mid is None) == (row.fixed + row.broken < 5)
        assert row.p_mid is None or row.p_holm is not None
        assert row.second_correct - row.first_correct == row.fixed - row.broken
    back = compare_answers([_one(other, "b")], [_one(found)])
    assert back.answer == "first"
    assert back.loss_difference.value == pytest.approx(-made.loss_difference.value)


def test_ten_flipped_answers_are_no_proof() -> None:
    found = drawn_answers(500, 7, scale=2.0)
    right, wrong = np.flatnonzero(found.correct), np.flatnonzero(~found.correct)
    other = _changed(_changed(found, right[:5], to_right=False), wrong[:5], to_right=True)
    made = compare_answers([_one(found)], [_one(other, "b")])
    assert made.answer == "unclear"
    assert "do not tell which is better" in made.verdict
    assert "A difference under 1.2 points cannot be seen" in made.verdict


def test_classes_are_aligned_by_name() -> None:
    found = drawn_answers(400, 6, scale=2.0)
    assert found.logits is not None
    order = np.array([3, 1, 5, 0, 2, 4])
    place = np.argsort(order)
    permuted = answers(place[found.labels], found.logits[:, order], [found.classes[i] for i in order])
    made = compare_answers([_one(found)], [_one(permuted, "b")])
    assert (made.paired.only_first, made.paired.only_second, made.changed_wrong) == (0, 0, 0)
    assert made.num_left_out == 0
    renamed = answers(found.labels, found.logits, ["another", *found.classes[1:]])
    with pytest.raises(DataError, match="not measured on the same images"):
        compare_answers([_one(found)], [_one(renamed)])


def test_classes_of_one_model_alone_are_left_out_and_counted() -> None:
    found = drawn_answers(400, 6, scale=2.0)
    assert found.logits is not None
    labels = np.minimum(found.labels, 4)  # no image of the last class
    wide = answers(labels, found.logits, found.classes)
    narrow = answers(labels, found.logits[:, :5], found.classes[:5])
    made = compare_answers([_one(wide)], [_one(narrow, "b")])
    assert (made.num_examples, made.num_left_out) == (400, 0)
    assert made.classes_of_one == (found.classes[5],)


@pytest.mark.parametrize("what", ["ids", "names", "count"])
def test_other_images_are_refused(what: str) -> None:
    found = drawn_answers(50, 3)
    other = {
        "ids": replace(found, ids=found.ids + 1),
        "names": replace(found, names=[f"x{n}" for n in found.names]),
        "count": drawn_answers(49, 3),
    }[what]
    with pytest.raises(DataError, match="not measured on the same images"):
        compare_answers([_one(found)], [_one(other)])


def test_several_runs_a_side() -> None:
    first, second = ([drawn_answers(300, 5, scale=s) for s in scales] for scales in ((1.0, 1.1, 1.05), (2.0, 2.3, 2.1)))
    made = compare_answers(
        [_one(p, f"a{i}") for i, p in enumerate(first)], [_one(p, f"b{i}") for i, p in enumerate(second)]
    )
    assert made.seeds
    gaps = [float(b.correct.mean() - a.correct.mean()) for a, b in zip(first, second, strict=True)]
    expected = stats.ttest_1samp(gaps, 0)
    assert made.seeds.difference.value == pytest.approx(mean(gaps))
    assert made.seeds.p == pytest.approx(float(expected.pvalue))
    interval = expected.confidence_interval(0.95)
    assert (made.seeds.difference.low, made.seeds.difference.high) == pytest.approx((interval.low, interval.high))
    assert made.answer == "second"
    assert "The runs of b0 are better" in made.verdict
    with pytest.raises(DataError, match="more runs on one side"):
        compare_answers([_one(first[0])], [_one(p, f"b{i}") for i, p in enumerate(second[:2])])
    with pytest.raises(DataError, match="named twice on one side"):
        compare_answers([_one(first[0])] * 2, [_one(p, f"b{i}") for i, p in enumerate(second[:2])])
    same = compare_answers(*[[_one(p, f"{i}") for i, p in enumerate(first)]] * 2)
    assert same.answer == "unclear"
    assert same.seeds
    assert same.seeds.p == 1.0


def test_pairs_that_all_differ_by_the_same_prove_nothing() -> None:
    """Two pairs with equal differences have no spread, and so no test."""
    found = drawn_answers(11, 3, scale=2.0)
    other = _changed(found, np.flatnonzero(found.correct)[:3], to_right=False)
    made = compare_answers([_one(found, "a"), _one(found, "a2")], [_one(other, "b"), _one(other, "b2")])
    assert made.answer == "unclear"
    assert "all pairs differ by the same" in made.verdict


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = drawn_answers(300, 4, scale=2.0)
    a, b = made_run(tmp_path / "a", found), made_run(tmp_path / "b", drawn_answers(300, 4, scale=2.0))
    out = tmp_path / "page.html"
    assert main(["compare", str(a.path), str(b.path), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(out.with_suffix(".json").read_text())
    assert said["paired"]["p_mid"] == 1.0
    first = out.read_bytes()
    assert main(["compare", str(a.path), str(b.path), "--out", str(out)]) == 0
    assert out.read_bytes() == first
    assert main(["compare", str(a.path), str(b.path), "--split", "val"]) == 2
    assert "has no answers of the val split" in capsys.readouterr().err
    other = made_run(tmp_path / "c", drawn_answers(299, 4))
    assert main(["compare", str(a.path), str(other.path)]) == 2
    assert "not measured on the same images" in capsys.readouterr().err
    assert main(["compare", str(a.path)]) == 2
    found.save(tmp_path / "f.safetensors")
    assert main(["compare", str(a.path), str(tmp_path / "f.safetensors")]) == 0
    c, d = made_run(tmp_path / "a2", found), made_run(tmp_path / "b2", found)
    assert main(["compare", str(a.path), str(c.path), "--to", str(b.path), "--to", str(d.path)]) == 0
    assert "2 runs each" in capsys.readouterr().out
    assert main(["compare", str(a.path), str(tmp_path / "nowhere")]) == 2
    assert "there is no such run or file" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="holds no answers"):
        vitrail.compare(str(a.path), _model_file(tmp_path))
    with pytest.raises(RunError):
        vitrail.compare(str(a.path), tmp_path / "nothing")


def _model_file(folder: Path) -> str:
    model, card = vitrail.load("builtin:cifar100")
    vitrail.save(folder / "m.safetensors", model, card)
    return str(folder / "m.safetensors")


def test_model_files_are_measured_first(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for label in ("apple", "bear"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(6):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    made = vitrail.compare(
        "builtin:cifar100", "builtin:cifar100-conv", data=tmp_path / "images", out=tmp_path / "p.html"
    )
    assert made.num_examples == 12
    assert made.split == "all"
    assert (tmp_path / "p.html").stat().st_size > 10_000


def test_names_of_strangers_are_text(tmp_path: Path) -> None:
    found = drawn_answers(240, len(HOSTILE), scale=2.0)
    assert found.logits is not None
    draw = np.random.default_rng(1)
    plain = [found, answers(found.labels, found.logits + draw.normal(size=found.logits.shape), found.classes)]
    names = [f"{i}{HOSTILE[i % len(HOSTILE)].replace(chr(0), '')}" for i in range(240)]
    odd = [replace(p, classes=HOSTILE, names=names) for p in plain]
    pages = []
    for number, pair in enumerate((plain, odd)):
        runs = [made_run(tmp_path / f"{number}{side}", p).path for side, p in zip("ab", pair, strict=True)]
        vitrail.compare(*runs, out=tmp_path / f"{number}.html")
        pages.append(Elements((tmp_path / f"{number}.html").read_text(encoding="utf-8")))
    assert pages[0].tags == pages[1].tags
    assert pages[0].tags["strong"] > 10
    assert "alert(1)" in pages[1].text
    assert "\u202e" not in pages[1].text
    assert not any(name.startswith("on") for _, name, _ in pages[1].attributes)
