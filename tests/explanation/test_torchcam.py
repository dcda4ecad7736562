"""LeGrad and Grad-CAM are those of TorchCAM, on torchvision's ViT with the same weights."""

import pytest
import torch
from torch import Tensor

import tests.support.torchvision_operators  # noqa: F401  (before torchvision)
from tests.support.random_vit import random_vit
from vitrail.explanation.methods import grad_cam, legrad
from vitrail.explanation.trace import Target, embed
from vitrail.weights.families import torchvision as family

methods = pytest.importorskip("torchcam.methods")

CLASSES = [1, 4]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def pair() -> tuple[torch.nn.Module, Tensor, Tensor]:
    """torchvision's model, and the maps of ours: LeGrad and Grad-CAM."""
    from torchvision.models.vision_transformer import VisionTransformer

    ours = random_vit(image_size=32, patch_size=8, num_hidden_layers=3, layer_norm_eps=1e-6)
    theirs = VisionTransformer(32, 8, 3, 4, 32, 128, num_classes=5)
    theirs.load_state_dict(family.TABLE.write(ours.state_dict()))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs.eval()(images), ours(images)["logits"], rtol=1e-4, atol=1e-5)
    target = Target(torch.tensor(CLASSES))
    maps = [
        method(ours, embed(ours, images), target).detach()[:, 1:].unflatten(1, (4, 4)) for method in (legrad, grad_cam)
    ]
    return theirs, maps[0], maps[1]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * float(expected.max()))


def test_legrad(pair: tuple[torch.nn.Module, Tensor, Tensor]) -> None:
    theirs, ours, _ = pair
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def score(tokens: Tensor) -> Tensor:
        return theirs.heads(theirs.encoder.ln(tokens)[:, 0])  # type: ignore[operator, union-attr]

    layers = list(theirs.encoder.layers)  # type: ignore[arg-type, union-attr]
    with methods.LeGrad(theirs, layers, score_projection=score) as extractor:
        extractor(CLASSES, theirs(images), normalized=False)
        theirs(images)
        maps = extractor.compute_cams(CLASSES, normalized=False)
    close(ours, maps[0])


def test_grad_cam(pair: tuple[torch.nn.Module, Tensor, Tensor]) -> None:
    theirs, _, ours = pair
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def as_map(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    target = theirs.encoder.layers[-1].ln_1  # type: ignore[index, union-attr]
    with methods.GradCAM(theirs, target_layer=target, reshape_transform=as_map) as extractor:
        maps = extractor(CLASSES, theirs(images), normalized=False)
    close(ours, maps[0])
