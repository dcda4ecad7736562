"""Files as training tools write them: the one model in them is found, the rest is named, several are an error."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import tests.support.torchvision_operators  # noqa: F401  (before timm)
from tests.support.random_vit import random_vit, randomise
from vitrail import weights
from vitrail.errors import WeightsError
from vitrail.weights.families import huggingface, torchvision
from vitrail.weights.families import timm as timm_family

GEOMETRY: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 1, "layer_norm_eps": 1e-6}
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def state(seed: int = 0, **changes: Any) -> dict[str, Tensor]:
    return timm_family.TABLE.write(random_vit(seed, **{**GEOMETRY, **changes}).state_dict())


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


@torch.no_grad()
def logits(path: Path, **asked: Any) -> Tensor:
    return weights.load(path, **asked)[0](IMAGES)["logits"]


@torch.no_grad()
def expected(seed: int = 0) -> Tensor:
    return random_vit(seed, **GEOMETRY)(IMAGES)["logits"]


WRAPPED: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "net": lambda s: {"net": s, "acc": 93.1, "epoch": 7},
    "weights": lambda s: {"weights": s},
    "model, DataParallel": lambda s: {"model": under("module.", s), "optimizer": {"state": {}}},
    "Lightning": lambda s: {
        "state_dict": {**under("model.", s), "criterion.weight": torch.ones(5), "val_acc.tp": torch.ones(5).long()},
        "pytorch-lightning_version": "2.4",
        "optimizer_states": [{}],
    },
    "compiled, parallel": lambda s: under("_orig_mod.module.", s),
    "DeepSpeed": lambda s: {"module": under("_forward_module.", s), "global_steps": 9},
    "wrapped blocks": lambda s: {
        n.replace("blocks.1.", "blocks._fsdp_wrapped_module.1._checkpoint_wrapped_module."): t for n, t in s.items()
    },
    "a module of one's own": lambda s: under("net.vit.", s),
    "a loss beside": lambda s: {**s, "criterion.weight": torch.ones(5), "n_averaged": torch.tensor(3)},
    "trunk and head apart": lambda s: {
        **under("backbone.", {n: t for n, t in s.items() if not n.startswith("head.")}),
        "classifier.1.weight": s["head.weight"],
        "classifier.1.bias": s["head.bias"],
    },
    "the same model twice": lambda s: {"model": s, "state_dict": {n: t.clone() for n, t in s.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_the_model_is_found(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]) -> None:
    torch.save(wrap(state()), tmp_path / "m.pth")
    assert torch.equal(logits(tmp_path / "m.pth"), expected())


def test_what_stands_beside_is_named_and_what_is_told_is_kept(tmp_path: Path) -> None:
    torch.save(WRAPPED["Lightning"](state()), tmp_path / "m.ckpt")
    card = weights.load_card(tmp_path / "m.ckpt")
    assert card.provenance["training"] == {"pytorch-lightning_version": "2.4"}
    dropped = {entry["name"] for entry in weights.load(tmp_path / "m.ckpt")[1].provenance["audit"]["dropped"]}
    assert dropped == {"state_dict.* (2 tensors)"}
    assert card.provenance["notes"] == ["the model stands below 'state_dict.model.' in the file"]


@pytest.mark.parametrize(
    ("raw", "average"),
    [
        ("state_dict.", "state_dict_ema."),
        ("model.", "model_ema.module."),
        ("online_model.", "ema_model."),
        ("student.backbone.", "teacher.backbone."),
    ],
)
def test_the_running_average_is_preferred(tmp_path: Path, raw: str, average: str) -> None:
    torch.save({**under(raw, state(0)), **under(average, state(1))}, tmp_path / "m.pth")
    assert torch.equal(logits(tmp_path / "m.pth"), expected(1))
    assert any("running average" in note for note in weights.load_card(tmp_path / "m.pth").provenance["notes"])


def test_several_models_are_an_error_that_names_them(tmp_path: Path) -> None:
    for first, second, changes in (("a.", "b.", {}), ("student.", "teacher.", {"num_hidden_layers": 3})):
        torch.save({**under(first, state(0)), **under(second, state(1, **changes))}, tmp_path / "m.pth")
        with pytest.raises(WeightsError, match="holds several models") as caught:
            weights.load(tmp_path / "m.pth")
        assert first in str(caught.value)
        assert second in str(caught.value)


def test_an_unknown_tensor_within_the_model_is_still_an_error(tmp_path: Path) -> None:
    torch.save({"model": {**state(), "neck.weight": torch.ones(3)}}, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=r"unknown: neck\.weight"):
        weights.load(tmp_path / "m.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of timm
def test_real_tools(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=64, depth=2, num_heads=1, num_classes=5
    )
    randomise(model, 3, 0.05)
    model.eval()
    theirs = model(IMAGES).detach()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    ema = timm.utils.ModelEmaV3(model)
    for _ in range(2):
        averaged.update_parameters(model)
    compiled = torch.compile(model)
    saver = timm.utils.CheckpointSaver(
        model, torch.optim.AdamW(model.parameters()), model_ema=ema, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(2, metric=61.5)
    torch.save(averaged.state_dict(), tmp_path / "averaged.pth")
    torch.save(compiled.state_dict(), tmp_path / "compiled.pth")
    torch.save(under("module.", model.state_dict()), tmp_path / "parallel.pth")
    for name in ("last.pth.tar", "averaged.pth", "compiled.pth", "parallel.pth"):
        torch.testing.assert_close(logits(tmp_path / name), theirs, rtol=0, atol=1e-5)
    told = weights.load_card(tmp_path / "last.pth.tar").provenance["training"]
    assert told["epoch"] == 2
    assert told["metric"] == 61.5


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_numbers_that_are_no_weights_are_named(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = state()
    tensors["blocks.1.mlp.fc1.weight"] = tensors["blocks.1.mlp.fc1.weight"].to(dtype)
    torch.save(tensors, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=r"blocks\.1\.mlp\.fc1\.weight") as caught:
        weights.load(tmp_path / "m.pth")
    assert str(dtype).removeprefix("torch.") in str(caught.value)


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    tensors = state()
    tensors["norm.bias"][3] = torch.nan
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match=r"norm\.bias holds 1 values"):
        weights.load(tmp_path / "m.safetensors")


REFUSED = {
    "LoRA": ("base_model.model.vit.encoder.layer.0.attention.attention.query.lora_A.weight", "merge_and_unload"),
    "DINOv3": ("layer.0.attention.q_proj.weight", "DINOv3"),
    "SigLIP": ("vision_model.encoder.layers.0.self_attn.q_proj.weight", "CLIP or SigLIP"),
    "CLIP": ("visual.conv1.weight", "CLIP"),
    "ResNet": ("layer1.0.conv1.weight", "convolutional network"),
}


@pytest.mark.parametrize(("name", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_known_and_not_read_is_said(tmp_path: Path, name: str, message: str) -> None:
    torch.save({"model": {name: torch.ones(2, 2), "other": torch.ones(2)}}, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=message):
        weights.load(tmp_path / "m.pth")


HEADS: dict[str, list[tuple[str, nn.Module]]] = {
    "heads.": [("heads.", nn.Linear(64, 5))],
    "heads.0.": [("heads.0.", nn.Linear(64, 5))],
    "classifier.1.": [("classifier.1.", nn.Linear(64, 5))],
}
OTHER_HEADS: dict[str, list[tuple[str, nn.Module]]] = {
    "an MLP": [("heads.0.", nn.Linear(64, 32)), ("heads.2.", nn.Linear(32, 5))],
    "a norm before it": [("head.0.", nn.LayerNorm(64)), ("head.1.", nn.Linear(64, 5))],
    "a batch norm before it": [("head.0.", nn.BatchNorm1d(64)), ("head.1.", nn.Linear(64, 5))],
    "two": [("head_a.", nn.Linear(64, 5)), ("head_b.", nn.Linear(64, 2))],
    "segmentation": [("decode_head.", nn.Conv2d(64, 5, 1))],
    "without a bias": [("heads.", nn.Linear(64, 5, bias=False))],
}


def with_heads(path: Path, heads: list[tuple[str, nn.Module]]) -> tuple[Path, dict[str, Tensor]]:
    tensors = torchvision.TABLE.write(random_vit(**{**GEOMETRY, "num_labels": 0}).state_dict())
    added = OrderedDict[str, Tensor]()
    for prefix, module in heads:
        added |= under(prefix, module.state_dict())
    torch.save({**tensors, **added}, path)
    return path, added


@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
@torch.no_grad()
def test_one_linear_layer_is_a_plain_head(tmp_path: Path, heads: list[tuple[str, nn.Module]]) -> None:
    path, added = with_heads(tmp_path / "m.pth", heads)
    model, card = weights.load(path)
    features = random_vit(**{**GEOMETRY, "num_labels": 0})(IMAGES)["logits"]
    torch.testing.assert_close(model(IMAGES)["logits"], heads[0][1](features))
    assert {entry["name"] for entry in card.provenance["audit"]["mapped"]} >= added.keys()


@pytest.mark.parametrize("heads", OTHER_HEADS.values(), ids=OTHER_HEADS)
def test_any_other_head_is_left_out_by_name(tmp_path: Path, heads: list[tuple[str, nn.Module]]) -> None:
    path, added = with_heads(tmp_path / "m.pth", heads)
    card = weights.load(path)[1]
    assert card.geometry.num_labels == 0
    assert {entry["name"] for entry in card.provenance["audit"]["dropped"]} == added.keys()
    assert next(iter(added)) in (weights.head_left_out(card) or "")
    model, tuned = weights.load(path, classes=("a", "b"))
    assert model(IMAGES)["logits"].shape == (2, 2)
    assert next(iter(added)) in " ".join(tuned.provenance["audit_lines"])


def test_a_classifier_beside_a_pooler_is_left_out(tmp_path: Path) -> None:
    tensors = huggingface.TABLE.write(random_vit(**GEOMETRY).state_dict())
    tensors |= {f"vit.pooler.dense.{n}": t for n, t in nn.Linear(64, 64).state_dict().items()}
    torch.save(tensors, tmp_path / "m.pth")
    card = weights.load(tmp_path / "m.pth")[1]
    assert card.geometry.num_labels == 0
    assert "may read the pooler" in (weights.head_left_out(card) or "")


def test_positions_that_allow_several_grids_are_asked_about(tmp_path: Path) -> None:
    oblong = random_vit(
        **{**GEOMETRY, "image_size": (16, 24)}
    )  # a class token and 4 x 6 patches: 25 rows, as 5 x 5 has
    torch.save(timm_family.TABLE.write(oblong.state_dict()), tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="allows several grids") as caught:
        weights.load(tmp_path / "m.pth")
    assert "0 + 5 x 5" in str(caught.value)
    model, card = weights.load(tmp_path / "m.pth", image_size=(16, 24))
    assert card.geometry.grid == (4, 6)
    assert torch.equal(model.pos_embed, oblong.pos_embed)
    square, _ = weights.load(tmp_path / "m.pth", image_size=20)
    assert square.config.grid == (5, 5)
    assert not square.config.prefix_positions


@pytest.mark.parametrize(
    "changes", [{}, {"use_class_token": False, "pooling": "mean"}, {"use_distillation_token": True}]
)
def test_an_oblong_grid_is_read_when_its_size_is_given(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = random_vit(**{**GEOMETRY, "image_size": (16, 28), **changes})
    torch.save(timm_family.TABLE.write(model.state_dict()), tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="--image-size"):
        weights.load(tmp_path / "m.pth")
    read, _ = weights.load(tmp_path / "m.pth", image_size=(16, 28))
    assert torch.equal(read.pos_embed, model.pos_embed)


def test_usual_sizes_need_no_word(tmp_path: Path) -> None:
    model = random_vit(**{**GEOMETRY, "image_size": 32, "prefix_positions": False, "num_registers": 2})
    torch.save(timm_family.TABLE.write(model.state_dict()), tmp_path / "m.pth")
    assert torch.equal(weights.load(tmp_path / "m.pth")[0].pos_embed, model.pos_embed)
