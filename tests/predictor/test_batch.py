"""A BatchPredictor gives a row the same answer wherever it is, and goes to the workers of other frameworks."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitrail
from tests.support.images import encode, noise
from tests.support.random_vit import random_vit
from vitrail.errors import ConfigError, InputError
from vitrail.predictor import BatchPredictor

PNGS = [encode(noise(20, 24, seed=number), "PNG") for number in range(11)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    vit = random_vit()
    preprocessing = vitrail.Preprocessing(image_size=(16, 16), decode_size=(16, 16))
    vitrail.save(path, vit, vitrail.Card(geometry=vit.config, preprocessing=preprocessing, classes=tuple("abcde")))
    return path


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes()
        for name in one
        if np.asarray(one[name]).dtype.kind != "O"
    )


@pytest.mark.parametrize(
    ("engine", "precision"),
    [("torch", "fp32"), ("torch", "bf16"), ("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32")],
)
@pytest.mark.parametrize("what", ["probabilities", "embedding"])
def test_a_row_does_not_depend_on_how_many_came_with_it(engine: str, precision: str, what: Any, model: Path) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    predictor = BatchPredictor(model, what=what, engine=engine, precision=precision, batch_size=8)
    assert predictor.loaded.about["engine"] == engine
    assert predictor.loaded.batch_size == (1 if precision == "int8" else 8)
    name = "embedding" if what == "embedding" else "probabilities"
    whole = predictor({"bytes": PNGS})
    assert len(whole[name]) == len(PNGS)
    # A batch is cut at eights, so the places in a pass stay as they are.
    parts = [
        predictor({"bytes": PNGS[:8]}),
        predictor({"bytes": PNGS[8:10]}),
        predictor({"bytes": [b"", b"", PNGS[10]]}),
    ]
    assert np.array_equal(whole[name][:10], np.concatenate([part[name] for part in parts[:2]]))
    assert np.array_equal(whole[name][10], parts[2][name][2])
    assert np.isnan(parts[2][name][:2].astype(np.float32)).all()
    assert [bool(reason) for reason in parts[2]["error"]] == [True, True, False]


def test_forms_of_images_and_other_columns(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNGS[0])
    predictor = BatchPredictor(model, top=2)
    pixels = noise(20, 24, seed=0)
    given: list[dict[str, Any]] = [
        {"bytes": np.array([PNGS[0]], object)},
        {"path": np.array([str(tmp_path / "a.png")])},
        {"image": pixels[None]},
        {"image": [Image.fromarray(pixels)]},
        {"image": [{"bytes": PNGS[0], "path": None}]},
        {"image": [{"bytes": None, "path": str(tmp_path / "a.png")}]},
    ]
    answers = [predictor(batch) for batch in given]
    for answer in answers:
        assert answer["label"][0] == answers[0]["label"][0]
        assert answer["score"][0] == answers[0]["score"][0] >= answer["score_2"][0]
        assert answer["error"][0] == ""
    (expected,) = vitrail.Predictor(model)(PNGS[0])
    assert answers[0]["label"][0] == expected.label
    assert predictor({"id": np.array([7]), "image": [None], "path": ["x"]})["id"] == [7]
    assert "image" not in answers[2]
    with pytest.raises(InputError, match="no images"):
        predictor({"pixels": pixels[None]})
    for batch in ({"path": "a.png"}, {"bytes": PNGS[0]}):
        with pytest.raises(InputError, match="is no column"):
            predictor(batch)


def test_it_can_be_sent_before_and_after_it_was_used(model: Path) -> None:
    predictor = BatchPredictor(model, what="embedding")
    fresh = pickle.dumps(predictor)
    answer = predictor({"bytes": PNGS})
    used = pickle.dumps(predictor)
    assert len(used) == len(fresh) < 2000
    assert equal(pickle.loads(used)({"bytes": PNGS}), answer)


def test_wrong_options_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        BatchPredictor(model, top=0)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match="exported file"):
        BatchPredictor(tmp_path / "model.onnx", what="embedding")
    with pytest.raises(ConfigError, match="--merge"):
        BatchPredictor(tmp_path / "model.onnx", merge=2)
    with pytest.raises(ConfigError, match="--views mirror with --what embedding"):
        BatchPredictor(model, what="embedding", views="mirror")


def test_datasets_map(model: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(noise(20, 24, seed=number)) for number in range(11)]
    table = datasets.Dataset.from_dict({"id": list(range(11)), "image": images}).cast_column("image", datasets.Image())
    predictor = BatchPredictor(model, what="embedding")
    found = table.map(predictor, batched=True, batch_size=4, remove_columns=["image"])
    assert found["id"] == list(range(11))
    expected = predictor({"bytes": PNGS})["embedding"]
    assert np.array_equal(np.array(found["embedding"], np.float16), expected)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_ray_goes_on_when_an_actor_is_killed(model: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    import os
    import signal
    import sys

    marker = tmp_path / "killed"

    class Dying(BatchPredictor):
        """The first worker that comes to the third image is gone."""

        def __call__(self, batch: Any) -> dict[str, Any]:
            if 3 in batch["id"] and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
    )
    try:
        rows = [{"id": number, "bytes": one} for number, one in enumerate(PNGS)]
        table = ray.data.from_items(rows, override_num_blocks=4)
        found = table.map_batches(
            Dying,
            fn_constructor_args=(str(model),),
            fn_constructor_kwargs={"what": "embedding"},
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=2),
        ).take_all()
    finally:
        ray.shutdown()
    assert marker.exists()
    found.sort(key=lambda row: row["id"])
    assert [row["id"] for row in found] == list(range(11))
    expected = BatchPredictor(model, what="embedding")({"bytes": PNGS})["embedding"]
    assert np.array_equal(np.stack([row["embedding"] for row in found]), expected)
