"""The exported file answers as the model, for every geometry, form and precision; what it says of itself is true."""

import ast
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from tests.support.random_vit import random_vit
from vitrail import weights
from vitrail.config import Preprocessing
from vitrail.config.checks import pair
from vitrail.errors import ConfigError, VitrailError, WeightsError
from vitrail.exporting import ExportOptions, Images, export_model, synthetic_photographs
from vitrail.exporting.onnx_file import built, metadata
from vitrail.exporting.targets import target as exporting
from vitrail.model import ViT
from vitrail.predictor import ExportedPredictor, Predictor
from vitrail.predictor.exported_file import read_exported
from vitrail.runtime import EngineOptions
from vitrail.runtime.onnx_file import encoded_metadata, read_onnx
from vitrail.weights.calibration import Calibration, Unknown
from vitrail.weights.mahalanobis import fit_mahalanobis

SMALL = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "oblong": {"image_size": (16, 32), "patch_size": (8, 4)},
    "mean, no class token": {"pooling": "mean", "use_class_token": False, "final_norm": "pooled"},
    "map": {"pooling": "map", "use_class_token": False},
    "cls_mean": {"pooling": "cls_mean"},
    "distilled": {"pooling": "cls_dist", "use_distillation_token": True},
    "registers": {"num_registers": 3, "layer_scale": 0.1},
    "grey": {"num_channels": 1},
    "gelu_tanh": {"activation": "gelu_tanh", "pooling": "mean_max", "final_norm": "pooled"},
    "swiglu": {"activation": "swiglu", "qk_norm": True},
    "stem": {"stem_channels": (8, 16), "stem_strides": (2, 1), "stem_pools": (1, 2), "patch_size": 2},
    "larger decode size": {"decode_size": (48, 40)},
    "yes or no": {"problem_type": "multi_label_classification"},
}
FORMS: list[tuple[str, Literal["fp32", "fp16", "int8"], int]] = [
    ("image", "fp32", 20), ("image", "fp32", 17), ("tensor", "fp32", 20), ("image", "fp16", 20), ("image", "int8", 17),
]  # fmt: skip
CALIBRATED = Calibration(
    temperature=1.7, reason="a test", split="val", num_images=9,
    unknown=Unknown(reject=0.05, min_probability=0.2, max_distance=9.0),
)  # fmt: skip


def a_model(
    variant: str = "plain", *, calibrated: bool = False, classes: tuple[str, ...] = ()
) -> tuple[ViT, weights.Card]:
    changes = {**SMALL, "num_labels": 5, **VARIANTS[variant]}
    decode_size, problem = changes.pop("decode_size", None), changes.pop("problem_type", "single_label_classification")
    model = random_vit(**changes)
    size, grey = pair(model.config.image_size), model.config.num_channels == 1
    preprocessing = Preprocessing(
        image_size=size, decode_size=decode_size or size, channels="L" if grey else "RGB",
        mean=(0.4,) if grey else (0.48, 0.45, 0.4), std=(0.2,) if grey else (0.22, 0.23, 0.24),
    )  # fmt: skip
    if calibrated:
        random = np.random.default_rng(0)
        width = (model.head if isinstance(model.head, torch.nn.Linear) else torch.nn.Linear(1, 1)).in_features
        rows = random.normal(size=(60, width)).astype(np.float32)
        model.mahalanobis = fit_mahalanobis(rows, np.arange(60) % 5)
    card = weights.Card(
        geometry=model.config, classes=classes or tuple("abcde"), preprocessing=preprocessing,
        problem_type=problem, calibration=CALIBRATED if calibrated else None,
    )  # fmt: skip
    return model, card


def predictor_of(model: ViT, card: weights.Card) -> Predictor:
    return Predictor((model, card), device="cpu", options=EngineOptions(engine="torch"))


def written(path: Path, model: ViT, card: weights.Card, **asked: Any) -> ExportedPredictor:
    graph, description = built(model, card, **{"form": "image", "precision": "fp32", "merge": 0, "opset": 20, **asked})
    path.write_bytes(graph + metadata(description))
    return ExportedPredictor(path, threads=1)


def some_pixels(card: weights.Card, count: int = 9) -> np.ndarray:
    preprocessing = card.preprocessing
    shape = (count, preprocessing.num_channels, *preprocessing.decode_size)
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


PHOTOGRAPHS = Images(
    encoded=synthetic_photographs(32), labels=np.arange(32) % 5, source="made", fingerprint="", is_synthetic=True
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_geometry_form_and_precision_answers_as_the_model(variant: str, tmp_path: Path) -> None:
    model, card = a_model(variant, calibrated=variant in ("plain", "distilled", "cls_mean", "map"))
    pixels, ours = some_pixels(card), predictor_of(model, card).outputs(some_pixels(card))
    scale = np.abs(ours.logits).max()
    for form, precision, opset in FORMS:
        theirs = written(tmp_path / "x.onnx", model, card, form=form, precision=precision, opset=opset)
        tolerance = {"fp32": 2e-5, "fp16": 1e-2, "int8": 0.25}[precision]
        for count in (1, 3, 9):
            found = theirs.outputs(pixels[:count])
            assert np.abs(found.logits - ours.logits[:count]).max() < tolerance * scale, (form, precision, opset)
            assert np.abs(found.probabilities - ours.probabilities[:count]).max() < tolerance
        assert (found.distances is None) == (ours.distances is None)
        if found.distances is not None and ours.distances is not None:
            assert np.abs(found.distances / ours.distances - 1).max() < tolerance
            if precision == "fp32":
                answered = zip(
                    theirs.ranked(found), predictor_of(model, card)(list(pixels.transpose(0, 2, 3, 1))), strict=True
                )
                assert all(a.is_unknown == b.is_unknown and a.top[0].label == b.top[0].label for a, b in answered)


@pytest.mark.parametrize("opset", [17, 20])
def test_merged_tokens_are_merged_in_the_file(opset: int, tmp_path: Path) -> None:
    model, card = a_model()
    pixels = some_pixels(card)
    merged = Predictor((model, card), device="cpu", options=EngineOptions(engine="torch", merge=2)).outputs(pixels)
    found = written(tmp_path / "x.onnx", model, card, merge=2, opset=opset).outputs(pixels)
    assert np.abs(found.logits - merged.logits).max() < 2e-5 * np.abs(merged.logits).max()


def test_weights_of_int8_files_are_right_without_dot_products_of_bytes() -> None:
    """Two products of 255 and the largest weight are added in 16 bits on such a processor."""
    model, card = a_model()
    graph = onnx.load_from_string(built(model, card, form="image", precision="int8", merge=0, opset=20)[0]).graph
    codes = [numpy_helper.to_array(one) for one in graph.initializer if one.data_type == onnx.TensorProto.INT8]
    assert len(codes) == 9
    assert all(np.abs(one.astype(int)).max() == 64 for one in codes)
    assert 2 * 255 * 64 < 2**15


# ---- the gate ----------------------------------------------------------------------------------------------------


def test_a_file_is_compared_with_its_model_and_says_so(tmp_path: Path) -> None:
    model, card = a_model(calibrated=True, classes=("café", "貓", "<img src=x>", 'quote"', "e\u0301"))
    out = tmp_path / "model.onnx"
    found = export_model(predictor_of(model, card), out, PHOTOGRAPHS)
    assert found.parity["passed"]
    assert found.parity["top1"] == [32, 32]
    assert 0 < found.parity["max_logit_difference"] < 1e-4
    assert found.accuracy is not None
    assert found.accuracy["correct_exported"] == found.accuracy["correct_reference"]
    file, told = read_exported(out)
    assert (told.parity, told.classes, told.temperature) == (found.parity, card.classes, 1.7)
    assert told.preprocessing == card.preprocessing
    assert told.unknown == CALIBRATED.unknown
    assert (hashlib.sha256(file).hexdigest(), len(file)) == (found.sha256, found.num_bytes)
    again = tmp_path / "again.onnx"
    export_model(predictor_of(model, card), again, PHOTOGRAPHS)
    assert again.read_bytes() == file
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.onnx", "model.onnx"]
    assert str(tmp_path).encode() not in file


def test_other_libraries_read_what_is_written_beside_the_graph(tmp_path: Path) -> None:
    model, card = a_model(classes=("café", "貓", "it's", 'quote"', "new\nline"))
    written(tmp_path / "x.onnx", model, card)
    proto = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(proto, full_check=True)
    texts = {one.key: one.value for one in proto.metadata_props}
    assert ast.literal_eval(texts["names"]) == dict(enumerate(card.classes))
    assert ast.literal_eval(texts["imgsz"]) == [32, 32]
    assert json.loads(texts["vitrail"])["classes"] == list(card.classes)
    assert texts["Image.BitmapPixelFormat"] == "Rgb8"


def with_card(**changes: Any) -> Callable[..., Any]:
    """The graph of another preprocessing or temperature than the file says."""

    def sabotaged(model: ViT, card: weights.Card, **asked: Any) -> Any:
        other = {name: change(card) for name, change in changes.items()}
        graph, _ = built(model, dataclasses.replace(card, **other), **asked)
        return graph, dataclasses.replace(
            built(model, card, **asked)[1], graph_sha256=read_onnx(graph, "x").graph_sha256
        )

    return sabotaged


def with_description(**changes: Any) -> Callable[..., Any]:
    """A file that says something else than its graph does."""

    def sabotaged(model: ViT, card: weights.Card, **asked: Any) -> Any:
        graph, description = built(model, card, **asked)
        return graph, dataclasses.replace(description, **{name: change(card) for name, change in changes.items()})

    return sabotaged


def with_graph(change: Callable[[onnx.ModelProto], object]) -> Callable[..., Any]:
    """A graph that somebody edited, and signed again."""

    def sabotaged(model: ViT, card: weights.Card, **asked: Any) -> Any:
        graph, description = built(model, card, **asked)
        proto = onnx.load_from_string(graph)
        change(proto)
        edited = proto.SerializeToString()
        return edited, dataclasses.replace(description, graph_sha256=read_onnx(edited, "x").graph_sha256)

    return sabotaged


def bgr(proto: onnx.ModelProto) -> None:
    node = next(one for one in proto.graph.node if one.op_type == "Transpose")
    order = numpy_helper.from_array(np.array([2, 1, 0]), "order")
    proto.graph.initializer.append(order)
    proto.graph.node.insert(0, onnx.helper.make_node("Gather", ["image", "order"], ["turned"], axis=3))
    node.input[0] = "turned"


def flipped_bit(proto: onnx.ModelProto) -> None:
    largest = max(proto.graph.initializer, key=lambda one: len(one.raw_data))
    raw = bytearray(largest.raw_data)
    raw[3] ^= 0x08  # the exponent of the first weight
    largest.raw_data = bytes(raw)


def baked_batch(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def preprocessing_with(**changes: Any) -> Callable[[weights.Card], Preprocessing]:
    return lambda card: dataclasses.replace(card.preprocessing, **changes)


SABOTAGE = {
    "wrong mean": with_card(preprocessing=preprocessing_with(mean=(0.5, 0.45, 0.4))),
    "no temperature": with_card(calibration=lambda _: dataclasses.replace(CALIBRATED, temperature=1.0)),
    "swapped labels": with_description(classes=lambda _: ("b", "a", "c", "d", "e")),
    "crop off by one": with_description(
        preprocessing=preprocessing_with(resize_size=(33, 33), resize_filter="bicubic")
    ),
    "squash for crop": with_description(preprocessing=preprocessing_with(resize_mode="squash")),
    "another filter": with_description(preprocessing=preprocessing_with(resize_filter="bilinear")),
    "BGR": with_graph(bgr),
    "flipped bit": with_graph(flipped_bit),
    "baked batch": with_graph(baked_batch),
}


@pytest.mark.parametrize("kind", SABOTAGE)
def test_the_gate_catches_sabotage(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "built", SABOTAGE[kind])
    out = tmp_path / "model.onnx"
    with pytest.raises(VitrailError, match="answers otherwise|cannot be run"):
        export_model(predictor_of(*a_model(calibrated=True)), out, PHOTOGRAPHS)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_where_the_gate_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, out = predictor_of(*a_model(calibrated=True)), tmp_path / "model.onnx"
    export_model(predictor, out, PHOTOGRAPHS)
    before = out.read_bytes()
    monkeypatch.setattr(exporting, "built", SABOTAGE["wrong mean"])
    with pytest.raises(VitrailError) as refused:
        export_model(predictor, out, PHOTOGRAPHS)
    assert refused.value.exit_status == 1  # nothing that was asked for explains it
    assert out.read_bytes() == before
    found = export_model(predictor, out, PHOTOGRAPHS, ExportOptions(force=True))
    assert not found.parity["passed"]
    assert "forced" in (ExportedPredictor(out).note or "")


def test_a_lossy_file_beyond_its_limits_is_refused(tmp_path: Path) -> None:
    """A random model that pools by attention changes 4 of 32 labels where 8 of 16 tokens are gone."""
    with pytest.raises(VitrailError, match="labels are equal") as refused:
        export_model(predictor_of(*a_model("map")), tmp_path / "x.onnx", PHOTOGRAPHS, ExportOptions(merge=8))
    assert refused.value.exit_status == 2
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"something")
    (tmp_path / "folder.onnx").mkdir()
    for name, told in {"x.onnx": "something else", "folder.onnx": "something else", "x.pt": "end in .onnx"}.items():
        with pytest.raises(ConfigError, match=told):
            export_model(predictor_of(*a_model()), tmp_path / name, PHOTOGRAPHS)
    assert (tmp_path / "x.onnx").read_bytes() == b"something"


def test_too_few_images(tmp_path: Path) -> None:
    few = dataclasses.replace(PHOTOGRAPHS, encoded=[*PHOTOGRAPHS.encoded[:31], b"no image"], labels=None)
    with pytest.raises(ConfigError, match="Too few images"):
        export_model(predictor_of(*a_model()), tmp_path / "x.onnx", few)


# ---- files of strangers ------------------------------------------------------------------------------------------


def hostile(file: bytes, tmp_path: Path) -> dict[str, bytes]:
    """What is refused: damaged, foreign, or pointing elsewhere."""
    proto = onnx.load_from_string(file)
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.metadata_props[:]
    outside = onnx.ModelProto()
    outside.CopyFrom(proto)
    tensor = max(outside.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="/etc/passwd"))
    in_node = onnx.ModelProto()
    in_node.CopyFrom(proto)
    value = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    value.external_data.append(onnx.StringStringEntryProto(key="location", value="../x"))
    in_node.graph.node.append(onnx.helper.make_node("Constant", [], ["z"], value=value))
    nested = onnx.ModelProto()
    nested.CopyFrom(proto)
    nested.graph.node.append(
        onnx.helper.make_node("If", ["c"], ["z"], then_branch=proto.graph, else_branch=proto.graph)
    )
    told = json.loads(next(one.value for one in proto.metadata_props if one.key == "vitrail"))

    def saying(**changes: Any) -> bytes:
        return bare.SerializeToString() + encoded_metadata({"vitrail": json.dumps({**told, **changes})})

    at = file.index(proto.graph.initializer[5].raw_data[:32]) + 5
    return {
        "empty": b"",
        "noise": np.random.default_rng(0).bytes(5000),
        "cut": file[: len(file) // 2],
        "a bit flipped in a weight": file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :],
        "of another library": bare.SerializeToString(),
        "weights elsewhere": outside.SerializeToString(),
        "weights elsewhere, in a node": in_node.SerializeToString(),
        "graphs in a node": nested.SerializeToString(),
        "much beside the graph": file + encoded_metadata({"x": "y" * (1 << 20)}),
        "no JSON": bare.SerializeToString() + encoded_metadata({"vitrail": "{"}),
        "deep JSON": bare.SerializeToString() + encoded_metadata({"vitrail": "[" * 100_000}),
        "newer": saying(format_version=2),
        "another size": saying(input={**told["input"], "size": [64, 64]}),
        "more classes": saying(classes=["a"] * 6, num_labels=6),
        "fewer names": saying(classes=["a"]),
        "an unknown key": saying(run="rm"),
        "temperature 0": saying(temperature=0),
        "NaN": saying(temperature=float("nan")),
        "thresholds without distances": saying(unknown={"reject": 0.1, "min_probability": 0.5, "max_distance": 1}),
    }  # fmt: skip


def test_files_of_strangers_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    written(path, *a_model())
    for name, file in hostile(path.read_bytes(), tmp_path).items():
        path.write_bytes(file)
        with pytest.raises(WeightsError) as refused:
            ExportedPredictor(path)
        assert len(str(refused.value)) < 1500, name
        assert len(str(refused.value).splitlines()) <= 3, name


def test_weights_that_are_no_numbers_are_an_error_and_not_an_answer(tmp_path: Path) -> None:
    model, card = a_model()
    with torch.no_grad():
        model.patch_embed.proj.bias.fill_(float("nan"))
    predictor = written(tmp_path / "x.onnx", model, card)
    with pytest.raises(WeightsError, match="not finite"):
        predictor(np.zeros((32, 32, 3), np.uint8))


def test_an_image_in_every_form_gives_the_same(tmp_path: Path) -> None:
    model, card = a_model()
    predictor, array = written(tmp_path / "x.onnx", model, card), np.random.default_rng(0).integers(0, 256, (50, 40, 3))
    array = array.astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms: list[Any] = [
        array,
        buffer.getvalue(),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(array),
        tensor,
    ]
    answers = predictor(forms, top=2)
    assert len({answer.top for answer in answers}) == 1
    assert len(answers[0].top) == 2
    assert predictor(buffer.getvalue())[0].top[:2] == answers[0].top
    assert answers[0].top[0].label == predictor_of(model, card)(array)[0].label
