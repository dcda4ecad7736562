"""Our model against transformers' with the same random weights."""

import pytest
import torch
from torch import nn

import tests.support.torchvision_operators  # noqa: F401  (before transformers)
from tests.support.hf_mapping import from_hugging_face
from tests.support.random_vit import randomise
from vitrail.config import ViTConfig
from vitrail.model import ViT

transformers = pytest.importorskip("transformers")

LOGITS_ATOL = 1e-5
LOSS_ATOL = 1e-5
# Larger weights than at initialisation, but logits of order 1, so that LOGITS_ATOL sees a wrong eps or GELU.
WEIGHTS_STD = 0.03


def theirs(
    architecture: type[nn.Module], seed: int = 0, *, config: dict[str, object], **arguments: object
) -> nn.Module:
    """A model of transformers, every parameter random; built without storage first, to skip its initialisation."""
    with torch.device("meta"):
        model = architecture(transformers.ViTConfig(**config), **arguments)
    model.to_empty(device="cpu")
    randomise(model, seed, WEIGHTS_STD)
    return model.eval()


def ours(model: nn.Module, **config: object) -> ViT:
    """Our model with the weights of theirs, no name left over on either side."""
    with torch.device("meta"):
        result = ViT(ViTConfig(**config))  # type: ignore[arg-type]
    result.load_state_dict(from_hugging_face(model.state_dict()), strict=True, assign=True)
    return result.eval()


@pytest.mark.long
@torch.no_grad()
def test_vit_b16_has_the_logits_and_loss_of_transformers() -> None:
    their_model = theirs(transformers.ViTForImageClassification, config={"num_labels": 1000})
    our_model = ours(their_model, num_labels=1000)
    labels = torch.tensor([977])
    for height, width in ((224, 224), (384, 288)):
        images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))
        other_size = height != 224
        expected = their_model(images, labels=labels, interpolate_pos_encoding=other_size)
        got = our_model(images, labels=labels, interpolate_pos_encoding=other_size)
        assert expected.logits.std() > 0.3
        torch.testing.assert_close(got["logits"], expected.logits, rtol=0, atol=LOGITS_ATOL)
        torch.testing.assert_close(got["loss"], expected.loss, rtol=0, atol=LOSS_ATOL)


ODD_GEOMETRIES = [
    {"image_size": 32, "patch_size": 8},
    {"image_size": (24, 40), "patch_size": (4, 8), "num_channels": 1},
    {"image_size": 30, "patch_size": 6, "num_channels": 5, "qkv_bias": False},
]


@torch.no_grad()
@pytest.mark.parametrize("geometry", ODD_GEOMETRIES, ids=str)
def test_small_odd_geometries_have_the_logits_of_transformers(geometry: dict[str, object]) -> None:
    shared = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, **geometry}
    their_model = theirs(
        transformers.ViTForImageClassification, config={**shared, "intermediate_size": 96, "num_labels": 7}
    )
    our_model = ours(their_model, **shared, mlp_ratio=2.0, num_labels=7)
    height, width = our_model.config.grid
    patch_y, patch_x = our_model.patch_embed.proj.kernel_size
    grids = [(height, width)]
    if patch_y == patch_x:  # theirs does not interpolate with other patches
        grids.append((height + 3, width + 1))
    for grid_y, grid_x in grids:
        images = torch.randn(3, our_model.config.num_channels, grid_y * patch_y, grid_x * patch_x)
        other_size = (grid_y, grid_x) != (height, width)
        expected = their_model(images, interpolate_pos_encoding=other_size).logits
        got = our_model(images, interpolate_pos_encoding=other_size)["logits"]
        torch.testing.assert_close(got, expected, rtol=0, atol=LOGITS_ATOL)


@torch.no_grad()
def test_masked_patches_give_the_tokens_of_transformers() -> None:
    shared = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    their_model = theirs(
        transformers.ViTModel,
        config={**shared, "intermediate_size": 96},
        use_mask_token=True,
        add_pooling_layer=False,
    )
    our_model = ours(their_model, **shared, mlp_ratio=2.0, num_labels=0, use_mask_token=True)
    images = torch.randn(2, 3, 32, 32)
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    expected = their_model(images, bool_masked_pos=mask).last_hidden_state
    got = our_model.forward_features(images, bool_masked_pos=mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=LOGITS_ATOL)
    assert not torch.allclose(got, our_model.forward_features(images), atol=1e-2)
