"""The page in a browser: every way in, every state, hostile words, and nothing that leaves the machine."""

import io
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitrail.config import Preprocessing
from vitrail.data.fit import _centre_box, _resized_centre

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path(shutil.which("chromium") or "/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip("no Chromium", allow_module_level=True)

expect = sync_api.expect

FILES = Path(__file__).resolve().parents[2] / "src/vitrail/serving/page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self)",
    "Cache-Control": "no-store",
}
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
FORMATS = ("jpeg", "png", "webp", "bmp", "gif")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass
class StandIn:
    """What the page asks of a server, with answers that a test may set."""

    model: dict[str, Any]
    predict: Callable[[bytes], dict[str, Any]]
    explain: Callable[[bytes], dict[str, Any]]
    token: str | None = None
    delay_s: float = 0.0
    refusals: list[tuple[int, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, route: str, body: bytes, token: str | None) -> tuple[int, dict[str, str], dict[str, Any]]:
        if self.token and token != f"Bearer {self.token}":
            return 401, {}, {"error": "the token is missing or wrong", "do": "send Authorization: Bearer TOKEN"}
        if route == "/model":
            return 200, {}, self.model
        with self.lock:
            if self.refusals:
                return self.refusals.pop(0)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.delay_s)
        with self.lock:
            self.at_once -= 1
        if route == "/predict":
            return 200, {}, self.predict(body)
        return 200, {}, self.explain(body)


def serve(stand_in: StandIn, port: int = 0) -> ThreadingHTTPServer:
    """Start the stand-in on a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            stand_in.requests.append(path)
            file = FILES / ("index.html" if path == "/" else path.removeprefix("/static/"))
            if path == "/model":
                self.reply(*stand_in.answer(path, b"", self.headers.get("Authorization")))
            elif file.parent == FILES and file.is_file():
                self.send(200, {"Content-Type": TYPES[file.suffix]}, file.read_bytes())
            else:
                self.reply(404, {}, {"error": f"there is no {path}"})

        def do_POST(self) -> None:
            path = self.path.split("?")[0]
            stand_in.requests.append(path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(*stand_in.answer(path, body, self.headers.get("Authorization")))

        def reply(self, status: int, headers: dict[str, str], answer: dict[str, Any]) -> None:
            self.send(status, {"Content-Type": "application/json", **headers}, json.dumps(answer).encode())

        def send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in (HEADERS | headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # a page that was closed
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


LABELS = ("apple", "bee", "camel", "dolphin", "elephant", "fox")


def predicted(label: str = "apple", probability: float = 0.75, known: bool = True) -> dict[str, Any]:
    """An answer of the server to one image."""
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


def new_stand_in() -> StandIn:
    """A server whose model sees the centre of an image."""
    model = {
        "name": "fruit and beasts",
        "version": "1",
        "classes": list(LABELS),
        "limits": {"max_body_bytes": 200_000, "max_images": 16, "max_pixels": 50_000_000, "timeout_seconds": 30},
        "explain": True,
        "formats": ["JPEG", "PNG", "WebP", "BMP", "GIF"],
        "preprocessing": {"resize_mode": "crop", "decode_size": [32, 32], "resize_size": None},
    }
    explained = {"label": "apple", "probability": 0.75, "grid": [2, 2], "values": [0.5, -0.25, 0.0, 0.1]}
    return StandIn(model, lambda _: predicted(), lambda _: explained)


def photo(colour: str = "teal", size: tuple[int, int] = (60, 40), format: str = "JPEG") -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


def files(**content: bytes) -> list[dict[str, Any]]:
    """Files as a browser is handed them; a_jpg is called a.jpg."""
    return [{"name": k.replace("_", "."), "mimeType": "", "buffer": v} for k, v in content.items()]


class Opened:
    """The page in a browser of its own, and everything it said and asked."""

    def __init__(self, browser: Any, stand_in: StandIn, **settings: Any) -> None:
        self.stand_in, self.said, self.abroad = stand_in, list[str](), list[str]()
        self._server = serve(stand_in)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self.context = browser.new_context(**settings)
        self.context.route(lambda url: not url.startswith(self.url), self._refuse)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        violation = "addEventListener('securitypolicyviolation', (e) => console.error('policy', e.violatedDirective))"
        self.page.add_init_script(violation)
        self.page.goto(self.url)

    def _refuse(self, route: Any) -> None:
        if not route.request.url.startswith("blob:"):
            self.abroad.append(route.request.url)
        route.abort() if self.abroad else route.continue_()

    def choose(self, *chosen: Any) -> None:
        """Hand files to the page's field, as its button does."""
        self.page.set_input_files(
            "#files", [one for some in chosen for one in (some if isinstance(some, list) else [some])]
        )

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
        self._server.shutdown()
        self._server.server_close()
        refused = "Failed to load resource: the server responded with a status of"
        assert [said for said in self.said if not said.startswith(refused)] == []
        assert self.abroad == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, with a camera that shows a pattern."""
    sync_api.expect.set_options(timeout=20_000)
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(CAMERA))


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Opens the page; asserts at the end that it said nothing, asked nobody else, and broke no policy."""
    opened: list[Opened] = []

    def one(stand_in: StandIn | None = None, **settings: Any) -> Opened:
        opened.append(Opened(browser, stand_in or new_stand_in(), **settings))
        return opened[-1]

    yield one
    for each in opened:
        each.close()


def test_chosen_images_are_ranked_said_aloud_and_copied(visit: Callable[..., Opened]) -> None:
    stand_in = new_stand_in()
    stand_in.predict = lambda body: (
        predicted("bee", 0.99999) if b"Exif" in body else predicted("fox", 0.301, known=False)
    )
    here = visit(stand_in, permissions=["clipboard-read", "clipboard-write"])
    expect(here.page.locator("h1")).to_have_text("fruit and beasts")
    with here.page.expect_file_chooser() as chooser:
        here.page.get_by_role("button", name="Choose images").click()
    assert chooser.value.is_multiple()
    assert chooser.value.element.get_attribute("accept") == ",".join(f"image/{f}" for f in FORMATS)

    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (60, 40)).save(file, "JPEG", exif=exif)
    chooser.value.set_files(files(a_jpg=file.getvalue()))
    expect(here.cards.locator(".ranks bdi")).to_have_text(["bee", "apple", "camel", "dolphin", "elephant"])
    expect(here.cards.locator(".ranks data").first).to_have_text("> 99.9\u202f%")
    expect(here.page.locator("#live")).to_have_text("a.jpg: bee > 99.9\u202f%")
    here.choose(files(b_png=photo("blue", format="PNG")))
    newest = here.cards.first
    expect(newest.locator(".unknown")).to_contain_text("Unknown")
    expect(newest.locator(".ranks data").first).to_have_text("30.1\u202f%")
    expect(here.page.locator("#live")).to_have_text("b.png: unknown, closest fox 30.1\u202f%")
    width = newest.locator(".bar span").first.evaluate("(bar) => bar.offsetWidth / bar.parentElement.offsetWidth")
    assert width == pytest.approx(0.301, abs=0.01)

    here.page.get_by_role("button", name="Copy all as JSON").click()
    expect(here.page.get_by_role("button", name="Copied")).to_be_visible()
    copied = json.loads(here.page.evaluate("navigator.clipboard.readText()"))
    assert [(one["file"], one["label"], one["known"]) for one in copied] == [
        ("b.png", "unknown", False),
        ("a.jpg", "bee", True),
    ]
    assert copied[1]["model"] == {"name": "fruit and beasts", "version": "1"}
    assert set(here.stand_in.requests) == {"/", "/model", "/predict"} | {
        f"/static/{n}" for n in ("app.css", "app.js", "icon.svg")
    }


def test_files_and_folders_are_dropped_anywhere_and_links_are_not_fetched(
    visit: Callable[..., Opened], tmp_path: Path
) -> None:
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


def test_an_image_is_pasted(visit: Callable[..., Opened]) -> None:
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
    assert here.stand_in.requests.count("/predict") == 1


def test_the_camera_is_let_go_after_the_photograph(visit: Callable[..., Opened]) -> None:
    here = visit()
    here.page.get_by_role("button", name="Use the camera").click()
    here.page.get_by_role("button", name="Take the photo").click()
    expect(here.cards.locator(".ranks")).to_have_count(1)
    expect(here.cards.locator("h3")).to_contain_text("camera ")
    assert here.page.evaluate("document.querySelector('#video').srcObject") is None
    assert here.cards.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") >= 320


def test_everything_is_reached_by_the_keyboard(visit: Callable[..., Opened]) -> None:
    stand_in = new_stand_in()
    stand_in.delay_s = 0.2
    here = visit(stand_in, reduced_motion="reduce")
    here.choose(files(a_jpg=photo(), b_jpg=photo()))
    turning = "(state) => getComputedStyle(state, '::before').animationName"
    assert here.cards.locator(".is-reading").first.evaluate(turning) == "none"
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


def test_the_map_lies_over_what_the_model_sees(visit: Callable[..., Opened]) -> None:
    here = visit()
    for preprocessing, size in SEEN:
        here.stand_in.model["preprocessing"] = {"resize_size": None} | preprocessing
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


def test_a_busy_server_is_left_alone_for_as_long_as_it_says(visit: Callable[..., Opened]) -> None:
    stand_in = new_stand_in()
    stand_in.refusals = [(503, {"Retry-After": "1"}, {"error": "The server is full.", "do": None})]
    here = visit(stand_in)
    here.choose(files(a_jpg=photo(), b_jpg=photo(), c_jpg=photo(), d_jpg=photo(), e_jpg=photo()))
    expect(here.page.get_by_text("The server is busy. Next try in")).to_be_visible()
    here.page.wait_for_timeout(500)
    assert stand_in.requests.count("/predict") <= 2
    expect(here.cards.locator(".ranks")).to_have_count(5)
    assert stand_in.requests.count("/predict") == 6


def test_what_fails_says_why_and_may_be_tried_again(visit: Callable[..., Opened]) -> None:
    stand_in = new_stand_in()
    damaged = {"error": "The image cannot be read.", "got": "damaged JPEG image", "do": "curl", "request_id": "1"}
    fault = {"error": "The server made a mistake.", "do": None, "request_id": "abc123"}
    stand_in.refusals = [(422, {}, damaged), (500, {}, fault)]
    stand_in.model["explain"] = False
    here = visit(stand_in)
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


def test_files_that_the_server_would_refuse_are_not_sent(visit: Callable[..., Opened]) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    here = visit()
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    large = photo("red", format="JPEG") + bytes(300_000)
    here.choose(files(a_jpg=b"", b_jpg=b"not an image", c_heic=heic, d_svg=svg, e_jpg=large))
    expect(here.cards.locator(".failed p:first-child")).to_have_text(
        [
            "The file is empty.",
            "This is not an image of a kind that the server reads.",
            "This browser cannot read HEIC images, and the server does not either.",
            "This is not an image of a kind that the server reads.",
            "The file has 301 kB; the server takes 200 kB at most.",
        ]
    )
    assert "/predict" not in here.stand_in.requests


def test_an_image_of_another_kind_is_converted_by_the_browser(visit: Callable[..., Opened]) -> None:
    sent: list[bytes] = []
    stand_in = new_stand_in()
    stand_in.predict = lambda body: (sent.append(body), predicted())[1]
    here = visit(stand_in)
    here.choose(files(a_avif=photo("teal", (64, 48), "AVIF")))
    expect(here.cards.locator(".ranks")).to_have_count(1)
    expect(here.cards).to_contain_text("converted in the browser")
    image = Image.open(io.BytesIO(sent[0]))
    assert (image.format, image.size) == ("JPEG", (64, 48))
    assert image.getpixel((30, 30)) == pytest.approx((0, 128, 128), abs=6)


def test_fifty_images_are_sent_two_at_a_time(visit: Callable[..., Opened]) -> None:
    stand_in = new_stand_in()
    stand_in.delay_s = 0.01
    here = visit(stand_in)
    here.choose([{"name": f"{i}.jpg", "mimeType": "image/jpeg", "buffer": photo()} for i in range(50)])
    expect(here.page.locator("#summary")).to_have_text("50 images read")
    assert stand_in.most_at_once == 2
    here.page.get_by_role("button", name="Clear").click()
    expect(here.cards).to_have_count(0)
    expect(here.page.locator("#results")).to_be_hidden()


def test_a_token_is_asked_for_and_kept_in_memory_only(visit: Callable[..., Opened]) -> None:
    stand_in = new_stand_in()
    stand_in.token = "right"
    here = visit(stand_in)
    field = here.page.get_by_label("Token")
    expect(field).to_be_focused()
    here.choose(files(a_jpg=photo()))
    field.fill("wrong")
    field.press("Enter")
    expect(here.page.locator("#token-help")).to_have_text("the token is missing or wrong.")
    field.fill("right")
    field.press("Enter")
    expect(here.page.locator("h1")).to_have_text("fruit and beasts")
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


def test_hostile_words_stay_words_on_a_narrow_accessible_page(visit: Callable[..., Opened]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    stand_in = new_stand_in()
    one = {"label": HOSTILE[0], "probability": 0.5, "known": True}
    one["top"] = [{"label": label, "probability": 0.5 / 2**i} for i, label in enumerate(HOSTILE)]
    stand_in.predict = lambda _: predicted() | {"predictions": [one]}
    stand_in.explain = lambda _: {"label": HOSTILE[1], "probability": 0.5, "grid": [1, 2], "values": [0.1, 0.2]}
    stand_in.model |= {"name": HOSTILE[0], "classes": HOSTILE}
    stand_in.refusals = [(422, {}, {"error": HOSTILE[2], "do": HOSTILE[0]})]
    here = visit(stand_in, viewport={"width": 320, "height": 568})

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
