"""Folders for other programs: what is in them, that the gate guards each, and what they cannot hold."""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.exporting.test_export import PHOTOGRAPHS, a_model, predictor_of, some_pixels, written
from tests.support.faulty_files import FailingAt
from vitrail import fsio
from vitrail.errors import ConfigError, SaveError, VitrailError, WeightsError
from vitrail.exporting import Exported, ExportOptions, export_model
from vitrail.exporting.gate import Found
from vitrail.exporting.targets.hf import without_temperature
from vitrail.predictor import ExportedPredictor, Predictor
from vitrail.predictor.exported_file import read_exported
from vitrail.reading import read_json_object
from vitrail.selftest.faulty_files import Counting

NAMES = ("caf\u00e9", "\u8c93", "<img src=x>", 'quote" \\ back', "b c, d")


def export(
    out: Path, variant: str = "plain", *, calibrated: bool = True, name: str = "model", **asked: Any
) -> Exported:
    model, card = a_model(variant, calibrated=calibrated, classes=NAMES)
    return export_model(predictor_of(model, card), out, PHOTOGRAPHS, ExportOptions(**asked), name=name)


def only(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---- Hugging Face ------------------------------------------------------------------------------------------------


def test_a_folder_for_hugging_face(tmp_path: Path) -> None:
    found = export(tmp_path / "x", to="hf", precision="int8")
    files = ["config.json", "model.safetensors", "onnx/model.onnx", "onnx/model_quantized.onnx"]
    assert only(tmp_path) == sorted(f"x/{file}" for file in [*files, "preprocessor_config.json"])
    assert list(found.files) == only(tmp_path / "x")
    config = read_json_object(tmp_path / "x" / "config.json")
    assert config["transformers.js_config"] == {"dtype": "q8"}
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    for file, precision, n in (("model.onnx", "fp32", 1e-4), ("model_quantized.onnx", "int8", 0.2)):
        _, told = read_exported(tmp_path / "x" / "onnx" / file)
        assert (told.precision, told.form, told.outputs[0]) == (precision, "tensor", "logits")
        assert told.parity is not None
        assert 0 < told.parity["max_logit_difference"] < n
    quantized = (tmp_path / "x" / "onnx" / "model_quantized.onnx").read_bytes()
    assert (found.precision, found.sha256) == ("int8", hashlib.sha256(quantized).hexdigest())
    assert any("unknown" in note for note in found.notes)
    assert any("of 32 images get the same label" in note for note in found.notes)
    model, card = a_model(calibrated=True, classes=NAMES)
    again, ours = Predictor(tmp_path / "x", device="cpu"), predictor_of(model, card)
    assert again.labels == NAMES
    pixels = some_pixels(card)
    assert np.allclose(again.outputs(pixels).probabilities, ours.outputs(pixels).probabilities, atol=1e-6)


def test_the_temperature_is_in_the_weights(tmp_path: Path) -> None:
    """These libraries know none, so their softmax of the logits has to be right."""
    for variant in ("plain", "distilled", "yes or no"):
        model, card = a_model(variant, calibrated=True)
        ours = predictor_of(model, card).outputs(some_pixels(card))
        divided, without = without_temperature(model, card)
        theirs = predictor_of(divided, without).outputs(some_pixels(card))
        assert np.allclose(theirs.probabilities, ours.probabilities, atol=1e-6)
        assert np.allclose(theirs.logits * 1.7, ours.logits, atol=1e-5)
        assert theirs.distances is not None
        assert ours.distances is not None
        assert np.allclose(theirs.distances, ours.distances, rtol=1e-5)
    export(tmp_path / "x", to="hf")
    exported = ExportedPredictor(tmp_path / "x" / "onnx" / "model.onnx")
    found = exported.outputs(some_pixels(a_model()[1]))
    logits = torch.from_numpy(found.logits)
    assert np.allclose(logits.softmax(1), found.probabilities, atol=1e-6)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["plain", "distilled", "registers", "yes or no"])
def test_transformers_gives_the_same_probabilities(variant: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    importlib.import_module("tests.support.torchvision_operators")  # before transformers
    from transformers import pipeline  # pyright: ignore[reportUnknownVariableType]

    model, card = a_model(variant, calibrated=True, classes=NAMES)
    predictor = predictor_of(model, card)
    export_model(predictor, tmp_path / "x", PHOTOGRAPHS, ExportOptions(to="hf"))
    classify: Any = pipeline("image-classification", str(tmp_path / "x"))
    image = Image.fromarray(some_pixels(card, 1)[0].transpose(1, 2, 0))
    theirs = {one["label"]: one["score"] for one in classify(image)}
    ours = {one.label: one.probability for one in predictor(image)[0].top}
    assert theirs.keys() == ours.keys()
    assert all(abs(theirs[label] - ours[label]) < 1e-5 for label in ours)


@pytest.mark.parametrize(
    ("variant", "said"), [("grey", "grey images"), ("stem", "convolutions"), ("map", "no class token")]
)
def test_what_hugging_face_has_no_place_for(variant: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=said):
        export(tmp_path / "x", variant, to="hf", calibrated=False)
    assert only(tmp_path) == []


def test_hugging_face_at_another_size(tmp_path: Path) -> None:
    predictor = Predictor(a_model(), device="cpu", image_size=48)
    with pytest.raises(WeightsError, match=r"\(48, 48\), of a model for \(32, 32\)"):
        export_model(predictor, tmp_path / "x", PHOTOGRAPHS, ExportOptions(to="hf"))


# ---- Triton ------------------------------------------------------------------------------------------------------


def model_config() -> ModuleType:
    """The messages that tritonclient reads config.pbtxt with; gRPC itself is not needed for them."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("no tritonclient")
    file = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_repository_for_triton(tmp_path: Path) -> None:
    export(tmp_path / "x", "larger decode size", to="triton", name="my-model.1")
    folder = tmp_path / "x" / "my-model.1"
    assert only(tmp_path / "x") == [f"my-model.1/{file}" for file in ("1/model.onnx", "config.pbtxt", "labels.txt")]
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == list(NAMES)
    _, told = read_exported(folder / "1" / "model.onnx")
    assert told.parity
    assert told.parity["passed"]
    messages = model_config()
    from google.protobuf import text_format

    config = text_format.Parse((folder / "config.pbtxt").read_text(), messages.ModelConfig())
    assert config.backend == "onnxruntime"
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    (taken,) = config.input
    assert (taken.name, list(taken.dims)) == ("image", [48, 40, 3])
    assert taken.data_type == messages.TYPE_UINT8
    given = {one.name: (list(one.dims), list(one.reshape.shape), one.label_filename) for one in config.output}
    assert given == {
        "probabilities": ([5], [], "labels.txt"),
        "logits": ([5], [], "labels.txt"),
        "distances": ([1], [], ""),
    }


def test_names_that_triton_cannot_hold(tmp_path: Path) -> None:
    for name in ("../x", "a b", "", ".hidden"):
        with pytest.raises(ConfigError, match="cannot be a name in Triton"):
            export(tmp_path / "x", to="triton", name=name)
    model, card = a_model(classes=("a", "b\nc", "d", "e", "f"))
    with pytest.raises(ConfigError, match="line break"):
        export_model(predictor_of(model, card), tmp_path / "x", PHOTOGRAPHS, ExportOptions(to="triton"))
    assert only(tmp_path) == []


# ---- OpenVINO and torch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.long)])
def test_the_two_files_of_openvino(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from vitrail.runtime.libraries import openvino

    found = export(tmp_path / "x", "larger decode size", to="openvino", precision=precision, min_agreement=0.9)
    assert only(tmp_path) == ["x/model.bin", "x/model.xml"]
    assert found.parity["engine"] == "openvino"
    network = openvino().Core().read_model(tmp_path / "x" / "model.xml")
    labels = network.get_rt_info(["model_info", "labels"]).astype(str).split(" ")
    assert labels == ["caf\u00e9", "\u8c93", "<img_src=x>", 'quote"_\\_back', "b_c,_d"]
    told = json.loads(network.get_rt_info(["vitrail"]).astype(str))
    assert told["classes"] == list(NAMES)
    assert told["parity"]["passed"]
    assert network.inputs[0].partial_shape.to_string() == "[?,48,40,3]"
    weights = (tmp_path / "x" / "model.bin").stat().st_size
    onnx = written(tmp_path / "x.onnx", *a_model("larger decode size", calibrated=True), precision=precision)
    assert onnx.description.precision == precision
    assert weights > 0.5 * (tmp_path / "x.onnx").stat().st_size  # not rounded to 16 bits


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("variant", "merge"),
    [
        pytest.param("larger decode size", 0, marks=pytest.mark.long),
        pytest.param("distilled", 0, marks=pytest.mark.slow),
        pytest.param("plain", 2, marks=pytest.mark.slow),
    ],
)
def test_a_program_of_torch(variant: str, merge: int, tmp_path: Path) -> None:
    """The gate has run it in another process, at batches 1, 3 and 8."""
    asked = {"merge": merge, "min_agreement": 0.5, "max_drop": 1.0}
    found = export(tmp_path / "x.pt2", variant, to="torch", **asked)
    assert found.parity["engine"] == "torch"
    assert merge or found.parity["max_logit_difference"] < 1e-5
    assert found.parity["max_distance_difference"] < (1 if merge else 1e-4)
    beside = {"vitrail.json": ""}
    torch.export.load(tmp_path / "x.pt2", extra_files=beside)
    assert json.loads(beside["vitrail.json"])["classes"] == list(NAMES)
    assert str(Path(__file__).resolve().parents[2]).encode() not in (tmp_path / "x.pt2").read_bytes()


# ---- all of them -------------------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_folder_that_the_gate_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 of three codes is no model; the exact file beside it would have passed."""
    monkeypatch.setattr("vitrail.exporting.onnx_graph.LARGEST_CODE", 1)
    with pytest.raises(VitrailError, match="answers otherwise"):
        export(tmp_path / "x", to="hf", precision="int8")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x").mkdir()
    found = export(tmp_path / "x", to="triton", precision="int8", force=True)
    assert not found.parity["passed"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("kind", "precision"), [pytest.param("hf", "int8", marks=pytest.mark.long), ("triton", "fp32")]
)
def test_a_disk_that_fails_at_any_moment(
    kind: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever operation it is: an error of ours, and nothing is left, or all of it is there."""
    found = Found({"passed": True}, None, ())
    monkeypatch.setattr("vitrail.exporting.export.compared", lambda *_, **__: found)
    counted = Counting()
    with fsio.use_file_system(counted):
        export(tmp_path / "whole", to=kind, precision=precision)
    whole = only(tmp_path)
    assert counted.count > 5
    for at in range(counted.count):
        disk = FailingAt(at, errno.ENOSPC)
        out = tmp_path / f"{at}"
        with contextlib.suppress(SaveError), fsio.use_file_system(disk):
            export(out, to=kind, precision=precision)
        if out.exists():  # no more than a directory was not flushed, or nothing was left to remove
            assert only(tmp_path) == sorted([*whole, *(file.replace("whole", f"{at}", 1) for file in whole)])
            assert disk.failed in ("fsync_dir", "unlink")
            fsio.remove(out)
        assert only(tmp_path) == whole, disk.failed


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_bytes(b"1")
    (tmp_path / "x.pt2").write_bytes(b"1")
    for kind, name in (("hf", "x"), ("triton", "x"), ("torch", "x.pt2")):
        with pytest.raises(ConfigError, match="is not free"):
            export(tmp_path / name, to=kind)
    assert only(tmp_path) == ["x.pt2", "x/mine"]


def test_what_does_not_go_together() -> None:
    for asked in ({"to": "hf", "form": "image"}, {"to": "torch", "precision": "int8"}):
        with pytest.raises(ConfigError):
            ExportOptions(**asked)  # type: ignore[arg-type]
    assert dataclasses.replace(ExportOptions(to="triton"), form="tensor").form == "tensor"
