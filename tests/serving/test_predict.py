"""Our own addresses, and those of Hugging Face, against the predictor that they stand for."""

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.images import encode, smooth
from tests.support.served import Served, raw, request, status
from vitrail.predictor.exported import ExportedPredictor
from vitrail.serving.occlusion import covered, drops, grid_of

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
TOLERANCE = 1e-5


def post(server: Served, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    asked = urllib.request.Request(server.url + path, body, headers)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_an_image_is_answered_as_the_predictor_answers(server: Served, model_file: Path) -> None:
    predictor = ExportedPredictor(model_file)
    for i, kind in enumerate(KINDS):
        body = encode(np.roll(smooth(60 + i, 80), i, axis=2), kind)
        expected = predictor(body, top=3)[0]
        code, answer = post(server, "/predict?top=3", body)
        assert (code, answer["errors"]) == (200, [])
        (found,) = answer["predictions"]
        assert [one["label"] for one in found["top"]] == [one.label for one in expected.top]
        assert [one["probability"] for one in found["top"]] == pytest.approx(
            [one.probability for one in expected.top], abs=TOLERANCE
        )
        assert (found["index"], found["label"], found["known"]) == (0, expected.label, True)
        assert answer["model"]["name"] == "cifar"
        assert set(answer["seconds"]) == {"queue", "decode", "model"}


def test_several_images_and_the_one_among_them_that_is_none(server: Served) -> None:
    good = base64.b64encode(encode(smooth(40, 40), "PNG")).decode()
    bad = base64.b64encode(b"no image").decode()
    code, answer = post(server, "/predict", json.dumps({"images": [good, bad, good], "top": 2}).encode())
    assert code == 200
    assert [one["index"] for one in answer["predictions"]] == [0, 2]
    assert [len(one["top"]) for one in answer["predictions"]] == [2, 2]
    assert [one["index"] for one in answer["errors"]] == [1]
    code, answer = post(server, "/predict", json.dumps({"images": [bad, bad]}).encode())
    assert code == 415
    assert [one["index"] for one in answer["errors"]] == [0, 1]


def test_the_contract_of_hugging_face(server: Served) -> None:
    body = encode(smooth(50, 50), "JPEG")
    code, plain = post(server, "/", body)
    assert code == 200
    assert len(plain) == 5
    assert set(plain[0]) == {"label", "score"}
    asked = {"inputs": base64.b64encode(body).decode(), "parameters": {"top_k": 2}}
    assert post(server, "/", json.dumps(asked).encode()) == (200, plain[:2])


def test_the_client_of_hugging_face(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)  # this machine is all that can be reached
    path = tmp_path / "image.jpg"
    path.write_bytes(encode(smooth(50, 50), "JPEG"))
    client = hub.InferenceClient(model=server.url)
    expected = post(server, "/predict", path.read_bytes())[1]["predictions"][0]["top"]
    for top in (None, 2):
        found = client.image_classification(str(path), **({} if top is None else {"top_k": top}))
        assert [one.label for one in found] == [one["label"] for one in expected[: top or 5]]
        assert [one.score for one in found] == pytest.approx([one["probability"] for one in expected[: top or 5]])


def test_an_image_is_explained(server: Served) -> None:
    body = encode(smooth(50, 50), "PNG")
    code, found = post(server, "/explain", body)
    assert code == 200
    assert found["grid"] == [7, 7]
    assert len(found["values"]) == 49
    assert len(set(found["values"])) > 10
    best = post(server, "/predict", body)[1]["predictions"][0]
    assert (found["label"], pytest.approx(found["probability"])) == (best["label"], best["probability"])
    two = json.dumps({"images": [base64.b64encode(body).decode()] * 2}).encode()
    assert post(server, "/explain", two)[0] == 400


def test_covering_covers_each_pixel_once() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 23, 16), dtype=np.uint8)
    pixels[:, 0, 0] = 255 - pixels.reshape(3, -1).mean(1)
    rows, columns = grid_of(23, 16)
    images = covered(pixels, range(rows * columns))
    changed = (images != pixels).any(1)
    assert changed.sum(0).max() == 1
    assert changed.sum(0).mean() > 0.95
    assert np.array_equal(covered(pixels, range(3, 5)), images[3:5])
    assert grid_of(4, 30) == (4, 7)
    assert drops(0.5, np.array([0.25, 0.75])) == [0.25, -0.25]


def test_the_card_says_what_holds(server: Served, model_file: Path) -> None:
    card = server.get("/model")
    predictor = ExportedPredictor(model_file)
    assert card["classes"] == list(predictor.labels)
    assert card["limits"]["max_body_bytes"] == 2_000_000
    assert card["limits"]["max_images"] == 4
    assert card["preprocessing"]["decode_size"] == list(predictor.preprocessing.decode_size)
    assert (card["explain"], card["can_say_unknown"]) == (True, False)
    assert card["version"] == predictor.description.graph_sha256[:12]
    assert "JPEG" in card["formats"]


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[1]", {}, 400),
        (b'{"images": []}', {}, 400),
        (b'{"images": ["http://example.com/a.png"]}', {}, 400),
        (b'{"images": [NaN]}', {}, 400),
        (b'{"images": ["AAAA"], "top": 0}', {}, 400),
        (b'{"images": ["AAAA"], "top": 1' + b"0" * 6000 + b"}", {}, 400),
        (b'{"images": ["AAAA"], "images": ["AAAA"]}', {}, 400),
        (b'{"images": ["AAAA"], "url": 1}', {}, 400),
        (b'{"images": [' + b'"AAAA",' * 4 + b'"AAAA"]}', {}, 400),
        (b'{"images": [' + b"1," * 100_000 + b"1]}", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b'{"images":' * 500 + b"1" + b"}" * 500, {}, 400),
        (b"x", {"Content-Type": "application/json"}, 400),
        (b"x", {"Content-Encoding": "gzip"}, 415),
        (b"x", {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (b"x", {"Inference-Header-Content-Length": "1"}, 400),
        (b"x", {"Inference-Header-Content-Length": "-1"}, 400),
        (b"hello", {}, 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, 415),
        (b"<html><script>alert(1)</script>", {"Content-Type": "image/png"}, 415),
        (encode(smooth(40, 40), "PNG")[:-30], {"Content-Type": "text/html"}, 422),
        (bytes(2_000_001), {}, 413),
    ],
)
def test_what_is_no_image_is_refused(server: Served, body: bytes, headers: dict[str, str], code: int) -> None:
    found, answer = post(server, "/predict", body, **headers)
    assert found == code, answer
    assert set(answer) >= {"error", "got", "expected", "do", "request_id"}
    assert "Traceback" not in answer["error"]


@pytest.mark.parametrize("query", ["top=0", "top=x", "top=-1", "top=99999999999999999999", "top=%C2%B2"])
def test_a_number_of_classes_that_is_none_is_refused(server: Served, query: str) -> None:
    assert post(server, f"/predict?{query}", encode(smooth(9, 9), "PNG"))[0] == 400


def test_a_bomb_is_refused_and_a_decoder_lives(server: Served) -> None:
    from tests.support.images import huge_headers

    before = server.figure("vitrail_child_restarts_total")
    for name, bomb in huge_headers().items():
        code, answer = post(server, "/predict", bomb)
        assert code in (413, 415, 422), (name, answer)
    assert server.figure("vitrail_child_restarts_total") == before
    assert post(server, "/predict", encode(smooth(9, 9), "PNG"))[0] == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "http://localhost:1@HOST"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://HOST"}, 200),
        ({"Host": "127.0.0.1:1234"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "LocalHost"}, 200),
    ],
)
def test_pages_and_names_of_others_are_refused(server: Served, headers: dict[str, str], code: int) -> None:
    own = server.url.removeprefix("http://")
    given = {name: value.replace("HOST", own) for name, value in headers.items()} | {"Content-Type": "text/plain"}
    if "Host" not in headers:
        given["Host"] = own
    assert post(server, "/predict", encode(smooth(9, 9), "PNG"), **given)[0] == code


def test_a_link_from_another_site_leads_to_the_page(server: Served) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert status(raw(server.port, request(path="/", method="GET", **link))) == 200
    assert status(raw(server.port, request(path="/model", method="GET", **link))) == 403
    link["Sec-Fetch-Dest"] = "iframe"
    assert status(raw(server.port, request(path="/", method="GET", **link))) == 403


def test_the_page_may_be_kept_and_loads_nothing_from_elsewhere(server: Served) -> None:
    import re

    answer = raw(server.port, request(path="/", method="GET"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-security-policy: default-src 'none'" in head
    assert b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"").lower()
    for name in re.findall(rb'"(static/[^"]+)"', body):
        assert re.search(rb"-[0-9a-f]{12}\.\w+$", name)
        file = raw(server.port, request(path=f"/{name.decode()}", method="GET"))
        assert status(file) == 200
        assert b"immutable" in file.partition(b"\r\n\r\n")[0]
    for path in ("/static/..%2f..%2fetc/passwd", "/static/../options.py", "/static/", "/static/index.html", "//"):
        assert status(raw(server.port, request(path=path, method="GET"))) == 404


def test_other_methods_name_those_there_are(server: Served) -> None:
    answer = raw(server.port, request(path="/predict", method="DELETE"))
    assert status(answer) == 405
    assert b"allow: POST" in answer
    assert b'"request_id"' in answer


def test_openapi_is_valid(server: Served) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(server.get("/openapi.json"))


def test_nothing_a_client_sent_is_a_label_or_a_line(server: Served) -> None:
    raw(server.port, request(b"secret-body", path="/secret-path?secret-query", Authorization="Bearer secret-token"))
    raw(server.port, request(path="/v2/models/secret-model", method="GET"))
    raw(server.port, request(path="/predict", method="SECRET"))
    assert "secret" not in server.get("/metrics").lower()
    assert "secret" not in server.log.read_text().lower()
