"""Every family at full size, a B/16 or B/14 of random weights: the same logits read, and written back for the source.

What adds up over twelve layers, as an epsilon or a GELU of the wrong kind, hardly shows in models of three.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tests.support.torchvision_operators  # noqa: F401  (before transformers and timm)
from tests.support.random_vit import randomise
from vitrail import weights
from vitrail.config import ViTConfig
from vitrail.model import ViT
from vitrail.weights import verify
from vitrail.weights.families import dinov2, google, torchvision

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

STD = 0.03
IMAGE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(7))


def full_size(make: Callable[[], Any]) -> Any:
    """A model without the time that its own initialisation takes; layer scales near 0.3, so that they show."""
    with torch.device("meta"):
        model = make()
    return filled(model.to_empty(device="cpu"))


def filled(model: Any) -> Any:
    randomise(model, 0, STD)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma", "lambda1")):
                parameter.add_(0.3)
    return model.eval()


def agrees(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, rtol=0, atol=verify.TOLERANCE * max(1.0, float(theirs.abs().max())))


def written_back(tmp_path: Path, model: ViT, card: weights.Card, to: Any) -> None:
    weights.write(tmp_path / "back", model, card, to)
    verify.max_logit_difference(model, tmp_path / "back", to)  # raises beyond the tolerance


def first_only(name: str, rows: dict[str, Any]) -> list[pytest.MarkDecorator]:
    """The first model of each library is among the quick tests."""
    return [] if name == next(iter(rows)) else [pytest.mark.long]


HUGGING_FACE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT": ("ViTForImageClassification", "ViTConfig", {}),
    "DeiT, distilled": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {}),
    "DINOv2": (
        "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig",
        {"image_size": 224, "patch_size": 14, "num_register_tokens": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "configuration", "changes"),
    [pytest.param(*row, id=name, marks=first_only(name, HUGGING_FACE)) for name, row in HUGGING_FACE.items()],
)
@torch.no_grad()
def test_transformers(tmp_path: Path, architecture: str, configuration: str, changes: dict[str, Any]) -> None:
    config = getattr(transformers, configuration)(num_labels=1000, **changes)
    theirs = full_size(lambda: getattr(transformers, architecture)(config))
    theirs.save_pretrained(tmp_path / "theirs")
    model, card = weights.load(tmp_path / "theirs")
    assert model.config.hidden_size == 768
    agrees(model(IMAGE)["logits"], theirs(IMAGE).logits)
    written_back(tmp_path, model, card, "huggingface")


TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("vit_base_patch16_224", {}),
    "mean pooling": ("vit_base_patch16_224", {"global_pool": "avg"}),
    "DeiT, distilled": ("deit_base_distilled_patch16_224", {}),
    "DINOv2, registers": ("vit_base_patch14_reg4_dinov2", {"img_size": 224}),
}


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [pytest.param(*row, id=name, marks=first_only(name, TIMM)) for name, row in TIMM.items()],
)
@torch.no_grad()
def test_timm(tmp_path: Path, architecture: str, changes: dict[str, Any]) -> None:
    theirs = filled(timm.create_model(architecture, num_classes=1000, **changes))
    timm.models.save_for_hf(
        theirs, tmp_path / "theirs", model_args={**changes, "num_classes": 1000}, safe_serialization=True
    )
    model, card = weights.load(tmp_path / "theirs")
    agrees(model(IMAGE)["logits"], theirs(IMAGE))
    written_back(tmp_path, model, card, "timm")


@pytest.mark.long
@torch.no_grad()
def test_google_as_timm_reads_it(tmp_path: Path) -> None:
    original: ViT = filled(ViT(ViTConfig.named("B/16", num_labels=1000, layer_norm_eps=1e-6)))
    table = google.table(12, linen=False, big_vision=False)
    stored = {name: tensor.numpy() for name, tensor in table.write(original.state_dict()).items()}
    np.savez(tmp_path / "m.npz", **stored)
    model, _ = weights.load(tmp_path / "m.npz")
    theirs = timm.create_model("vit_base_patch16_224", num_classes=1000)
    theirs.load_pretrained(str(tmp_path / "m.npz"))
    agrees(model(IMAGE)["logits"], theirs.eval()(IMAGE))
    again = table.write(model.state_dict())
    assert all(np.array_equal(again[name].numpy(), array) for name, array in stored.items())


@pytest.mark.long
@torch.no_grad()
def test_torchvision_there_and_back(tmp_path: Path) -> None:
    from torchvision.models import VisionTransformer

    def make() -> nn.Module:
        return VisionTransformer(224, 16, 12, 12, 768, 3072)

    theirs = filled(make())
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    model, _ = weights.load(tmp_path / "vit.pth")
    agrees(model(IMAGE)["logits"], theirs(IMAGE))
    again = make()
    again.load_state_dict(torchvision.TABLE.write(model.state_dict()), strict=True)
    agrees(again.eval()(IMAGE), model(IMAGE)["logits"])


@pytest.mark.long
@torch.no_grad()
def test_meta_dinov2(tmp_path: Path) -> None:
    """Meta's names are those of timm but for three; the oracle is timm."""
    theirs = filled(timm.create_model("vit_base_patch14_reg4_dinov2", img_size=224, num_classes=0))
    timm.models.save_for_hf(theirs, tmp_path / "theirs", model_args={"img_size": 224, "num_classes": 0},
                            safe_serialization=True)  # fmt: skip
    as_timm, _ = weights.load(tmp_path / "theirs")
    state = dinov2.META.write(as_timm.state_dict())
    torch.save(state, tmp_path / "m.pth")
    model, _ = weights.load(tmp_path / "m.pth")
    agrees(model(IMAGE)["logits"], theirs(IMAGE))
    again = dinov2.META.write(model.state_dict())
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
