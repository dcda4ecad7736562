"""Models written for transformers and timm: their libraries open them and compute the same; read back, bit-equal."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tests.support.torchvision_operators  # noqa: F401  (before transformers and timm)
from tests.support.random_vit import random_vit
from vitrail import weights
from vitrail.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.model import ViT
from vitrail.weights import Card, verify
from vitrail.weights.writer import random_images

pytest.importorskip("transformers")
pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
ATOL = 1e-5


def card_of(model: ViT, **changes: Any) -> Card:
    height, width = (
        (model.config.image_size,) * 2 if isinstance(model.config.image_size, int) else model.config.image_size
    )
    channels = model.config.num_channels
    return Card(
        geometry=model.config,
        classes=tuple(f"class {chr(97 + i)}" for i in range(model.config.num_labels)),
        preprocessing=Preprocessing(
            image_size=(height, width),
            decode_size=(height, width),
            channels="RGB" if channels == 3 else "L",
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            **{"icc": "ignore", **changes},
        ),
        provenance={"source": "random"},
    )


def same_after_reading(model: ViT, target: Path) -> Card:
    again, card = weights.load(target)
    images = random_images(model.config)
    with torch.inference_mode():
        torch.testing.assert_close(again(images)["logits"], model(images)["logits"], atol=ATOL, rtol=0)
    assert card.classes == card_of(model).classes
    return card


PLAIN: dict[str, dict[str, Any]] = {
    "vit": {},
    "not square": {"image_size": (16, 24)},
    "tanh": {"activation": "gelu_tanh", "layer_norm_eps": 1e-12},
    "no qkv bias": {"qkv_bias": False},
    "grey": {"num_channels": 1},
    "features": {"num_labels": 0},
    "layer scale": {"layer_scale": 0.3},
    "norm after pooling": {"final_norm": "pooled"},
    "positions of patches alone": {"prefix_positions": False},
    "mask token": {"use_mask_token": True},
    "distilled": {"use_distillation_token": True, "pooling": "cls_dist"},
    "distilled, one head": {"use_distillation_token": True},
    "registers": {"num_registers": 3},
    "registers and layer scale": {"num_registers": 3, "layer_scale": 0.3},
    "swiglu": {"activation": "swiglu", "mlp_ratio": 24 * 2 / 32},
    "sin-cos": {"position": "sincos"},
}
HUGGING_FACE = {**PLAIN, "class and mean": {"pooling": "cls_mean"}}
TIMM = {
    **{name: changes for name, changes in PLAIN.items() if name != "tanh"},
    "tanh": {"activation": "gelu_tanh"},
    "mean": {"pooling": "mean"},
    "mean, pooled norm": {"pooling": "mean", "final_norm": "pooled"},
    "mean without class token": {"pooling": "mean", "use_class_token": False},
    "max": {"pooling": "max"},
    "attention pooling": {"pooling": "map", "use_class_token": False},
    "qk norm": {"qk_norm": True},
}


@pytest.mark.parametrize("changes", HUGGING_FACE.values(), ids=HUGGING_FACE)
def test_transformers_computes_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = random_vit(**changes)
    weights.write(tmp_path / "hf", model, card_of(model), "huggingface")
    assert verify.max_logit_difference(model, tmp_path / "hf", "huggingface") <= ATOL
    same_after_reading(model, tmp_path / "hf")


@pytest.mark.parametrize("changes", TIMM.values(), ids=TIMM)
def test_timm_computes_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = random_vit(**{"layer_norm_eps": 1e-6, **changes})
    written = weights.write(tmp_path / "timm", model, card_of(model), "timm")
    assert not written.lost
    assert verify.max_logit_difference(model, tmp_path / "timm", "timm") <= ATOL
    same_after_reading(model, tmp_path / "timm")


geometries = st.fixed_dictionaries(
    {
        "patch_size": st.sampled_from([2, 3, 5]),
        "grid": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "num_attention_heads": st.sampled_from([1, 2, 4]),
        "head_width": st.sampled_from([4, 6, 8]),
        "num_hidden_layers": st.integers(1, 3),
        "mlp_units": st.integers(5, 70),
        "num_labels": st.integers(1, 7),
        "num_channels": st.sampled_from([1, 3]),
        "qkv_bias": st.booleans(),
        "layer_scale": st.sampled_from([0.0, 0.3]),
        "activation": st.sampled_from(["gelu", "gelu_tanh"]),
    }
)


def of(drawn: dict[str, Any], **changes: Any) -> ViT:
    values = dict(drawn)
    grid, width = values.pop("grid"), values["num_attention_heads"] * values.pop("head_width")
    values |= {"image_size": tuple(side * values["patch_size"] for side in grid), "hidden_size": width}
    ratio = values.pop("mlp_units") / width
    return random_vit(**{**values, "mlp_ratio": ratio, **changes})


EXAMPLES = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@EXAMPLES
@given(drawn=geometries)
def test_any_geometry_through_transformers(tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, Any]) -> None:
    model, folder = of(drawn), tmp_path_factory.mktemp("hf") / "m"
    weights.write(folder, model, card_of(model), "huggingface")
    assert verify.max_logit_difference(model, folder, "huggingface") <= ATOL
    same_after_reading(model, folder)


@EXAMPLES
@given(drawn=geometries, registers=st.integers(0, 3), pooling=st.sampled_from(["cls", "mean"]), qk_norm=st.booleans())
def test_any_geometry_through_timm(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, Any], registers: int, pooling: str, qk_norm: bool
) -> None:
    model = of(drawn, num_registers=registers, pooling=pooling, qk_norm=qk_norm, layer_norm_eps=1e-6)
    folder = tmp_path_factory.mktemp("timm") / "m"
    weights.write(folder, model, card_of(model), "timm")
    assert verify.max_logit_difference(model, folder, "timm") <= ATOL
    same_after_reading(model, folder)


def test_tensors_come_back_bit_equal(tmp_path: Path) -> None:
    model = random_vit(layer_norm_eps=1e-6)
    for to in ("huggingface", "timm"):
        weights.write(tmp_path / to, model, card_of(model), to)
        again, _ = weights.load(tmp_path / to)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
        stored = safetensors.torch.load_file(tmp_path / to / "model.safetensors")
        split = {"huggingface": 4 * model.config.num_hidden_layers, "timm": 0}  # q, k and v are each a tensor there
        assert len(stored) == len(model.state_dict()) + split[to]


@pytest.mark.parametrize(
    ("changes", "read", "lost"),
    [
        ({"resize_size": (20, 20), "crop_rounding": "floor"}, {}, []),
        ({"resize_mode": "squash"}, {}, []),
        ({}, {"resize_size": (16, 16), "crop_rounding": "floor"}, ["odd crop margins"]),  # no file says half to even
    ],
    ids=str,
)
def test_preprocessing_comes_back(
    tmp_path: Path, changes: dict[str, Any], read: dict[str, Any], lost: list[str]
) -> None:
    model = random_vit(layer_norm_eps=1e-6)
    card = card_of(model, **changes)
    written = weights.write(tmp_path / "hf", model, card, "huggingface")
    _, again = weights.load(tmp_path / "hf")
    assert again.preprocessing == dataclasses.replace(card.preprocessing, **read)
    assert [line[:16] for line in written.lost] == lost


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "convolutions": ("huggingface", {"stem_channels": (8,), "stem_strides": (1,)}),
    "convolutions, timm": ("timm", {"stem_channels": (8,), "stem_strides": (1,)}),
    "pooling mean": ("huggingface", {"pooling": "mean"}),
    "key norms": ("huggingface", {"qk_norm": True}),
    "cls_mean": ("timm", {"pooling": "cls_mean"}),
}


@pytest.mark.parametrize(("to", "changes"), REFUSED.values(), ids=REFUSED)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, to: Any, changes: dict[str, Any]) -> None:
    model = random_vit(**changes)
    with pytest.raises(WeightsError, match="no place for this model"):
        weights.write(tmp_path / "m", model, card_of(model), to)
    assert not (tmp_path / "m").exists()


def test_timm_says_what_its_constant_costs(tmp_path: Path) -> None:
    model = random_vit(layer_norm_eps=1e-3)
    written = weights.write(tmp_path / "m", model, card_of(model), "timm")
    assert "layer_norm_eps" in written.lost[0]
    with pytest.raises(WeightsError, match="other logits"):
        verify.max_logit_difference(model, tmp_path / "m", "timm")


def test_a_folder_that_is_taken_stays_as_it_is(tmp_path: Path) -> None:
    model = random_vit()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WeightsError, match="not free"):
        weights.write(tmp_path, model, card_of(model), "huggingface")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
