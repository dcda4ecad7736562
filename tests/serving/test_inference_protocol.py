"""The Open Inference Protocol, asked by Triton's own client and by hand."""

import base64
import gc
import json
import struct
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.images import encode, smooth
from tests.support.served import Served
from vitrail.predictor.exported import ExportedPredictor

IMAGES = [encode(smooth(40 + i, 50), kind) for i, kind in enumerate(("PNG", "JPEG"))]
TOLERANCE = 1e-5


# Triton's client leaves its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def triton() -> Iterator[Any]:
    yield pytest.importorskip("tritonclient.http")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def client(triton: Any, server: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as found:
        yield found


@pytest.fixture(scope="module")
def expected(model_file: Path) -> np.ndarray:
    """Probabilities of both images."""
    predictor = ExportedPredictor(model_file)
    return predictor.outputs(np.stack([predictor.decode(image) for image in IMAGES])).probabilities


def of_files(triton: Any) -> Any:
    """Both images as a tensor of BYTES."""
    found = triton.InferInput("image", [len(IMAGES)], "BYTES")
    found.set_data_from_numpy(np.array(IMAGES, dtype=np.object_))
    return found


def test_what_there_is(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    for name in ("cifar", "cifar-tensor"):
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, "1")
        assert client.get_model_metadata(name, "1")["versions"] == ["1"]
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
    assert client.get_model_metadata("cifar")["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]


@pytest.mark.parametrize("binary", [True, False])
def test_files_to_probabilities(client: Any, triton: Any, expected: np.ndarray, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "logits")]
    answer = client.infer("cifar", [of_files(triton)], outputs=outputs, request_id="a number")
    assert answer.as_numpy("probabilities") == pytest.approx(expected, abs=TOLERANCE)
    assert answer.as_numpy("logits").shape == expected.shape
    assert answer.get_response()["id"] == "a number"
    assert answer.get_response()["model_version"] == "1"
    plain = client.infer("cifar", [of_files(triton)], model_version="1", timeout=10**7)
    assert plain.as_numpy("probabilities") == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_to_probabilities(
    client: Any, triton: Any, expected: np.ndarray, model_file: Path, binary: bool
) -> None:
    predictor = ExportedPredictor(model_file)
    pixels = np.stack([predictor.decode(image) for image in IMAGES]).transpose(0, 2, 3, 1)
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    answer = client.infer("cifar-tensor", [tensor])
    assert answer.as_numpy("probabilities") == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("binary", [True, False])
def test_ranked_classes(client: Any, triton: Any, expected: np.ndarray, model_file: Path, binary: bool) -> None:
    labels = ExportedPredictor(model_file).labels
    output = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)
    found = client.infer("cifar", [of_files(triton)], outputs=[output]).as_numpy("probabilities")
    assert found.shape == (2, 3)
    for row, probabilities in zip(found, expected, strict=True):
        for text, index in zip(row, np.argsort(-probabilities)[:3], strict=True):
            value, place, label = (text.decode() if isinstance(text, bytes) else text).split(":")
            assert (int(place), label) == (index, labels[index])
            assert float(value) == pytest.approx(probabilities[index], abs=1e-5)


def test_files_as_base64(server: Served, expected: np.ndarray) -> None:
    data = [base64.b64encode(image).decode() for image in IMAGES]
    asked = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": data}]}
    url = f"{server.url}/v2/models/cifar/versions/1/infer"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(asked).encode()), timeout=60) as answer:
        (output,) = json.load(answer)["outputs"]
    assert (output["shape"], output["datatype"]) == ([2, 100], "FP32")
    assert np.reshape(output["data"], (2, 100)) == pytest.approx(expected, abs=TOLERANCE)


def test_errors_are_read_by_the_client(client: Any, triton: Any) -> None:
    error = triton.InferenceServerException
    broken = triton.InferInput("image", [1], "BYTES")
    broken.set_data_from_numpy(np.array([b"no image"], dtype=np.object_))
    for name, inputs, outputs in (
        ("cifar", [broken], None),
        ("other", [of_files(triton)], None),
        ("cifar-tensor", [of_files(triton)], None),
        ("cifar", [of_files(triton)], [triton.InferRequestedOutput("features")]),
    ):
        with pytest.raises(error) as caught:
            client.infer(name, inputs, outputs=outputs)
        assert caught.value.status()[:1] == "4"
        assert caught.value.message()
    for call in (client.get_model_repository_index, client.get_inference_statistics, client.get_log_settings):
        with pytest.raises(error):
            call()
    with pytest.raises(error):
        client.infer("cifar", [of_files(triton)], request_compression_algorithm="gzip")


ONE = struct.pack("<I", 3) + b"abc"
INPUT = {"name": "image", "datatype": "BYTES", "shape": [1]}
TENSOR = {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3]}


@pytest.mark.parametrize(
    ("model", "values", "tail", "length"),
    [
        ("cifar", {"inputs": [{**INPUT, "parameters": {"binary_data_size": 7}}]}, ONE, 10**6),
        ("cifar", {"inputs": [{**INPUT, "parameters": {"binary_data_size": 7}}]}, ONE, 0),
        ("cifar", {"inputs": [{**INPUT, "parameters": {"binary_data_size": 99}}]}, ONE, None),
        ("cifar", {"inputs": [{**INPUT, "parameters": {"binary_data_size": 7}}]}, ONE[:-1], None),
        ("cifar", {"inputs": [{**INPUT, "parameters": {"binary_data_size": 6}}]}, ONE[:-1], None),
        ("cifar", {"inputs": [{**INPUT, "parameters": {"binary_data_size": 8}}]}, ONE + b"x", None),
        ("cifar", {"inputs": [{**INPUT, "parameters": {"binary_data_size": 3}}]}, b"abc", None),
        ("cifar", {"inputs": [{**INPUT, "shape": [10**9], "parameters": {"binary_data_size": 7}}]}, ONE, None),
        ("cifar", {"inputs": [{**INPUT, "shape": [-1], "parameters": {"binary_data_size": 7}}]}, ONE, None),
        ("cifar", {"inputs": [{**INPUT, "shape": [True], "parameters": {"binary_data_size": 7}}]}, ONE, None),
        ("cifar", {"inputs": [{**INPUT, "shape": [1, 2], "data": ["AAAA", "AAAA"]}]}, b"", None),
        ("cifar", {"inputs": [{**INPUT, "data": ["http://example.com/a.png"]}]}, b"", None),
        ("cifar", {"inputs": [{**INPUT, "data": [[["AAAA"]]]}]}, b"", None),
        ("cifar", {"inputs": [INPUT]}, ONE, None),
        ("cifar", {"inputs": []}, b"", None),
        ("cifar", {"inputs": [{**INPUT, "data": ["AAAA"]}], "id": "x" * 2000}, b"", None),
        ("cifar", {"inputs": [{**INPUT, "data": ["AAAA"]}], "outputs": [{"name": "x"}]}, b"", None),
        ("cifar-tensor", {"inputs": [{**TENSOR, "data": [256] * 3072}]}, b"", None),
        ("cifar-tensor", {"inputs": [{**TENSOR, "data": [0.5] * 3072}]}, b"", None),
        ("cifar-tensor", {"inputs": [{**TENSOR, "data": [[0], [1, 2]]}]}, b"", None),
        ("cifar-tensor", {"inputs": [{**TENSOR, "data": [0] * 3071}]}, b"", None),
        ("cifar-tensor", {"inputs": [{**TENSOR, "data": [10**30] * 3072}]}, b"", None),
        ("cifar-tensor", {"inputs": [{**TENSOR, "data": 1}]}, b"", None),
        ("cifar-tensor", {"inputs": [{**TENSOR, "shape": [99, 32, 32, 3], "data": []}]}, b"", None),
        ("cifar-tensor", {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 5}}]}, b"abcde", None),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    server: Served, model: str, values: dict[str, Any], tail: bytes, length: int | None
) -> None:
    head = json.dumps(values).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)} if tail else {}
    url = f"{server.url}/v2/models/{model}/infer"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, head + tail, headers), timeout=60)
    assert caught.value.code in (400, 415), caught.value.read()
    assert json.load(caught.value)["error"]


@pytest.mark.parametrize(
    "path", ["/v2/repository/index", "/v2/systemsharedmemory/status", "/v2/models/../models", "/v2/"]
)
def test_nothing_else_is_there(server: Served, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get(path)
    assert caught.value.code == 404
