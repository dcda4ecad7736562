"""A ViT that predicts pixels: their order, and that nothing of a masked patch reaches the model."""

import pytest
import torch

from vitrail.config import ViTConfig
from vitrail.model import MaskedViT, ViT, patch_pixels

CONFIG = ViTConfig(
    image_size=(8, 12), patch_size=(2, 4), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_labels=5,
    use_mask_token=True, num_registers=1,
)  # fmt: skip


def test_the_pixels_of_a_patch_are_those_of_the_image() -> None:
    images = torch.randn(2, 3, 8, 12)
    found = patch_pixels(images, (2, 4))
    assert found.shape == (2, 12, 24)
    for row in range(4):
        for column in range(3):
            expected = images[:, :, 2 * row : 2 * row + 2, 4 * column : 4 * column + 4].reshape(2, 24)
            assert torch.equal(found[:, 3 * row + column], expected)


def test_each_patch_is_predicted_from_its_own_token() -> None:
    model, images = MaskedViT(CONFIG).eval(), torch.randn(2, 3, 8, 12)
    masked = torch.rand(2, 12) < 0.5
    found = model(images, bool_masked_pos=masked)["logits"]
    tokens = model.forward_features(images, masked)
    assert torch.equal(found, model.prediction(tokens[:, 2:]))  # after the class token and a register
    assert found.shape == (2, 12, 24)


def test_a_masked_patch_is_not_seen() -> None:
    model, images = MaskedViT(CONFIG).eval(), torch.randn(1, 3, 8, 12)
    torch.nn.init.normal_(model.mask_token)
    masked = torch.zeros(1, 12, dtype=torch.bool)
    masked[0, 4] = True  # row 1, column 1
    other = images.clone()
    other[:, :, 2:4, 4:8] += 10
    assert torch.equal(*(model(one, bool_masked_pos=masked)["logits"] for one in (images, other)))
    assert not torch.equal(model(images)["logits"], model(other)["logits"])


@pytest.mark.parametrize("pooling", ["cls", "mean", "map"])
def test_without_its_prediction_it_is_a_vit_of_the_same_names(pooling: str) -> None:
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, pooling=pooling,
        use_mask_token=True, num_labels=0,
    )  # fmt: skip
    tensors = MaskedViT(config).state_dict()
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("prediction.")}
    assert len(tensors) - len(encoder) == 2
    ViT(config).load_state_dict(encoder)
