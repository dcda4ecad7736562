"""Random weights made and saved by each source library, read here: the same logits; and the files' bits come back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import tests.support.torchvision_operators  # noqa: F401  (before transformers and timm)
from tests.support.random_vit import random_vit, randomise
from vitrail import weights
from vitrail.model import ViT
from vitrail.weights.families import dinov2, google, huggingface, torchvision
from vitrail.weights.families import timm as timm_family

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

ATOL = 1e-5
STD = 0.05
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_labels": 10}


def images(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(7))


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter random; layer scales near 0.3, so that a forgotten one shows."""
    randomise(model, 3, STD)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma", "lambda1", "gamma_1", "gamma_2")):
                parameter.add_(0.3)
    return model.eval()


@torch.no_grad()
def same_logits(model: ViT, expected: Tensor, given: Tensor, atol: float = ATOL) -> None:
    assert expected.std() > 0.05
    torch.testing.assert_close(model(given)["logits"], expected, rtol=0, atol=atol)


def written_back(model: ViT, table: Any, stored: dict[str, Tensor]) -> None:
    """The family's names and bits come back from the canonical tensors."""
    again = table.write(model.state_dict())
    assert again.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(again[name], tensor), name


HUGGING_FACE = [
    ("ViTForImageClassification", "ViTConfig", {"image_size": 48, "patch_size": 8, "intermediate_size": 100}),
    ("ViTForImageClassification", "ViTConfig", {"image_size": [24, 40], "patch_size": [4, 8], "num_channels": 1}),
    ("ViTForImageClassification", "ViTConfig", {"image_size": 30, "patch_size": 6, "qkv_bias": False,
                                                "hidden_act": "gelu_new", "layer_norm_eps": 1e-5}),
    ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {"image_size": 48, "patch_size": 8}),
    ("DeiTForImageClassification", "DeiTConfig", {"image_size": 48, "patch_size": 8}),
    ("Dinov2ForImageClassification", "Dinov2Config", {"image_size": 56, "patch_size": 14, "mlp_ratio": 2}),
    ("Dinov2ForImageClassification", "Dinov2Config", {"image_size": 56, "patch_size": 14, "use_swiglu_ffn": True}),
    ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig",
     {"image_size": 56, "patch_size": 14, "num_register_tokens": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "configuration", "changes"), HUGGING_FACE)
@torch.no_grad()
def test_hugging_face(tmp_path: Path, architecture: str, configuration: str, changes: dict[str, Any]) -> None:
    config = getattr(transformers, configuration)(**SMALL, **changes)
    theirs = randomised(getattr(transformers, architecture)(config))
    theirs.save_pretrained(tmp_path)
    model, card = weights.load(tmp_path)
    size = changes["image_size"]
    given = images(*(size if isinstance(size, list) else (size, size)), changes.get("num_channels", 3))
    same_logits(model, theirs(given).logits, given)
    assert card.classes == ()  # LABEL_0, LABEL_1, ... are no names
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    prefix = next(iter(n for n in stored if "embeddings" in n)).split(".")[0] + "."
    if prefix == "vit.":
        written_back(model, huggingface.TABLE, stored)
    elif "Teacher" in architecture:
        written_back(model, huggingface.DEIT_TABLE, stored)
    elif not changes.get("use_swiglu_ffn") and prefix.startswith("dinov2"):
        written_back(model, dinov2.HF_TABLES[prefix], stored)
    in_memory = tmp_path / "memory"
    in_memory.mkdir()
    (in_memory / "config.json").write_text((tmp_path / "config.json").read_text())
    safetensors.torch.save_file(
        {n: t.contiguous() for n, t in theirs.state_dict().items()}, in_memory / "model.safetensors"
    )
    again, _ = weights.load(in_memory)
    assert torch.equal(again(given)["logits"], model(given)["logits"])


@torch.no_grad()
def test_a_bare_model_gives_features_and_drops_its_pooler(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, intermediate_size=128)
    theirs = randomised(transformers.ViTModel(config))
    theirs.save_pretrained(tmp_path)
    model, card = weights.load(tmp_path)
    given = images(32, 32)
    same_logits(model, theirs(given).last_hidden_state[:, 0], given)
    dropped = {entry["name"] for entry in card.provenance["audit"]["dropped"]}
    assert dropped == {"pooler.dense.weight", "pooler.dense.bias"}


TIMM = [
    ("vit_base_patch16_224", {}),
    ("vit_base_patch16_224", {"img_size": (24, 40)}),
    ("vit_base_patch16_224", {"global_pool": "avg"}),
    ("vit_base_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    ("vit_base_patch16_224", {"global_pool": "max"}),
    ("vit_base_patch16_224", {"global_pool": "avgmax"}),
    ("vit_base_patch16_224", {"global_pool": "map", "class_token": False}),
    ("vit_base_patch16_224", {"init_values": 0.1, "qk_norm": True}),
    ("vit_base_patch16_224", {"reg_tokens": 4, "no_embed_class": True}),
    ("vit_base_patch16_224", {"reg_tokens": 4}),
    ("vit_base_patch16_224", {"class_token": False, "global_pool": "avg", "reg_tokens": 2}),
    ("vit_base_patch16_224", {"in_chans": 1, "qkv_bias": False}),
    ("deit3_base_patch16_224", {}),
    ("deit_base_distilled_patch16_224", {}),
    ("vit_giant_patch14_dinov2", {"mlp_ratio": 4, "global_pool": "token"}),
]


@pytest.mark.parametrize(("architecture", "changes"), TIMM)
@torch.no_grad()
def test_timm(tmp_path: Path, architecture: str, changes: dict[str, Any]) -> None:
    arguments = {"img_size": 48, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, **changes}
    theirs = randomised(timm.create_model(architecture, num_classes=10, **arguments))
    timm.models.save_for_hf(theirs, tmp_path, model_args={**arguments, "num_classes": 10}, safe_serialization=True)
    model, card = weights.load(tmp_path)
    size = arguments["img_size"]
    given = images(*(size if isinstance(size, tuple) else (size, size)), changes.get("in_chans", 3))
    same_logits(model, theirs(given), given)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    audit = card.provenance["audit"]
    folded = "reg_tokens" in changes and not changes.get("no_embed_class")  # registers with positions of their own
    assert bool(audit["adapted"]) == folded
    if not folded and "giant" not in architecture:
        written_back(model, timm_family.TABLE, stored)


@torch.no_grad()
def test_timm_file_resized_to_another_size_as_timm_does(tmp_path: Path) -> None:
    arguments = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 10}
    theirs = randomised(timm.create_model("vit_base_patch16_224", img_size=48, **arguments))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_224", "model_args": arguments}))
    larger = timm.create_model("vit_base_patch16_224", img_size=80, **arguments).eval()
    larger.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(theirs.state_dict(), larger), strict=True
    )
    model, _ = weights.load(tmp_path, image_size=80)
    same_logits(model, larger(images(80, 80)), images(80, 80))


def npz_of(model: ViT, path: Path, prefix: str = "", *, scan: bool = False, **layout: Any) -> None:
    """Write a model as Google does, by the inverse table."""
    config = model.config
    named = google.table(config.num_attention_heads, **layout).write(model.state_dict())
    arrays = {name: tensor.numpy() for name, tensor in named.items()}
    if scan:
        inner = sorted({n.split("/", 2)[2] for n in arrays if n.startswith("Transformer/encoderblock_")})
        for name in inner:
            stack = [arrays.pop(f"Transformer/encoderblock_{i}/{name}") for i in range(config.num_hidden_layers)]
            arrays[f"Transformer/encoderblock/{name}"] = np.stack(stack)
    np.savez(path, **{prefix + name: array for name, array in arrays.items()})


GOOGLE = [
    ("", False, {"linen": False, "big_vision": False}, {}),
    ("opt/target/", False, {"linen": False, "big_vision": False}, {}),
    ("", False, {"linen": True, "big_vision": False}, {}),
    ("params/", False, {"linen": True, "big_vision": True}, {"pooling": "mean", "use_class_token": False}),
    ("params/img/", True, {"linen": True, "big_vision": True}, {"pooling": "map", "use_class_token": False}),
    ("params/", True, {"linen": True, "big_vision": True}, {"prefix_positions": False}),
    ("", False, {"linen": True, "big_vision": True, "inlined_map": True}, {"pooling": "map", "use_class_token": False}),
]


@pytest.mark.parametrize(("prefix", "scan", "layout", "changes"), GOOGLE)
@torch.no_grad()
def test_google_layouts(
    tmp_path: Path, prefix: str, scan: bool, layout: dict[str, Any], changes: dict[str, Any]
) -> None:
    original = random_vit(layer_norm_eps=1e-6, **changes)
    npz_of(original, tmp_path / "m.npz", prefix, scan=scan, **layout)
    model, card = weights.load(tmp_path / "m.npz")
    same_logits(model, original(images(16, 16))["logits"], images(16, 16), 1e-6)
    assert card.geometry.num_attention_heads == 4
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@torch.no_grad()
def test_a_head_that_reads_pre_logits_is_not_kept_without_them(tmp_path: Path) -> None:
    original = random_vit(layer_norm_eps=1e-6)
    npz_of(original, tmp_path / "plain.npz", linen=False, big_vision=False)
    arrays = dict(np.load(tmp_path / "plain.npz"))
    width = original.config.hidden_size
    arrays |= {"pre_logits/kernel": np.eye(width, dtype=np.float32), "pre_logits/bias": np.zeros(width, np.float32)}
    np.savez(tmp_path / "m.npz", **arrays)
    model, card = weights.load(tmp_path / "m.npz")
    assert model.config.num_labels == 0
    dropped = {entry["name"]: entry["reason"] for entry in card.provenance["audit"]["dropped"]}
    assert {n for n, why in dropped.items() if "reads the pre-logits" in why} == {"head/kernel", "head/bias"}
    plain, _ = weights.load(tmp_path / "plain.npz", num_labels=0)
    assert torch.equal(model(images(16, 16))["logits"], plain(images(16, 16))["logits"])
    _, tuned = weights.load(tmp_path / "m.npz", classes=["a", "b"])
    assert "head.weight" in {entry["name"] for entry in tuned.provenance["audit"]["reinitialised"]}


@torch.no_grad()
def test_google_files_as_timm_reads_them(tmp_path: Path) -> None:
    original = random_vit(layer_norm_eps=1e-6)
    npz_of(original, tmp_path / "m.npz", linen=False, big_vision=False)
    theirs = timm.create_model(
        "vit_base_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4, num_classes=5
    )
    theirs.load_pretrained(str(tmp_path / "m.npz"))
    model, _ = weights.load(tmp_path / "m.npz")
    same_logits(model, theirs.eval()(images(16, 16)), images(16, 16))


@torch.no_grad()
def test_torchvision(tmp_path: Path) -> None:
    from torchvision.models import VisionTransformer

    theirs = randomised(
        VisionTransformer(
            image_size=48, patch_size=8, num_layers=3, num_heads=1, hidden_dim=64, mlp_dim=96, num_classes=10
        )
    )
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    model, _ = weights.load(tmp_path / "vit.pth")
    same_logits(model, theirs(images(48, 48)), images(48, 48))
    written_back(model, torchvision.TABLE, theirs.state_dict())


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("chunked", [False, True])
@torch.no_grad()
def test_meta_dinov2(tmp_path: Path, registers: int, chunked: bool) -> None:
    original = random_vit(
        hidden_size=64, num_attention_heads=1, layer_norm_eps=1e-6, layer_scale=1.0, num_registers=registers,
        use_mask_token=True, num_labels=0,
    )  # fmt: skip
    state = dinov2.META.write(original.state_dict())
    assert state["mask_token"].shape == (1, 64)
    if chunked:
        state = {n.replace("blocks.", "blocks.0.", 1) if "blocks.0" in n else n.replace("blocks.", "blocks.1.", 1): t
                 for n, t in state.items()}  # fmt: skip
    torch.save({"teacher": state}, tmp_path / "m.pth")
    model, card = weights.load(tmp_path / "m.pth")
    same_logits(model, original(images(16, 16))["logits"], images(16, 16))
    assert "teacher" in card.provenance["notes"][0]
