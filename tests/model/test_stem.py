"""The convolutional stem: what it computes, what it is called."""

import torch
from torch.nn import functional as F

from tests.support.random_vit import random_vit
from vitrail.model.stem import ConvStem


def test_each_layer_is_convolution_batch_norm_relu() -> None:
    stem = ConvStem(3, (8, 12), (2, 1)).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = x
    for layer, stride in zip(stem, (2, 1), strict=True):
        assert layer.conv.bias is None
        expected = F.conv2d(expected, layer.conv.weight, stride=stride, padding=1)
        expected = F.relu(expected / (1 + layer.norm.eps) ** 0.5)  # fresh statistics: mean 0, variance 1
    torch.testing.assert_close(stem(x), expected, rtol=1e-5, atol=1e-6)


def test_a_model_with_a_stem_says_so_and_keeps_its_grid() -> None:
    model = random_vit(stem_channels=(8, 12), stem_strides=(2, 1), patch_size=2, image_size=(16, 24), pooling="mean")
    assert model.config.kind == "ViT + conv"
    assert model.patch_embed.proj.in_channels == 12
    assert model.forward_features(torch.randn(2, 3, 16, 24)).shape == (2, 1 + 4 * 6, 32)
    assert model(torch.randn(1, 3, 32, 8), interpolate_pos_encoding=True)["logits"].shape == (1, 5)


def test_a_plain_model_has_no_stem() -> None:
    model = random_vit()
    assert model.config.kind == "plain ViT"
    assert not [name for name in model.state_dict() if name.startswith("stem")]


def test_a_pooled_layer_pools_before_its_norm_and_shrinks_the_map() -> None:
    stem = ConvStem(3, (8, 12), (1, 1), (2, 1)).eval()
    assert [name for name, _ in stem[0].named_children()] == ["conv", "pool", "norm", "act"]
    x = torch.randn(2, 3, 8, 8)
    first = F.max_pool2d(F.conv2d(x, stem[0].conv.weight, padding=1), 2)
    torch.testing.assert_close(stem[0](x), F.relu(stem[0].norm(first)), rtol=1e-5, atol=1e-6)
    assert stem(x).shape == (2, 12, 4, 4)
