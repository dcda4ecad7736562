"""The mean over an image and its mirror image: from every form of a model, at any temperature, beside "unknown"."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitrail
from tests.exporting.test_export import a_model, predictor_of, some_pixels, written
from vitrail.errors import ConfigError
from vitrail.predictor import Predictor
from vitrail.predictor.answers import Outputs, joined, ranked
from vitrail.predictor.views import mean_over_mirror
from vitrail.runtime import EngineOptions
from vitrail.weights.calibration import Unknown

TOLERANCE = 1e-6
ENGINE_TOLERANCE = 2e-5


@pytest.mark.parametrize("variant", ["plain", "larger decode size", "yes or no"])
def test_logits_are_averaged_and_then_divided_by_the_temperature(variant: str, tmp_path: Path) -> None:
    model, card = a_model(variant, calibrated=True)
    predictor, pixels = predictor_of(model, card), some_pixels(card)
    mirrored = np.ascontiguousarray(pixels[..., ::-1])
    alone, other, found = predictor.outputs(pixels), predictor.outputs(mirrored), predictor.outputs(pixels, "mirror")
    scaled = torch.from_numpy((alone.logits + other.logits) / 2) / 1.7
    expected = scaled.sigmoid() if variant == "yes or no" else scaled.softmax(1)
    assert np.array_equal(found.logits, (alone.logits + other.logits) / 2)
    np.testing.assert_allclose(found.probabilities, expected.numpy(), rtol=0, atol=TOLERANCE)
    assert np.abs(found.probabilities - alone.probabilities).max() > 100 * TOLERANCE
    assert np.array_equal(predictor.outputs(mirrored, "mirror").probabilities, found.probabilities)
    exported = written(tmp_path / "x.onnx", model, card).outputs(pixels, "mirror")
    np.testing.assert_allclose(exported.probabilities, found.probabilities, rtol=0, atol=ENGINE_TOLERANCE)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_engines_agree(engine: Any) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    model, card = a_model("plain", calibrated=True)
    images = list(some_pixels(card).transpose(0, 2, 3, 1))
    predictor = Predictor((model, card), device="cpu", options=EngineOptions(engine=engine))
    for mine, theirs in zip(
        predictor_of(model, card)(images, views="mirror"), predictor(images, views="mirror"), strict=True
    ):
        assert theirs.label == mine.label
        assert theirs.probability == pytest.approx(mine.probability, abs=ENGINE_TOLERANCE)
    assert predictor.chosen(1).engine == engine


def test_unknown_is_decided_by_the_image_alone() -> None:
    """Two images: one sure alone and unsure in the mean, one the other way round."""
    logits = {0: (4.0, 0.0), 1: (0.0, 4.0), 2: (0.5, 0.0), 3: (9.0, 0.0)}

    def run(pixels: np.ndarray) -> Outputs:
        rows = np.array([logits[int(image[0, 0, 0])] for image in pixels], np.float32)
        probabilities = torch.from_numpy(rows).softmax(1).numpy()
        return Outputs(probabilities, rows, pixels[:, 0, 0, 0].astype(np.float32))

    pixels = np.array([[[[0, 1]]], [[[2, 3]]]], np.uint8)
    found = mean_over_mirror(run, pixels, temperature=1.0, is_yes_or_no=False)
    np.testing.assert_allclose(found.probabilities, [[0.5, 0.5], [0.9914, 0.0086]], atol=1e-4)
    for outputs in (found, joined([found])):
        answers = ranked(outputs, ("a", "b"), 1, Unknown(reject=0.1, min_probability=0.7, max_distance=5.0))
        assert [(one.is_unknown, one.distance) for one in answers] == [(False, 0.0), (True, 2.0)]


@pytest.mark.unchecked
def test_a_wrong_word_is_refused(tmp_path: Path) -> None:
    model, card = a_model()
    live, exported = predictor_of(model, card), written(tmp_path / "x.onnx", model, card)
    wrong: Any = {"views": "both"}
    for call in (
        lambda: live(np.zeros((32, 32, 3), np.uint8), **wrong),
        lambda: exported(np.zeros((32, 32, 3), np.uint8), **wrong),
        lambda: vitrail.evaluate(live, "digits", **wrong),
        lambda: vitrail.BatchPredictor(tmp_path / "x.onnx", **wrong),
    ):
        with pytest.raises(ConfigError, match=r"--views has a wrong value\.(.|\n)*both; expected single or mirror"):
            call()
