"""What other people's programs answer from exported files: onnxruntime-web, transformers.js, optimum.

They are not of Python, or not of this one: `npm install --ignore-scripts` in tests/exporting/js/; for optimum a virtual
environment with `optimum-onnx[onnxruntime]`, whose interpreter VITRAIL_OPTIMUM names. Without them the tests skip.
"""

import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from tests.exporting.test_export import PHOTOGRAPHS, a_model, predictor_of, some_pixels, written
from tests.exporting.test_targets import NAMES
from vitrail.exporting import ExportOptions, export_model
from vitrail.runtime.pixels import normalised

pytestmark = pytest.mark.slow
JS = Path(__file__).parent / "js"
FP32, INT8 = 1e-4, 1e-2
GEOMETRIES = ("plain", "distilled", "larger decode size", "stem", "map", "grey", "swiglu")


def node(script: str, *arguments: str) -> Any:
    """What a script prints, as JSON."""
    if shutil.which("node") is None or not (JS / "node_modules").is_dir():
        pytest.skip("no node, or no tests/exporting/js/node_modules")
    done = subprocess.run(["node", script, *arguments], cwd=JS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """A folder of exported files and their inputs, and what Python answers."""
    folder = tmp_path_factory.mktemp("jobs")
    told: list[dict[str, Any]] = []
    expected: dict[str, dict[str, np.ndarray]] = {}
    for variant in GEOMETRIES:
        model, card = a_model(variant, calibrated=variant == "plain")
        for form, precision in (("image", "fp32"), ("tensor", "fp32"), ("image", "fp16"), ("image", "int8")):
            name = f"{variant} {form} {precision}"
            predictor, pixels = (
                written(folder / f"{name}.onnx", model, card, form=form, precision=precision),
                some_pixels(card, 3),
            )
            batch = pixels.transpose(0, 2, 3, 1) if form == "image" else normalised(pixels, card.preprocessing)
            (folder / f"{name}.bin").write_bytes(np.ascontiguousarray(batch).tobytes())
            taken = predictor.description.input
            told.append({"name": name, "input": taken.name, "dtype": taken.dtype, "shape": batch.shape})
            found = predictor.outputs(pixels)
            expected[name] = {"probabilities": found.probabilities, "logits": found.logits}
            if found.distances is not None:
                expected[name]["distances"] = found.distances
    (folder / "jobs.json").write_text(json.dumps(told))
    return folder, expected


def check(theirs: dict[str, dict[str, list[float]]], ours: dict[str, dict[str, np.ndarray]]) -> None:
    assert theirs.keys() == ours.keys()
    for name, outputs in ours.items():
        assert theirs[name].keys() == outputs.keys()
        for key, values in outputs.items():
            found = np.array(theirs[name][key]).reshape(values.shape)
            assert np.abs(found - values).max() < (INT8 if "int8" in name else FP32), (name, key)
            assert key == "distances" or (found.argmax(1) == values.argmax(1)).all(), name


def test_onnxruntime_web_in_node(jobs: tuple[Path, dict[str, dict[str, np.ndarray]]]) -> None:
    folder, expected = jobs
    check(node("onnxruntime_web.mjs", str(folder)), expected)


@contextmanager
def served(files: Path) -> Iterator[str]:
    """The page and the files, on this machine."""

    class Handler(SimpleHTTPRequestHandler):
        extensions_map: ClassVar = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

        def translate_path(self, path: str) -> str:
            root, _, rest = super().translate_path(path).removeprefix(os.getcwd()).lstrip("/").partition("/")
            return str({"js": JS}.get(root, files) / rest)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def browsed(page_name: str, files: Path) -> Any:
    """What a page leaves in `window.answers`; it may ask nobody but this machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None or not (JS / "node_modules").is_dir():
        pytest.skip("no chromium, or no tests/exporting/js/node_modules")
    elsewhere: list[str] = []
    with served(files) as url, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        ours = (url, "blob:", "data:")
        page.on("request", lambda request: None if request.url.startswith(ours) else elsewhere.append(request.url))
        page.goto(f"{url}/js/{page_name}")
        answers = page.wait_for_function("window.answers", timeout=100_000).json_value()
        browser.close()
    assert "error" not in answers, answers
    assert elsewhere == []
    return answers["found"]


def test_onnxruntime_web_in_a_browser(jobs: tuple[Path, dict[str, dict[str, np.ndarray]]]) -> None:
    folder, expected = jobs
    check(browsed("page.html", folder), expected)


@pytest.fixture(params=["plain", "oblong", "distilled", "registers", "cls_mean"])
def hugging_face(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, dict[str, float]]:
    """A folder, an image of the model's size, and what the model answers."""
    model, card = a_model(request.param, calibrated=True, classes=NAMES)
    predictor = predictor_of(model, card)
    options = ExportOptions(to="hf", precision="int8", min_agreement=0.8, max_drop=1.0)
    export_model(predictor, tmp_path / "model", PHOTOGRAPHS, options)
    image = tmp_path / "image.png"
    Image.fromarray(some_pixels(card, 1)[0].transpose(1, 2, 0)).save(image)
    (answer,) = predictor(image)
    return tmp_path / "model", image, {one.label: one.probability for one in answer.top}


def same(theirs: dict[str, float], ours: dict[str, float], tolerance: float) -> None:
    assert theirs.keys() == ours.keys()
    assert max(abs(theirs[label] - ours[label]) for label in ours) < tolerance
    assert max(theirs, key=theirs.__getitem__) == max(ours, key=ours.__getitem__)


@pytest.mark.parametrize("dtype", ["fp32", "q8", ""])
def test_transformers_js(hugging_face: tuple[Path, Path, dict[str, float]], dtype: str) -> None:
    """Without a dtype it takes the one of config.json."""
    folder, image, ours = hugging_face
    theirs = node("transformers_js.mjs", str(folder.parent), folder.name, str(image), *([dtype] if dtype else []))
    same(theirs, ours, FP32 if dtype == "fp32" else INT8)
    assert dtype == "fp32" or max(abs(theirs[label] - ours[label]) for label in ours) > FP32  # it is int8


def test_transformers_js_in_a_browser(hugging_face: tuple[Path, Path, dict[str, float]]) -> None:
    """Which would take int8 anyway; pixels go through a canvas there."""
    folder, _, ours = hugging_face
    same(browsed("transformers_page.html", folder.parent), ours, INT8)


OPTIMUM = """
import json, sys
from optimum.onnxruntime import ORTModelForImageClassification
from transformers import AutoImageProcessor, pipeline
folder, image, *files = sys.argv[1:]
processor, answers = AutoImageProcessor.from_pretrained(folder), {}
for file in files:
    model = ORTModelForImageClassification.from_pretrained(folder, file_name=file)
    classify = pipeline("image-classification", model=model, image_processor=processor)
    answers[file] = {one["label"]: one["score"] for one in classify(image)}
print(json.dumps(answers))
"""


def test_optimum(hugging_face: tuple[Path, Path, dict[str, float]]) -> None:
    interpreter = os.environ.get("VITRAIL_OPTIMUM")
    if not interpreter:
        pytest.skip("VITRAIL_OPTIMUM names no interpreter")
    folder, image, ours = hugging_face
    limits = {"model.onnx": FP32, "model_quantized.onnx": INT8}
    command = [interpreter, "-c", OPTIMUM, str(folder), str(image), *limits]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
    assert done.returncode == 0, done.stderr[-2000:]
    for file, theirs in json.loads(done.stdout.splitlines()[-1]).items():
        same(theirs, ours, limits[file])
