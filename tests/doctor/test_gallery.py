"""The page: strangers' names are text, no request, few and small images."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doctor.planted import jpeg, mirrored, picture
from vitrail import data
from vitrail.config import DataConfig
from vitrail.data.sources import Source
from vitrail.data.sources.index import array_split
from vitrail.doctor.gallery import MOST_IMAGES, thumbnail, write_gallery

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\"';--{{ 7 * 7 }}",
    "\u202eevil\u2066",
    "x" * 300,
    "\u732b \u0642\u0637\u0629 \U0001f408",
)
ELEMENTS = set(
    """html head meta title style body header main section h1 h2 p code span strong a br div table thead tbody tr th td
    ul li figure figcaption img""".split()  # noqa: SIM905
)


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, text: str) -> None:
        self.text += text


def hostile_source(count: int) -> Source:
    """Pairs of copies, whose classes and files have names that would do something if they were not escaped."""
    pixels = [np.asarray(change(picture(i, 40))) for i in range(count) for change in (jpeg, mirrored)]
    names = [f"{HOSTILE[i % len(HOSTILE)]}/{i}.png" for i in range(len(pixels))]
    labels = np.arange(len(pixels)) % len(HOSTILE)
    return Source("<b>name", HOSTILE, {"train": array_split(np.stack(pixels), labels, names)}, "")


def findings(source: Source) -> dict[str, Any]:
    """As if every second image had been found to be a copy of the one before, and all to be something else."""
    split = source.splits["train"]

    def image(i: int) -> dict[str, Any]:
        return {"split": "train", "path": split.names[i], "class": source.classes[split.labels[i]], "position": i}

    pairs = [
        {"score": 0.9, "picture": 0.9, "gradient": 0.9, "first": image(i), "second": image(i + 1)}
        for i in range(0, len(split), 2)
    ]
    doubts = [
        {"image": image(i), "suggested": HOSTILE[0], "p_class": 0.1, "p_suggested": 0.8} for i in range(len(split))
    ]
    kinds = {"unreadable": 0, "near duplicates": len(pairs), "suspect labels": len(doubts), "blank": 1}
    odd = [{"kind": "blank", "value": 0.0, "image": image(0)}]
    return {
        "kinds": kinds, "leaks": [], "pairs": pairs, "similar": [], "suspects": doubts, "outliers": [], "odd": odd,
        "label_accuracy": 0.5,
    }  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    source, path = hostile_source(6), tmp_path_factory.mktemp("page") / "page.html"
    exact = {"splits": {"train": {"errors": [], "duplicates": []}}, "leaks": [], "conflicts": [], "notes": [HOSTILE[0]]}
    size = write_gallery(path, source, {**exact, "warnings": [HOSTILE[1]]}, findings(source))
    assert size == path.stat().st_size
    return path.read_text(encoding="utf-8")


def test_names_are_text(text: str) -> None:
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[5], "\\u202eevil\\u2066", "<b>name"):
        assert name in page.text
    assert "\u202e" not in text and "x" * 200 not in text and "49" not in re.sub(r"base64,[^\"]*", "", text)


def test_nothing_is_asked_for(text: str) -> None:
    page = Page(text)
    (policy,) = [a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    sources = [a["src"] or "" for tag, a in page.elements if tag == "img"]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert all((a["href"] or "").startswith("#kind-") for tag, a in page.elements if tag == "a")
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert all(a.get("alt") for tag, a in page.elements if tag == "img")


def test_there_is_a_limit_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    source = hostile_source(170)
    exact = {"splits": {"train": {"errors": [], "duplicates": []}}, "leaks": [], "conflicts": [], "notes": []}
    size = write_gallery(tmp_path / "page.html", source, {**exact, "warnings": []}, findings(source))
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert MOST_IMAGES - 1 <= sum(tag == "img" for tag, _ in page.elements) <= MOST_IMAGES
    assert size < 8 << 20
    assert re.search(r"\d+ of 170 are shown", page.text) and re.search(r"\d+ of 340 are shown", page.text)


def test_large_images_become_small_ones() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 900, 3), dtype=np.uint8)
    data_url, is_whole = thumbnail(noise)
    assert data_url.startswith("data:image/jpeg;base64,") and not is_whole and len(data_url) < 24_000
    assert thumbnail(noise[:8, :8, 0])[1]


def test_a_page_of_what_is_exact(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        picture(0).save(tmp_path / "a" / f"{number}.png")
    import vitrail

    vitrail.check_data(tmp_path, gallery=tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert sum(tag == "img" for tag, _ in page.elements) == 3 and "equal pixels" in page.text
    assert str(tmp_path) not in page.text, "no names of the folders around it"
    assert data.check(DataConfig(spec=str(tmp_path)))["splits"]["train"]["duplicates"]
