"""The page in a browser, from the real server: every way in, every state, hostile words, and nothing that leaves the
machine.

What a real server does rarely (it is busy, it makes a mistake, its classes are hostile) is answered in its place.
"""

import io
import json
import re
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.served import Served, served
from vitrail.config import Preprocessing
from vitrail.data.fit import _centre_box, _resized_centre
from vitrail.predictor.exported import ExportedPredictor

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path(shutil.which("chromium") or "/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip("no Chromium", allow_module_level=True)
expect = sync_api.expect

FILES = Path(__file__).resolve().parents[2] / "src/vitrail/serving/page"
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
PHOTOGRAPHS = [
    Path(sysconfig.get_path("purelib"), "sklearn/datasets/images", name) for name in ("china.jpg", "flower.jpg")
]
FIVE = ["JPEG", "PNG", "WebP", "BMP", "GIF"]
LABELS = ("apple", "bee", "camel", "dolphin", "elephant", "fox")
Answer = dict[str, Any] | tuple[int, dict[str, str], dict[str, Any]]
"""JSON, or a status, headers and JSON."""


def predicted(label: str = "apple", probability: float = 0.75, known: bool = True) -> dict[str, Any]:
    """An answer of /predict to one image."""
    rest = [one for one in LABELS if one != label][:4]
    top = [(label, probability), *((one, (1 - probability) / 2 ** (i + 1)) for i, one in enumerate(rest))]
    ranked = [{"label": name, "probability": p} for name, p in top]
    one = {"label": label if known else "unknown", "probability": probability, "known": known, "top": ranked}
    model = {"name": "fruit and beasts", "version": "1"}
    return {
        "model": model,
        "predictions": [one],
        "errors": [],
        "seconds": {"queue": 0.0, "decode": 0.01, "model": 0.02},
    }


def photo(colour: str = "teal", size: tuple[int, int] = (60, 40), format: str = "JPEG") -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


def files(**content: bytes) -> list[dict[str, Any]]:
    """Files as a browser is handed them; a_jpg is called a.jpg."""
    return [{"name": k.replace("_", "."), "mimeType": "", "buffer": v} for k, v in content.items()]


class Opened:
    """The page in a browser of its own, and everything it said and asked.

    Args:
        model: what /model answers otherwise.
        answers: of a route, in place of the server's own, which come again when these are used up.
    """

    def __init__(
        self,
        browser: Any,
        url: str,
        *,
        model: dict[str, Any] | None = None,
        answers: dict[str, Sequence[Answer]] | None = None,
        **settings: Any,
    ) -> None:
        self.url, self.model = f"{url}/", model or {}
        self.said, self.abroad, self.requests = list[str](), list[str](), list[str]()
        self.uploads, self.most_uploads = 0, 0
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.context.route(lambda asked: not asked.startswith((self.url, "blob:")), self._refuse)
        self.page.route(f"{self.url}model", self._changed)
        for route, those in (answers or {}).items():
            self.page.route(f"{self.url}{route}*", self._answering(iter(those)))
        self.page.on("request", self._count)
        for event in ("requestfinished", "requestfailed"):
            self.page.on(event, self._end)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        violation = "addEventListener('securitypolicyviolation', (e) => console.error('policy', e.violatedDirective))"
        self.page.add_init_script(violation)
        self.headers = self.page.goto(self.url).headers

    def _refuse(self, route: Any) -> None:
        self.abroad.append(route.request.url)
        route.abort()

    def _changed(self, route: Any) -> None:
        if not self.model:
            return route.fallback()
        answer = route.fetch()
        return route.fulfill(response=answer, json=answer.json() | self.model)

    def _answering(self, answers: Iterator[Answer]) -> Callable[[Any], None]:
        def handle(route: Any) -> None:
            answer = next(answers, None)
            if answer is None:
                return route.fallback()
            status, headers, content = answer if isinstance(answer, tuple) else (200, {}, answer)
            return route.fulfill(status=status, headers=headers, json=content)

        return handle

    def _count(self, request: Any) -> None:
        self.requests.append(request.url.removeprefix(self.url.rstrip("/")).partition("?")[0])
        self.uploads += request.method == "POST"
        self.most_uploads = max(self.most_uploads, self.uploads)

    def _end(self, request: Any) -> None:
        self.uploads -= request.method == "POST"

    def choose(self, chosen: Any) -> None:
        """Hand files to the page's field, as its button does."""
        self.page.set_input_files("#files", chosen)

    @property
    def cards(self) -> Any:
        return self.page.locator(".card")

    def drop(self, **data: Any) -> None:
        """Drop files or a link onto the page, as a hand would."""
        session = self.context.new_cdp_session(self.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "x": 200, "y": 300, "data": {"items": [], "dragOperationsMask": 1} | data}
            session.send("Input.dispatchDragEvent", event)

    def close(self) -> None:
        self.context.close()
        refused = "Failed to load resource: the server responded with a status of"
        assert [said for said in self.said if not said.startswith(refused)] == []
        assert self.abroad == []


Visit = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, with a camera that shows a pattern."""
    sync_api.expect.set_options(timeout=20_000)
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(CAMERA))


@pytest.fixture
def visit(browser: Any, server: Served) -> Iterator[Visit]:
    """Opens the page; asserts at the end that it said nothing, asked nobody else, and broke no policy."""
    opened: list[Opened] = []

    def one(*, url: str = server.url, **settings: Any) -> Opened:
        opened.append(Opened(browser, url, **settings))
        return opened[-1]

    yield one
    for each in opened:
        each.close()


def test_photographs_are_ranked_as_in_python_and_explained(visit: Visit, model_file: Path) -> None:
    here = visit()
    assert "require-trusted-types-for 'script'" in here.headers["content-security-policy"]
    here.choose(PHOTOGRAPHS)
    expect(here.cards.locator(".ranks")).to_have_count(2)
    for card, expected in zip(here.cards.all(), ExportedPredictor(model_file)(PHOTOGRAPHS), strict=True):
        expect(card.locator(".ranks bdi")).to_have_text([one.label for one in expected.top])
        shown = [float(text.rstrip("\u202f%")) for text in card.locator(".ranks data").all_inner_texts()]
        assert shown == pytest.approx([100 * one.probability for one in expected.top], abs=0.06)
    here.cards.first.get_by_role("button", name="Explain").click()
    expect(here.page.locator("#picture canvas")).to_be_visible()
    expect(here.page.locator("#map-text bdi")).to_have_text(here.cards.first.locator("bdi").nth(1).inner_text())
    here.page.keyboard.press("Escape")
    here.choose(files(a_jpg=PHOTOGRAPHS[0].read_bytes()[:9000]))
    expect(here.cards.first.locator(".failed")).to_contain_text("truncated")
    assert set(here.requests) >= {"/", "/model", "/predict", "/explain"}
    assert "/favicon.ico" not in here.requests


def test_chosen_images_are_said_aloud_and_copied(visit: Visit) -> None:
    answers = [predicted("bee", 0.99999), predicted("fox", 0.301, known=False)]
    here = visit(answers={"predict": answers}, permissions=["clipboard-read", "clipboard-write"])
    with here.page.expect_file_chooser() as chooser:
        here.page.get_by_role("button", name="Choose images").click()
    assert chooser.value.is_multiple()
    accepted = chooser.value.element.get_attribute("accept") or ""
    assert {"image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"} <= set(accepted.split(","))
    assert "*" not in accepted
    chooser.value.set_files(files(a_jpg=photo()))
    expect(here.cards.locator(".ranks bdi")).to_have_text(["bee", "apple", "camel", "dolphin", "elephant"])
    expect(here.cards.locator(".ranks data").first).to_have_text("> 99.9\u202f%")
    live = here.page.locator("#live[aria-live=polite]")
    expect(live).to_have_text("a.jpg: bee > 99.9\u202f%")
    here.choose(files(b_png=photo("blue", format="PNG")))
    newest = here.cards.first
    expect(newest.locator(".unknown")).to_contain_text("Unknown")
    expect(newest.locator(".ranks data").first).to_have_text("30.1\u202f%")
    expect(live).to_have_text("b.png: unknown, closest fox 30.1\u202f%")
    turns = "(p) => { p.className = 'state is-reading'; return getComputedStyle(p, '::before').animationName; }"
    assert here.page.locator("#notice p").evaluate(turns) == "turn"
    here.page.emulate_media(reduced_motion="reduce")
    assert here.page.locator("#notice p").evaluate(turns) == "none"
    width = newest.locator(".bar span").first.evaluate("(bar) => bar.offsetWidth / bar.parentElement.offsetWidth")
    assert width == pytest.approx(0.301, abs=0.01)

    here.page.get_by_role("button", name="Copy all as JSON").click()
    expect(here.page.get_by_role("button", name="Copied")).to_be_visible()
    copied = json.loads(here.page.evaluate("navigator.clipboard.readText()"))
    found = [(one["file"], one["label"], one["known"], one["model"]["version"]) for one in copied]
    assert found == [("b.png", "unknown", False, "1"), ("a.jpg", "bee", True, "1")]


def test_files_and_folders_are_dropped_anywhere_and_links_are_not_fetched(visit: Visit, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in {"10.jpg": photo(), "9.jpg": photo(), "notes.txt": b"no image"}.items():
        (folder / name).write_bytes(content)
    here = visit()
    here.drop(items=[{"mimeType": "text/uri-list", "data": "https://example.org/cat.jpg"}])
    expect(here.page.locator("#notice")).to_contain_text("That is a link")
    here.drop(files=[str(folder)])
    expect(here.cards.locator("h3")).to_have_text(["9.jpg", "10.jpg"])
    expect(here.cards.locator(".ranks")).to_have_count(2)
    expect(here.page.locator("#notice")).to_be_hidden()
    expect(here.page.locator("#veil")).to_be_hidden()


def test_an_image_is_pasted(visit: Visit) -> None:
    here = visit(permissions=["clipboard-read", "clipboard-write"])
    here.page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 6 });
          canvas.getContext("2d").fillRect(0, 0, 4, 4);
          const blob = await new Promise((done) => canvas.toBlob(done));
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }"""
    )
    here.page.keyboard.press("Control+V")
    expect(here.cards.locator(".ranks")).to_have_count(1)
    here.page.evaluate("navigator.clipboard.writeText('https://example.org/cat.jpg')")
    here.page.keyboard.press("Control+V")
    expect(here.page.locator("#notice")).to_contain_text("That is a link")
    assert here.requests.count("/predict") == 1


def test_the_camera_is_let_go_after_the_photograph(visit: Visit) -> None:
    here = visit()
    here.page.get_by_role("button", name="Use the camera").click()
    here.page.get_by_role("button", name="Take the photo").click()
    expect(here.cards.locator(".ranks")).to_have_count(1)
    expect(here.cards.locator("h3")).to_contain_text("camera ")
    assert here.page.evaluate("document.querySelector('#video').srcObject") is None
    assert here.cards.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") >= 320


def test_everything_is_reached_by_the_keyboard(visit: Visit) -> None:
    explained = {"label": "apple", "grid": [1, 2], "values": [0.5, 0.1]}
    here = visit(answers={"predict": [predicted()] * 2, "explain": [explained]})
    here.choose(files(a_jpg=photo(), b_jpg=photo()))
    expect(here.cards.locator(".ranks")).to_have_count(2)
    reached = []
    while True:
        here.page.keyboard.press("Tab")
        name = here.page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent.trim()")
        if here.page.evaluate("document.activeElement === document.body"):
            break
        assert here.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", name
        reached.append(name)
    of_card = ["Enlarge {}", "Explain: {}", "Copy JSON: {}", "Remove: {}"]
    start = ["Show the classes", "Choose images", "Use the camera", "Copy all as JSON", "Clear"]
    assert reached[: len(start) + 8] == start + [name.format(file) for file in ("a.jpg", "b.jpg") for name in of_card]

    here.page.get_by_role("button", name="Enlarge a.jpg").focus()
    here.page.keyboard.press("Enter")
    switch = here.page.get_by_role("switch")
    expect(switch).not_to_be_checked()
    switch.focus()
    here.page.keyboard.press("Space")
    expect(here.page.locator("#picture canvas")).to_be_visible()
    here.page.get_by_label("Strength").focus()
    here.page.keyboard.press("Home")
    expect(here.page.locator("#picture canvas")).to_have_css("opacity", "0")
    here.page.keyboard.press("Escape")
    expect(here.page.locator("#viewer")).to_be_hidden()
    assert here.page.evaluate("document.activeElement.ariaLabel") == "Enlarge a.jpg"
    here.page.get_by_role("button", name="Remove: a.jpg").focus()
    here.page.keyboard.press("Enter")
    assert here.page.evaluate("document.activeElement.ariaLabel") == "Enlarge b.jpg"


SEEN = (
    ({"resize_mode": "crop", "decode_size": (32, 32)}, (61, 40)),
    ({"resize_mode": "crop", "decode_size": (20, 40)}, (50, 50)),
    ({"resize_mode": "crop", "decode_size": (32, 32), "resize_size": (40, 40)}, (50, 80)),
    ({"resize_mode": "squash", "decode_size": (32, 32), "resize_size": (40, 64)}, (50, 80)),
)
"""How a model reads an image, and the width and height of one."""


def test_the_map_lies_over_what_the_model_sees(visit: Visit) -> None:
    explained = {"label": "apple", "probability": 0.75, "grid": [2, 2], "values": [0.5, -0.25, 0.0, 0.1]}
    here = visit(answers={"explain": [explained] * len(SEEN)})
    for preprocessing, size in SEEN:
        here.model["preprocessing"] = {"resize_size": None} | preprocessing
        here.page.goto(here.url)
        here.choose(files(a_png=photo(size=size, format="PNG")))
        here.page.get_by_role("button", name="Explain: a.png").click()
        expect(here.page.locator("#picture canvas")).to_be_visible()
        expected = seen_part(Preprocessing(image_size=(32, 32), **preprocessing), *size)
        found = here.page.evaluate(
            """() => [".seen", "canvas"].map((what) => {
              const [inner, outer] = [document.querySelector(`#picture ${what}`), document.querySelector("#picture")];
              const [a, b] = [inner.getBoundingClientRect(), outer.getBoundingClientRect()];
              return [(a.x - b.x) / b.width, (a.y - b.y) / b.height, a.width / b.width, a.height / b.height];
            })"""
        )
        half_a_pixel_of_the_model = 0.5 / 32
        assert found[0] == pytest.approx(expected, abs=half_a_pixel_of_the_model), preprocessing
        assert found[1] == pytest.approx(expected, abs=half_a_pixel_of_the_model), preprocessing
    draw = "(c) => [...c.getContext('2d').getImageData(0, 0, 2, 2).data]"
    cells = here.page.locator("#picture canvas").evaluate(draw)
    orange, blue, nothing, weak = (cells[i : i + 4] for i in (0, 4, 8, 12))
    assert orange[0] > orange[2] and orange[3] == 255
    assert blue[2] > blue[0] and 100 < blue[3] < 200
    assert nothing[3] == 0 and 0 < weak[3] < 100
    expect(here.page.locator("#seen-text")).to_be_visible()


def seen_part(settings: Preprocessing, width: int, height: int) -> list[float]:
    """Left, top, width and height of what the decoder keeps, in fractions of the image."""
    rows, columns = settings.decode_size
    if settings.resize_size is None:
        left, top, right, bottom = _centre_box(width, height, columns, rows)
        return [left / width, top / height, (right - left) / width, (bottom - top) / height]
    whole_width, whole_height, x, y = _resized_centre((width, height), settings, settings.resize_size)
    return [x / whole_width, y / whole_height, columns / whole_width, rows / whole_height]


def test_a_busy_server_is_left_alone_for_as_long_as_it_says(visit: Visit) -> None:
    busy = (503, {"Retry-After": "1"}, {"error": "The server is busy.", "do": None})
    here = visit(answers={"predict": [busy] * 2})
    here.choose(files(a_jpg=photo(), b_jpg=photo(), c_jpg=photo(), d_jpg=photo()))
    expect(here.page.get_by_text("The server is busy. Next try in")).to_have_count(2)
    here.page.wait_for_timeout(500)
    assert here.requests.count("/predict") == 2
    expect(here.cards.locator(".ranks")).to_have_count(4)
    assert here.requests.count("/predict") == 6


def test_what_fails_says_why_and_may_be_tried_again(visit: Visit) -> None:
    damaged = {"error": "The image cannot be read.", "got": "damaged JPEG image", "do": "curl", "request_id": "1"}
    fault = {"error": "The server made a mistake.", "got": None, "do": "Report it.", "request_id": "abc123"}
    here = visit(answers={"predict": [(422, {}, damaged), (500, {}, fault)]}, model={"explain": False})
    here.choose(files(a_jpg=photo()))
    expect(here.cards.first.locator(".failed p")).to_have_text(["The image cannot be read.", "damaged JPEG image."])
    expect(here.page.get_by_role("button", name="Retry: a.jpg")).to_have_count(0)
    here.choose(files(b_jpg=photo()))
    expect(here.cards.first.locator(".failed")).to_contain_text("abc123")
    here.page.get_by_role("button", name="Retry: b.jpg").click()
    expect(here.cards.first.locator(".ranks")).to_be_visible()
    here.page.get_by_role("button", name="Enlarge b.jpg").click()
    expect(here.page.locator("#viewer .ranks")).to_be_visible()
    expect(here.page.get_by_role("switch")).to_have_count(0)
    expect(here.page.get_by_role("button", name="Explain")).to_have_count(0)


def test_files_that_the_server_would_refuse_are_not_sent(visit: Visit) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    here = visit(model={"formats": FIVE, "limits": {"max_body_bytes": 50_000}})
    expect(here.page.locator("#accepted")).to_have_text("JPEG, PNG, WebP, BMP or GIF, up to 50 kB each.")
    here.choose(files(a_jpg=b"", b_jpg=b"not an image", c_heic=heic, d_svg=svg, e_jpg=photo() + bytes(60_000)))
    expect(here.cards.locator(".failed p:first-child")).to_have_text(
        [
            "The file is empty.",
            "This is not an image of a kind that the server reads.",
            "This browser cannot read HEIC images, and the server does not either.",
            "This is not an image of a kind that the server reads.",
            "The file has 61 kB; the server takes 50 kB at most.",
        ]
    )
    assert "/predict" not in here.requests


def test_an_image_of_another_kind_is_converted_by_the_browser(visit: Visit) -> None:
    here = visit(model={"formats": FIVE})
    with here.page.expect_request("**/predict*") as request:
        here.choose(files(a_avif=photo("teal", (64, 48), "AVIF")))
    assert request.value.headers["content-type"] == "image/jpeg"
    expect(here.cards.locator(".ranks")).to_have_count(1)
    expect(here.cards).to_contain_text("converted in the browser")


def test_fifty_images_are_sent_two_at_a_time(visit: Visit) -> None:
    here = visit()
    here.choose([{"name": f"{i}.jpg", "mimeType": "image/jpeg", "buffer": photo()} for i in range(50)])
    expect(here.page.locator("#summary")).to_have_text("50 images read")
    assert here.most_uploads == 2
    here.page.get_by_role("button", name="Clear").click()
    expect(here.cards).to_have_count(0)
    expect(here.page.locator("#results")).to_be_hidden()


def test_a_token_is_asked_for_and_kept_in_memory_only(visit: Visit, model_file: Path, tmp_path: Path) -> None:
    right = "to-be-told-to-friends-only"
    (tmp_path / "token").write_text(right)
    with served(model_file, "--token-file", str(tmp_path / "token"), "--decoders", "1") as guarded:
        here = visit(url=guarded.url)
        field = here.page.get_by_label("Token")
        expect(field).to_be_focused()
        here.choose(files(a_jpg=photo()))
        field.fill("wrong")
        field.press("Enter")
        expect(here.page.locator("#token-help")).to_have_text("The token is missing or wrong.")
        field.fill(right)
        field.press("Enter")
        expect(here.page.locator("h1")).to_have_text(guarded.card["name"])
        expect(here.cards.locator(".ranks")).to_have_count(1)
        kept = "[localStorage.length, sessionStorage.length, document.cookie, location.href]"
        assert here.page.evaluate(kept) == [0, 0, "", here.url]


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\u202egpj.exe\u2066",
    "W" * 200,
    "\u4e00\u53ea\u6a59\u8272\u7684\u732b",
    "\u0642\u0637\u0629",
)


def test_hostile_words_stay_words_on_a_narrow_accessible_page(visit: Visit) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    one = {"label": HOSTILE[0], "probability": 0.5, "known": True}
    one["top"] = [{"label": label, "probability": 0.5 / 2**i} for i, label in enumerate(HOSTILE)]
    refused = (422, {}, {"error": HOSTILE[2], "got": HOSTILE[0]})
    explained = {"label": HOSTILE[1], "probability": 0.5, "grid": [1, 2], "values": [0.1, 0.2]}
    here = visit(
        model={"name": HOSTILE[0], "classes": HOSTILE},
        answers={"predict": [refused, predicted() | {"predictions": [one]}], "explain": [explained]},
        viewport={"width": 320, "height": 568},
    )

    def check(state: str) -> None:
        assert here.page.evaluate("document.documentElement.scrollWidth") <= 320, state
        for scheme in ("light", "dark"):
            here.page.emulate_media(color_scheme=scheme)
            found = axe.run(here.page).response["violations"]
            assert [(scheme, state, one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []

    here.page.get_by_text("Show the classes").click()
    expect(here.page.locator("#classes bdi")).to_have_text(list(HOSTILE))
    check("empty")
    here.choose(files(a_jpg=photo()))
    expect(here.cards.locator(".failed")).to_be_visible()
    here.choose([{"name": HOSTILE[0].replace("/", "") + "W" * 150, "mimeType": "image/jpeg", "buffer": photo()}])
    expect(here.cards.locator(".ranks bdi")).to_have_text(list(HOSTILE))
    here.drop(items=[{"mimeType": "text/uri-list", "data": "https://example.org/"}])
    check("results")
    here.cards.first.get_by_role("button", name="Explain").click()
    expect(here.page.locator("#picture canvas")).to_be_visible()
    expect(here.page.locator("#map-text bdi")).to_have_text(HOSTILE[1])
    check("map")
    overflow = "(d) => d.scrollWidth - d.clientWidth"
    assert here.page.locator("#viewer").evaluate(overflow) == 0
    assert here.page.locator("img[src=x]").count() == 0


def test_the_files_are_small_plain_and_ask_nobody_else() -> None:
    content = {file.name: file.read_text("ascii") for file in FILES.iterdir()}
    assert set(content) == {"index.html", "app.css", "app.js", "icon.svg"}
    assert sum(map(len, content.values())) < 60_000
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Storage", "cookie"):
        assert word not in content["app.js"], word
    for name, text in content.items():
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src)", content["index.html"])
