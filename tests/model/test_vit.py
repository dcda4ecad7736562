"""The model: its attention, its invariants, each option on and off, and what it refuses."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.support.random_vit import SMALL, random_vit
from vitrail.config import ViTConfig
from vitrail.errors import ConfigError, InputError
from vitrail.model import ViT, attention_written_out
from vitrail.model.vit import StochasticDepth

KERNEL_ATOL = 1e-5  # the fused attention against the formula, values of order 1
BATCH_ATOL = 1e-5  # matrix products split differently at another batch size
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(7))
LABELS = torch.tensor([0, 4, 2])


# --- attention


@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_fused_attention_is_the_written_out_one_in_values_and_gradients(scale: float | None) -> None:
    inputs = [torch.randn(2, 3, 7, 8, requires_grad=True) for _ in range(3)]
    weight = torch.randn(2, 3, 7, 8)
    fused = F.scaled_dot_product_attention(*inputs, scale=scale)
    written = attention_written_out(*inputs, scale=scale)
    torch.testing.assert_close(fused, written, rtol=0, atol=KERNEL_ATOL)
    for a, b in zip(
        torch.autograd.grad((fused * weight).sum(), inputs),
        torch.autograd.grad((written * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=KERNEL_ATOL)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_the_attention_layer_is_the_formula_with_its_own_weights(scale: float | None, qk_norm: bool) -> None:
    layer = random_vit(attention_scale=scale, qk_norm=qk_norm).blocks[0].attn
    x = torch.randn(2, 9, 32)
    q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in layer.qkv(x).split(32, dim=-1))
    if qk_norm:
        q, k = layer.q_norm(q), layer.k_norm(k)
    expected = layer.proj(attention_written_out(q, k, v, scale).transpose(1, 2).reshape(2, 9, 32))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=KERNEL_ATOL)


# --- invariants


def test_without_positions_permuted_patches_give_permuted_tokens() -> None:
    model = random_vit()
    nn.init.zeros_(model.pos_embed)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    patches = F.unfold(IMAGES, 4, stride=4)
    shuffled = F.fold(patches[:, :, order], 16, 4, stride=4)
    tokens, moved = model.forward_features(IMAGES), model.forward_features(shuffled)
    torch.testing.assert_close(moved[:, 1:], tokens[:, 1:][:, order], rtol=0, atol=BATCH_ATOL)
    torch.testing.assert_close(moved[:, 0], tokens[:, 0], rtol=0, atol=BATCH_ATOL)


def test_positions_tell_permuted_patches_apart() -> None:
    model = random_vit()
    flipped = IMAGES.flip(-1)
    assert not torch.allclose(model(IMAGES)["logits"], model(flipped)["logits"], atol=1e-3)


@pytest.mark.parametrize("changes", [{}, {"stem_channels": (8,), "stem_strides": (1,)}, {"pooling": "mean"}], ids=str)
def test_the_logits_of_an_image_do_not_depend_on_its_batch(changes: dict[str, object]) -> None:
    model = random_vit(**changes)
    alone = torch.cat([model(image[None])["logits"] for image in IMAGES])
    torch.testing.assert_close(model(IMAGES)["logits"], alone, rtol=0, atol=BATCH_ATOL)


def test_gradients_of_one_image_do_not_reach_another() -> None:
    images = IMAGES.clone().requires_grad_()
    random_vit()(images)["logits"][0].sum().backward()
    assert images.grad is not None
    assert images.grad[0].any()
    assert not images.grad[1:].any()


@pytest.mark.parametrize(
    "changes",
    [{"embedding_dropout": 0.5}, {"attention_dropout": 0.5}, {"projection_dropout": 0.5}, {"stochastic_depth": 0.9}],
    ids=str,
)
def test_dropouts_act_in_training_only(changes: dict[str, float]) -> None:
    model, plain = random_vit(**changes), random_vit()
    assert torch.equal(model(IMAGES)["logits"], plain(IMAGES)["logits"])
    model.train()
    torch.manual_seed(0)
    assert not torch.allclose(model(IMAGES)["logits"], plain(IMAGES)["logits"], atol=1e-3)


def test_projection_dropout_acts_after_the_attention_and_after_both_layers_of_the_mlp() -> None:
    model, calls = random_vit(projection_dropout=0.3), []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, inputs, output: calls.append(output.shape[-1]))
    model(IMAGES)
    assert calls == [32, 128, 32] * 2


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    layer = StochasticDepth(0.25).train()
    torch.manual_seed(0)
    out = layer(torch.ones(4000, 3, 2))
    per_image = out.flatten(1)
    assert (per_image == per_image[:, :1]).all()
    assert torch.allclose(out.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(layer.eval()(out), out)


def test_stochastic_depth_grows_linearly_from_the_first_layer() -> None:
    blocks = random_vit(num_hidden_layers=5, stochastic_depth=0.4).blocks
    assert [getattr(block.drop_path, "rate", 0.0) for block in blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


# --- options, names, counts


def test_names_and_shapes_are_the_canonical_ones() -> None:
    model = random_vit(num_hidden_layers=1, num_registers=3, use_mask_token=True, layer_scale=0.1, qk_norm=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    linear = {
        "attn.qkv": (96, 32), "attn.proj": (32, 32), "mlp.fc1": (128, 32), "mlp.fc2": (32, 128),
    }  # fmt: skip
    expected = {
        "cls_token": (1, 1, 32), "reg_token": (1, 3, 32), "mask_token": (1, 1, 32), "pos_embed": (1, 17, 32),
        "patch_embed.proj.weight": (32, 3, 4, 4), "patch_embed.proj.bias": (32,),
        "head.weight": (5, 32), "head.bias": (5,), "norm.weight": (32,), "norm.bias": (32,),
        "blocks.0.ls1.gamma": (32,), "blocks.0.ls2.gamma": (32,),
    }  # fmt: skip
    for name, shape in linear.items():
        expected |= {f"blocks.0.{name}.weight": shape, f"blocks.0.{name}.bias": shape[:1]}
    for name, width in (("norm1", 32), ("norm2", 32), ("attn.q_norm", 8), ("attn.k_norm", 8)):
        expected |= {f"blocks.0.{name}.weight": (width,), f"blocks.0.{name}.bias": (width,)}
    assert shapes == expected


def test_options_that_are_off_leave_no_parameter_and_no_module() -> None:
    model = random_vit(qkv_bias=False)
    for part in ("reg_token", "mask_token", "ls1", "ls2", "q_norm", "k_norm", "stem", "qkv.bias"):
        assert not [name for name in model.state_dict() if part in name]
    assert not [module for module in model.modules() if isinstance(module, nn.Dropout | StochasticDepth)]
    assert "cls_token" not in random_vit(pooling="mean", use_class_token=False).state_dict()
    assert not [name for name in random_vit(num_labels=0).state_dict() if name.startswith("head")]


# WEIGHTS.md section 16, millions; 1000 classes, 224 pixels.
PUBLISHED_MILLIONS = {
    "Ti/16": 5.72, "S/8": 22.06, "S/16": 22.05, "S/32": 22.88, "B/8": 86.58, "B/16": 86.57, "B/32": 88.22,
    "L/14": 304.20, "L/16": 304.33, "L/32": 306.54, "H/14": 632.05, "g/14": 1012.61, "G/14": 1844.44,
}  # fmt: skip


def num_parameters(name: str, **changes: object) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in ViT(ViTConfig.named(name, **changes)).parameters())


@pytest.mark.parametrize("name", PUBLISHED_MILLIONS)
def test_named_sizes_have_the_published_number_of_parameters(name: str) -> None:
    assert round(num_parameters(name) / 1e6, 2) == PUBLISHED_MILLIONS[name]


def test_variants_of_named_sizes_have_the_published_number_of_parameters() -> None:
    assert num_parameters("B/16") == 86_567_656
    assert round(num_parameters("B/16", image_size=384) / 1e6, 2) == 86.86
    assert round(num_parameters("M/16", layer_scale=1e-6) / 1e6, 2) == 38.85  # DeiT-III, which has LayerScale
    so400m = num_parameters("So400m/14", pooling="mean", use_class_token=False)
    assert round(so400m / 1e6, 2) == 413.60


def test_mean_pooling_leaves_out_class_token_and_registers() -> None:
    for use_class_token, num_registers in itertools.product((True, False), (0, 3)):
        model = random_vit(pooling="mean", use_class_token=use_class_token, num_registers=num_registers)
        tokens = model.forward_features(IMAGES)
        prefix = int(use_class_token) + num_registers
        assert tokens.shape == (3, prefix + 16, 32)
        torch.testing.assert_close(model.pool(tokens), tokens[:, prefix:].mean(1))
        tokens[:, :prefix] = 1e6
        assert model.pool(tokens).abs().max() < 1e3


def test_tokens_are_class_then_registers_then_patches_and_registers_have_no_position() -> None:
    model = random_vit(num_registers=2)
    x = model._embed(IMAGES, None, interpolate=False)
    patches = model.patch_embed(IMAGES) + model.pos_embed[:, 1:]
    assert torch.equal(x[:, :1], (model.cls_token + model.pos_embed[:, :1]).expand(3, -1, -1))
    assert torch.equal(x[:, 1:3], model.reg_token.expand(3, -1, -1))
    assert torch.equal(x[:, 3:], patches)


def test_features_without_a_classifier_are_the_normed_class_token() -> None:
    model = random_vit(num_labels=0)
    assert torch.equal(model(IMAGES)["logits"], model.forward_features(IMAGES)[:, 0])


def test_masked_patches_are_not_seen() -> None:
    model = random_vit(use_mask_token=True)
    mask = torch.zeros(3, 16, dtype=torch.bool)
    assert torch.equal(model(IMAGES, bool_masked_pos=mask)["logits"], model(IMAGES)["logits"])
    mask[:, 5] = True  # row 1, column 1
    changed = IMAGES.clone()
    changed[:, :, 4:8, 4:8] = 9.0
    got = model(IMAGES, bool_masked_pos=mask)["logits"]
    assert torch.equal(got, model(changed, bool_masked_pos=mask)["logits"])
    assert not torch.allclose(got, model(IMAGES)["logits"], atol=1e-3)


def test_the_loss_is_the_fp32_cross_entropy_also_of_a_bf16_model() -> None:
    model = random_vit().bfloat16()
    out = model(IMAGES, labels=LABELS)  # fp32 images: cast to the weights' dtype
    assert list(out) == ["loss", "logits"]
    assert out["logits"].dtype == torch.bfloat16
    assert out["loss"].dtype == torch.float32
    assert torch.equal(out["loss"], F.cross_entropy(out["logits"].float(), LABELS))
    assert list(model(IMAGES)) == ["logits"]


def test_every_parameter_gets_a_gradient() -> None:
    model = random_vit(
        num_registers=1, use_mask_token=True, layer_scale=0.1, qk_norm=True, stem_channels=(6,), stem_strides=(1,)
    )
    mask = torch.rand(3, 16) < 0.5
    mask[:, 0] = True
    model(IMAGES, labels=LABELS, bool_masked_pos=mask)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_reset_head_replaces_the_classifier_and_nothing_else() -> None:
    model = random_vit().bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("head")}
    model.reset_head(9)
    assert model.config.num_labels == 9
    assert model.head.weight.dtype == torch.bfloat16
    assert model(IMAGES)["logits"].shape == (3, 9)
    assert not model.head.bias.any()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    model.reset_head(0)
    assert model(IMAGES)["logits"].shape == (3, 32)
    with pytest.raises(ConfigError):
        model.reset_head(-1)


def test_tokens_and_positions_are_not_decayed() -> None:
    model = random_vit(num_registers=2, use_mask_token=True)
    assert model.no_weight_decay() == {"cls_token", "reg_token", "mask_token", "pos_embed"}
    plain = random_vit(position="sincos", pooling="mean", use_class_token=False)
    assert plain.no_weight_decay() == set()


# --- what it refuses


REFUSED_IMAGES = [
    (torch.zeros(2, 1, 16, 16), {}, "num_channels=3"),
    (torch.zeros(3, 16, 16), {}, "[3, 16, 16]"),
    (torch.zeros(2, 3, 16, 20), {}, "interpolate_pos_encoding"),
    (torch.zeros(2, 3, 16, 20), {}, "16x20"),
    (torch.zeros(2, 3, 18, 16), {"interpolate_pos_encoding": True}, "multiples of 4x4"),
    (torch.zeros(2, 3, 0, 16), {"interpolate_pos_encoding": True}, "positive multiples"),
    (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), {}, "torch.uint8"),
    (torch.zeros(2, 3, 16, 16), {"bool_masked_pos": torch.zeros(2, 16, dtype=torch.bool)}, "use_mask_token"),
    (torch.zeros(2, 3, 16, 16), {"labels": torch.tensor([0, 5])}, "0 to 4"),
    (torch.zeros(2, 3, 16, 16), {"labels": torch.tensor([-1, 0])}, "-1 to 0"),
    (torch.zeros(2, 3, 16, 16), {"labels": torch.tensor([0])}, "[2] torch.int64"),
    (torch.zeros(2, 3, 16, 16), {"labels": torch.tensor([[0], [1]])}, "[2, 1]"),
    (torch.zeros(2, 3, 16, 16), {"labels": torch.tensor([0.0, 1.0])}, "torch.float32"),
]


@pytest.mark.unchecked
@pytest.mark.parametrize(("images", "arguments", "says"), REFUSED_IMAGES)
def test_wrong_inputs_are_refused_by_name(images: torch.Tensor, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(InputError) as caught:
        random_vit()(images, **arguments)
    assert says in str(caught.value)


def test_a_wrong_size_names_both_sizes() -> None:
    with pytest.raises(InputError) as caught:
        random_vit()(torch.zeros(1, 3, 32, 8))
    assert "32x8" in str(caught.value)
    assert "16x16" in str(caught.value)


@pytest.mark.unchecked
@pytest.mark.parametrize("mask", [torch.zeros(3, 15, dtype=torch.bool), torch.zeros(3, 16), torch.zeros(16).bool()])
def test_a_mask_of_another_shape_or_dtype_is_refused(mask: torch.Tensor) -> None:
    with pytest.raises(InputError, match="bool_masked_pos"):
        random_vit(use_mask_token=True)(IMAGES, bool_masked_pos=mask)


def test_labels_without_a_classifier_are_refused() -> None:
    with pytest.raises(InputError, match="num_labels=0"):
        random_vit(num_labels=0)(IMAGES, labels=LABELS)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="num-attention-heads"):
        ViTConfig(**{**SMALL, "num_attention_heads": 5})  # type: ignore[arg-type]


# --- any geometry


@settings(max_examples=15, deadline=None)
@given(
    patch=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    other=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.integers(1, 4),
    heads=st.integers(1, 3),
    num_registers=st.integers(0, 2),
    position=st.sampled_from(["learned", "sincos"]),
    pooling=st.sampled_from(["cls", "mean"]),
    num_labels=st.integers(0, 3),
)
def test_any_geometry_gives_finite_logits_of_the_right_shape(
    patch: tuple[int, int],
    grid: tuple[int, int],
    other: tuple[int, int],
    channels: int,
    heads: int,
    num_registers: int,
    position: str,
    pooling: str,
    num_labels: int,
) -> None:
    model = random_vit(
        image_size=(grid[0] * patch[0], grid[1] * patch[1]),
        patch_size=patch,
        hidden_size=4 * heads,
        num_attention_heads=heads,
        num_hidden_layers=1,
        num_channels=channels,
        num_registers=num_registers,
        position=position,
        pooling=pooling,
        use_class_token=pooling == "cls",
        num_labels=num_labels,
    )
    prefix = num_registers + int(pooling == "cls")
    for rows, columns in (grid, other):
        images = torch.randn(2, channels, rows * patch[0], columns * patch[1])
        tokens = model.forward_features(images, interpolate_pos_encoding=True)
        assert tokens.shape == (2, prefix + rows * columns, 4 * heads)
        logits = model(images, interpolate_pos_encoding=True)["logits"]
        assert logits.shape == (2, num_labels or 4 * heads)
        assert logits.isfinite().all()
