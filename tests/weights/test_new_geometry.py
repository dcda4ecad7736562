"""Changes that were asked for: other sizes, patches, channels and classes, each against its definition."""

import pytest
import torch
from torch.nn import functional as F

from tests.support.random_vit import random_vit
from vitrail.errors import ConfigError
from vitrail.weights.audit import Audit
from vitrail.weights.new_geometry import Head, change_channels, change_classes, change_patch, resize_image

OLD = ("cat", "dog", "Crane", "eel", "fox")


def test_positions_are_resampled_and_prefix_rows_untouched() -> None:
    model = random_vit(num_registers=2)
    tensors, audit = dict(model.state_dict()), Audit(mapped={"theirs": "pos_embed"})
    resized = resize_image(tensors, model.config, (32, 24), audit)
    assert resized.grid == (8, 6)
    assert torch.equal(tensors["pos_embed"][:, 0], model.state_dict()["pos_embed"][:, 0])
    grid = model.state_dict()["pos_embed"][:, 1:].view(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(8, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(tensors["pos_embed"][:, 1:], expected.flatten(2).mT)
    assert "4x4 to 8x6" in audit.adapted["theirs"]
    with pytest.raises(ConfigError, match="image-size"):
        resize_image(tensors, model.config, 30, audit)


def test_one_channel_sees_grey_as_three_saw_it() -> None:
    model = random_vit()
    tensors, audit = dict(model.state_dict()), Audit()
    grey = random_vit(num_channels=1)
    assert change_channels(tensors, model.config, 1, audit) == grey.config
    grey.load_state_dict(tensors)
    image = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(
        grey(image)["logits"], model(image.expand(-1, 3, -1, -1))["logits"], atol=1e-5, rtol=1e-5
    )


def test_channels_are_repeated_with_their_sum_kept() -> None:
    model = random_vit(num_channels=1)
    tensors = dict(model.state_dict())
    change_channels(tensors, model.config, 3, Audit())
    colour = random_vit()
    colour.load_state_dict(tensors)
    image = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(
        colour(image.expand(-1, 3, -1, -1))["logits"], model(image)["logits"], atol=1e-5, rtol=1e-5
    )


def test_a_larger_patch_gives_the_same_tokens_of_enlarged_images() -> None:
    model = random_vit()
    tensors, audit = dict(model.state_dict()), Audit()
    geometry = change_patch(tensors, model.config, 8, audit)
    assert (geometry.image_size, geometry.grid) == ((32, 32), (4, 4))
    larger = random_vit(patch_size=8, image_size=32)
    larger.load_state_dict(tensors)
    small = torch.randn(2, 3, 16, 16)
    patches = small.unfold(2, 4, 4).unfold(3, 4, 4)  # resize patch by patch: borders do not mix
    enlarged = F.interpolate(patches.reshape(-1, 1, 4, 4), size=(8, 8), mode="bilinear")
    image = enlarged.view(2, 3, 4, 4, 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 32, 32)
    torch.testing.assert_close(larger(image)["logits"], model(small)["logits"], atol=1e-4, rtol=1e-4)


def test_rows_follow_the_names_of_classes() -> None:
    model = random_vit()
    tensors, audit = dict(model.state_dict()), Audit(mapped={"h.w": "head.weight", "h.b": "head.bias"})
    before = tensors["head.weight"]
    geometry = change_classes(tensors, model.config, OLD, ("fox", "crane", "owl"), "match", audit)
    assert geometry.num_labels == 3
    assert torch.equal(tensors["head.weight"][:2], before[[4, 2]])
    assert float(tensors["head.bias"][2]) == 0.0
    assert audit.adapted["h.w"] == "2 of 3 classes kept by name, 1 new"


@pytest.mark.parametrize(
    ("old", "new", "head", "kept"),
    [
        (OLD, OLD, "match", True),
        (OLD, ("a", "b", "c", "d", "e"), "match", False),  # equal number, other classes: another head
        (OLD, ("a", "b", "c", "d", "e"), "keep", True),
        (OLD, OLD, "reset", False),
        ((), 5, "match", True),
        ((), ("a", "b", "c", "d", "e"), "match", False),
        (OLD, 4, "match", False),
    ],
)
def test_when_a_head_is_kept(old: tuple[str, ...], new: tuple[str, ...] | int, head: Head, kept: bool) -> None:
    model = random_vit()
    tensors, audit = dict(model.state_dict()), Audit(mapped={"w": "head.weight", "b": "head.bias"})
    before = tensors["head.weight"]
    change_classes(tensors, model.config, old, new, head, audit)
    assert (tensors["head.weight"] is before) == kept
    assert bool(audit.reinitialised) != kept
    assert ("w" in audit.dropped) != kept


def test_an_ambiguous_name_takes_no_row() -> None:
    model = random_vit()
    tensors, audit = dict(model.state_dict()), Audit()
    change_classes(tensors, model.config, ("crane", "crane", "a", "b", "c"), ("crane", "zebra"), "match", audit)
    assert set(audit.reinitialised) == {"head.weight", "head.bias"}


def test_keep_needs_as_many_classes() -> None:
    model = random_vit()
    with pytest.raises(ConfigError, match="--head keep"):
        change_classes(dict(model.state_dict()), model.config, OLD, ("a", "b"), "keep", Audit())
