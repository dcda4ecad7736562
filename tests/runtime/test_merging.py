"""Token merging: a matching worked out by hand, and what has to hold for any."""

import pytest
import torch

from tests.support.random_vit import random_vit
from vitrail.model import ViT
from vitrail.runtime.merging import match, merge, merged_logits

TOLERANCE = 1e-5


def test_a_matching_by_hand() -> None:
    """One prefix token, then patches p0 to p5; first set p0 p2 p4, second set p1 p3 p5, by direction of the keys.

    The keys are p0 (2, 0), p1 (0, 1), p2 (.8, .6), p3 (1, 0), p4 (-.6, -.8), p5 (-1, 0). Best partners: p0 p3 (cosine
    1), p2 p3 (0.8), p4 p5 (0.6). Two merge: p0 and p2 go into p3. Left: prefix, p4, p1, p3, p5.
    """
    keys = torch.tensor([[[9.0, 9.0], [2, 0], [0, 1], [0.8, 0.6], [1, 0], [-0.6, -0.8], [-1, 0]]])
    place = match(keys, num_prefix=1, num_merged=2)
    assert place.tolist() == [[0, 3, 2, 3, 3, 1, 4]]
    x = torch.tensor([[[7.0], [1], [2], [3], [8], [5], [6]]])
    sizes = torch.tensor([[1.0, 2, 1, 1, 1, 1, 1]])
    merged, new_sizes = merge(x, sizes, place, 5)
    assert new_sizes.tolist() == [[1, 1, 1, 4, 1]]
    assert merged.flatten().tolist() == pytest.approx([7, 5, 2, (2 * 1 + 3 + 8) / 4, 6])


def a_model(**changes: object) -> ViT:
    small = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    return random_vit(**{**small, "num_labels": 10, **changes})


@pytest.mark.parametrize(
    "changes", [{}, {"pooling": "mean", "use_class_token": False}, {"pooling": "map"}, {"num_registers": 3}]
)
def test_equal_patches_merge_without_a_difference(changes: dict[str, object]) -> None:
    """Tokens that are equal may be merged in any number: proportional attention and pooling count them as often."""
    model = a_model(position="sincos", **changes)
    model.pos_embed.zero_()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).repeat(1, 1, 4, 4)
    with torch.inference_mode():
        plain = model(images)["logits"]
        for count in (1, 3, 8, 100):
            assert torch.allclose(merged_logits(model, images, count), plain, atol=TOLERANCE)


def test_merging_changes_other_images() -> None:
    model, images = a_model(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain, merged = model(images)["logits"], merged_logits(model, images, 4)
    assert merged.shape == plain.shape
    assert not torch.allclose(merged, plain, atol=TOLERANCE)


def test_an_images_logits_do_not_depend_on_its_batch() -> None:
    model, images = a_model(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together = merged_logits(model, images, 3)
        alone = torch.cat([merged_logits(model, image[None], 3) for image in images])
    assert torch.allclose(together, alone, atol=TOLERANCE)
