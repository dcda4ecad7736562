"""Image files through our whole path and through the other library's own transform."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tests.support.torchvision_operators  # noqa: F401  (before transformers and timm)
import vitrail
from vitrail import weights
from vitrail.errors import WeightsError
from vitrail.weights.verify_files import file_difference

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

KINDS = {"plain", "ICC profile", "grey", "CMYK", "turned by EXIF"}


def model_with(**steps: Any) -> tuple[vitrail.ViT, weights.Card]:
    geometry = vitrail.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=3,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    preprocessing = vitrail.Preprocessing(image_size=(32, 32), decode_size=(32, 32), **steps)
    torch.manual_seed(0)
    return vitrail.ViT(geometry).eval(), weights.Card(
        geometry=geometry, classes=("a", "b", "c"), preprocessing=preprocessing
    )


@pytest.mark.parametrize(
    ("library", "steps", "same"),
    [
        ("huggingface", {"resize_mode": "squash"}, True),
        ("huggingface", {"resize_size": (40, 40), "crop_rounding": "floor"}, True),
        ("huggingface", {"resize_size": (47, 47)}, False),  # it rounds odd margins down
        ("timm", {"resize_mode": "squash"}, True),
        ("timm", {"resize_size": (40, 40), "crop_rounding": "floor"}, False),  # it rounds them half to even
        ("timm", {"resize_size": (47, 47)}, True),
    ],
)
def test_the_other_library_makes_the_same_of_files(
    tmp_path: Path, library: Any, steps: dict[str, Any], same: bool
) -> None:
    model, card = model_with(icc="ignore", **steps)
    written = weights.write(tmp_path / "folder", model, card, library)
    assert [line[:16] for line in written.lost] == ([] if same else ["odd crop margins"])
    found = file_difference(model, card.preprocessing, tmp_path / "folder", library, must_agree=same)
    assert found is not None
    assert found.inputs.keys() == KINDS
    assert (max(found.inputs.values()) < 1e-5, found.max_logit < 1e-5) == (same, same)
    again, card_again = weights.load(tmp_path / "folder")
    assert card_again.preprocessing.icc == "ignore"
    assert file_difference(again, card_again.preprocessing, tmp_path / "folder", library, must_agree=True) is not None


@pytest.mark.parametrize("library", ["huggingface", "timm"])
def test_an_applied_profile_is_a_difference(tmp_path: Path, library: Any) -> None:
    model, card = model_with(resize_mode="squash")
    written = weights.write(tmp_path / "folder", model, card, library)
    assert [line for line in written.lost if "ICC" in line]
    found = file_difference(model, card.preprocessing, tmp_path / "folder", library, must_agree=False)
    assert found is not None
    assert {name for name, difference in found.inputs.items() if difference > 1e-4} == {"ICC profile"}
    assert found.max_logit > 1e-3
    with pytest.raises(WeightsError, match="another input of an image file .ICC profile"):
        file_difference(model, card.preprocessing, tmp_path / "folder", library, must_agree=True)


def test_another_resize_is_found(tmp_path: Path) -> None:
    model, card = model_with(icc="ignore", resize_mode="squash")
    weights.write(tmp_path / "folder", model, card, "timm")
    other = dataclasses.replace(card.preprocessing, resize_filter="bilinear")
    with pytest.raises(WeightsError, match="another input"):
        file_difference(model, other, tmp_path / "folder", "timm", must_agree=True)


def test_a_folder_that_does_not_say_how(tmp_path: Path) -> None:
    model, card = model_with(icc="ignore", resize_mode="squash")
    weights.write(tmp_path / "folder", model, card, "huggingface")
    (tmp_path / "folder" / "preprocessor_config.json").unlink()
    assert file_difference(model, card.preprocessing, tmp_path / "folder", "huggingface", must_agree=True) is None
    weights.write(tmp_path / "timm", model, card, "timm")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    del config["pretrained_cfg"]
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    assert file_difference(model, card.preprocessing, tmp_path / "timm", "timm", must_agree=True) is None
