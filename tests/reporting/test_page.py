"""The page: what strangers' names do to it, that it is the same twice, small, private, and read without a script."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrail
from tests.support.answered import answers, drawn_answers, made_run
from vitrail.cli import main
from vitrail.data.decode import thumbnail
from vitrail.reporting.page.drawing import LIGHT, Dot, Drawing, Shape, Text, cividis, ink_on, rectangle, ticks
from vitrail.reporting.page.html import _file  # pyright: ignore[reportPrivateUsage]
from vitrail.run import Predictions

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\"';--><svg onload=alert(1)>",
    "right\u202eto left\u2066",
    "x" * 300,
    "\u72d7\u732b",
    "\u0642\u0637\u0629",
    "\U0001f415",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; \x1b[31m\x00",
    "javascript:alert(1)",
    "</style><base href=//x>",
)


class Elements(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self._inside = tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def with_names(found: Predictions, classes: tuple[str, ...], suffix: str) -> Predictions:
    names = [
        f"{name}{suffix.format(classes[i % len(classes)].replace(chr(0), ''))}" for i, name in enumerate(found.names)
    ]
    return replace(found, classes=classes, names=names)


def page_of(path: Path, found: Predictions) -> str:
    run = made_run(path, found)
    vitrail.report(run.path)
    return (run.path / "report.html").read_text(encoding="utf-8")


def test_names_of_strangers_stay_text(tmp_path: Path) -> None:
    found = drawn_answers(400, len(HOSTILE), scale=1.0, unreadable=[(f"{HOSTILE[0]}.png", HOSTILE[1])])
    plain = tuple(f"plain{i}" for i in range(len(HOSTILE)))
    harmless = Elements(page_of(tmp_path / "a", with_names(found, plain, "{}")))
    text = page_of(tmp_path / "b", with_names(found, HOSTILE, "{}"))
    page = Elements(text)
    assert page.tags == harmless.tags
    assert page.tags["script"] == page.tags["style"] == 1
    kinds = {(tag, name) for tag, name, _ in page.attributes}
    assert kinds == {(tag, name) for tag, name, _ in harmless.attributes}
    assert not any(name.startswith("on") or name == "style" for _, name in kinds)
    for name in ("id", "href", "src", "class", "data-classes", "value", "data-v"):
        values = [value for _, attribute, value in page.attributes if attribute == name]
        assert sorted(values) == sorted(v for _, attribute, v in harmless.attributes if attribute == name)
    assert all(re.fullmatch(r"[MLaZ\d .-]+", value) for _, name, value in page.attributes if name == "d")
    for shown in (HOSTILE[0], HOSTILE[1], HOSTILE[5], HOSTILE[6], HOSTILE[7], "{{ 7 * 7 }}", "\\u202e", "\\x1b[31m"):
        assert shown in page.text
    assert "x" * 300 in page.text  # whole in the table of classes; elsewhere its middle is left out
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", text)


def test_only_its_own_script_and_style_may_run(tmp_path: Path) -> None:
    text = page_of(tmp_path / "run", drawn_answers(100, 3))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    said = policy[1].replace("&#39;", "'")
    assert said.startswith("default-src 'none'; img-src data:;")
    for name, rule in (("script", "script-src"), ("style", "style-src")):
        inside = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        assert inside is not None
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in said
    assert not re.search(r"https?://|url\(|@import", text)


def test_figures_of_the_page_are_those_of_the_json(tmp_path: Path) -> None:
    found = drawn_answers(500, 8, scale=2.0)
    page = Elements(page_of(tmp_path / "run", found))
    told = json.loads((tmp_path / "run" / "report.json").read_text())
    numbers: set[str] = set()

    def collect(value: object) -> None:
        if isinstance(value, dict):
            for one in value.values():
                collect(one)
        elif isinstance(value, list):
            for one in value:
                collect(one)
        elif isinstance(value, float):
            numbers.add(repr(value))

    collect(told)
    shown = {value for tag, name, value in page.attributes if (tag, name) == ("data", "value")}
    assert len(shown) > 100
    assert shown <= numbers
    assert repr(told["measured"]["accuracy"]["value"]) in shown


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    found = drawn_answers(450, 12, scale=1.0)
    first, second = page_of(tmp_path / "a" / "run", found), page_of(tmp_path / "b" / "run", found)
    assert first == second
    one, two = ((tmp_path / where / "run" / "report.json").read_bytes() for where in "ab")
    assert one == two


def photographs(root: Path, count: int) -> tuple[list[str], np.ndarray]:
    """A folder of two classes of large noisy JPEGs with EXIF."""
    draw = np.random.default_rng(0)
    names: list[str] = []
    for label in "ab":
        (root / label).mkdir(parents=True)
        for i in range(count):
            image = Image.fromarray(draw.integers(0, 256, (300, 400, 3), np.uint8).repeat(2, 0))
            exif = Image.Exif()
            exif[0x010E] = "secret place"
            exif[0x0112] = 6
            image.save(root / label / f"{i:02}.jpg", exif=exif, quality=60)
            names.append(f"{label}/{i:02}.jpg")
    return names, np.repeat([0, 1], count)


def test_pictures_are_small_upright_and_keep_no_secrets(tmp_path: Path) -> None:
    names, labels = photographs(tmp_path / "photos", 12)
    logits = np.random.default_rng(1).normal(size=(24, 2))
    found = answers(labels, logits, ["a", "b"], split="train", names=names, data=str(tmp_path / "photos"))
    run = made_run(tmp_path / "run", found)
    report = vitrail.report(run.path)
    text = (run.path / "report.html").read_text()
    assert report.data is not None and not report.data.problem
    assert report.data.counts == {"train": (12, 12)}
    assert ("JPEG", 24) in report.data.formats
    pictures = re.findall(r'src="data:image/(\w+);base64,([^"]+)" width="(\d+)" height="(\d+)"', text)
    assert len(pictures) >= 10
    for kind, encoded, width, height in pictures:
        raw = base64.b64decode(encoded)
        assert kind == "webp" and b"secret" not in raw and b"Exif" not in raw
        assert (int(width), int(height)) == (128, 85)  # turned: 400 x 600 lies as 600 x 400
    vitrail.report(run.path, images=False)
    assert "data:image" not in (run.path / "report.html").read_text()


def test_a_thumbnail_is_the_whole_image(tmp_path: Path) -> None:
    across = np.linspace(0, 255, 3000).astype(np.uint8)
    Image.fromarray(np.broadcast_to(across, (1000, 3000)).copy()).convert("RGB").save(tmp_path / "wide.jpg")
    small = thumbnail(tmp_path / "wide.jpg", 128)
    assert small.shape == (43, 128, 3)
    assert small[20, 0].mean() < 8 and small[20, -1].mean() > 247
    Image.fromarray(np.zeros((5, 9, 3), np.uint8)).save(tmp_path / "small.png")
    assert thumbnail(tmp_path / "small.png", 128).shape == (5, 9, 3)


def test_data_that_changed_are_not_shown(tmp_path: Path) -> None:
    names, labels = photographs(tmp_path / "photos", 3)
    logits = np.random.default_rng(1).normal(size=(6, 2))
    found = answers(1 - labels, logits, ["a", "b"], split="train", names=names, data=str(tmp_path / "photos"))
    report = vitrail.report(made_run(tmp_path / "run", found).path)
    assert report.data is not None and "not those any more" in report.data.problem
    assert "data:image" not in (tmp_path / "run" / "report.html").read_text()


def test_no_folder_of_the_machine_is_told(tmp_path: Path) -> None:
    home = tmp_path / "home" / "anna.example"
    names, labels = photographs(home / "photos", 4)
    logits = np.random.default_rng(1).normal(size=(8, 2))
    spec = str(home / "photos")
    found = answers(
        labels, logits, ["a", "b"], split="train", names=names, data=spec, unreadable=[("a/x.jpg", f"{spec}/a/x.jpg")]
    )
    run = made_run(home / "run", found, spec=spec)
    vitrail.report(run.path, out=tmp_path / "page.html")
    texts = [(tmp_path / f"page.{kind}").read_text() for kind in ("html", "json")]
    assert not any("anna" in text or str(tmp_path) in text for text in texts)
    vitrail.report(run.path, out=tmp_path / "page.html", with_host=True)
    assert "anna.example" in (tmp_path / "page.html").read_text()


@pytest.mark.long
def test_png_files_of_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = with_names(drawn_answers(300, len(HOSTILE), scale=2.0), HOSTILE, "")
    run = made_run(tmp_path / "run", found)
    for folder in ("one", "two"):
        vitrail.report(run.path, png=tmp_path / folder)
    made = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert made == ["accuracy.png", "confusion.png", "coverage.png", "loss.png", "lr.png", "reliability.png"]
    for name in made:
        with Image.open(tmp_path / "one" / name) as image:
            assert image.width > 500 and len(np.unique(np.asarray(image.convert("L")))) > 10
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_png_has_the_shapes_where_the_page_has_them() -> None:
    pytest.importorskip("matplotlib")
    from vitrail.reporting.page.png import png

    names: list[Shape] = [Text(5, 12 * i + 10, name) for i, name in enumerate(HOSTILE)]
    shapes: list[Shape] = [rectangle(100, 50, 40, 20, "a"), Dot(20, 80, "b", "diamond"), *names]
    made = png(Drawing("one", "one", 200, 160, shapes))
    with Image.open(io.BytesIO(made)) as image:
        assert image.size == (300, 240)
        assert image.convert("RGB").getpixel((180, 90)) == (0x00, 0x72, 0xB2)
    assert png(Drawing("one", "one", 200, 160, shapes)) == made


def test_text_for_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "run", drawn_answers(300, 3))
    assert main(["report", str(run.path), "--text"]) == 0
    told = capsys.readouterr().out
    assert "training loss: first 2, last 0.05" in told
    assert "accuracy, val: first 0.2, last 0.8" in told
    assert not (run.path / "report.html").exists()
    from vitrail.reporting import Private, make, of_run
    from vitrail.reporting.text import curve_lines

    report, _ = make(of_run(run, None, Private()), {}, run.read_config().data, Private())
    assert "\n".join(curve_lines(report, unicode=False)).isascii()
    assert "\u2588" in "\n".join(curve_lines(report, unicode=True))


PROGRAM = """
import sys
from vitrail.cli import main
status = main(["report", sys.argv[1]])
print(status, *sorted({"torch", "matplotlib", "sklearn"} & set(sys.modules)))
with open("/proc/self/status") as file:  # not getrusage, which counts what the parent had before exec
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("size", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_report_without_torch_in_little_memory(tmp_path: Path, size: int) -> None:
    """Images of 100 classes, with all logits."""
    made_run(tmp_path / "run", drawn_answers(size, 100, scale=2.5))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    *_, loaded, peak = done.stdout.splitlines()
    assert loaded == "0"
    assert int(peak) < 500 * 1024
    assert (tmp_path / "run" / "report.html").stat().st_size < 3_000_000


def test_colours() -> None:
    css = _file("page.css")
    assert all(f"--{name}: {value}" in css for name, value in LIGHT.items())
    assert (cividis(0), cividis(1)) == ("#00224e", "#fee838")
    assert (ink_on(cividis(0)), ink_on(cividis(1))) == ("#ffffff", "#000000")


def test_ticks_are_round() -> None:
    assert ticks(0, 1, 4) == [0, 0.5, 1]
    assert ticks(0, 900, 7) == [0, 200, 400, 600, 800]
    assert ticks(0, 2.3, 4) == [0, 1, 2]
    assert ticks(3, 3) == [3]
