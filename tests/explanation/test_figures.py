"""What docs/explain.md states of the shipped models, and a large input within its memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

import vitrail
from tests.support.random_vit import random_vit
from vitrail import data
from vitrail.augment import prepare
from vitrail.config import DataConfig
from vitrail.explanation.faithfulness import faithfulness, random_srg, without_tokens
from vitrail.explanation.methods import DEFAULT, METHODS, removal_gradient, rollout
from vitrail.explanation.trace import Target, embed, grid_of

NAMES = ["cifar100", "cifar100-conv"]


@pytest.fixture(scope="module", params=NAMES)
def confident(request: pytest.FixtureRequest) -> tuple[vitrail.ViT, Tensor, Tensor, bool]:
    """A shipped model, and 200 images that it is right about with more than .5."""
    predictor = vitrail.Predictor(f"builtin:{request.param}")
    config = DataConfig(spec="cifar100")
    try:
        test = data.load(config, ("test",), classes=predictor.card.classes, preprocessing=predictor.preprocessing)
    except vitrail.DataError:
        pytest.skip("no CIFAR-100")
    images = prepare(torch.from_numpy(np.asarray(test["test"].images[:800])), predictor.preprocessing)
    labels = torch.from_numpy(np.asarray(test["test"].labels[:800]))
    with torch.no_grad():
        probabilities = predictor.model(images)["logits"].softmax(1)
    good = ((probabilities.argmax(1) == labels) & (probabilities.amax(1) > 0.5)).nonzero()[:200, 0]
    assert len(good) == 200
    return predictor.model, images[good], labels[good], request.param == "cifar100"


@pytest.mark.slow
def test_the_default_is_faithful_and_a_random_order_is_not(
    confident: tuple[vitrail.ViT, Tensor, Tensor, bool],
) -> None:
    model, images, labels, is_plain = confident
    found, random = [], []
    for start in range(0, 200, 50):
        tokens, target = embed(model, images[start : start + 50]), Target(labels[start : start + 50])
        first = model.config.num_prefix_tokens
        maps = METHODS[DEFAULT].row(model, tokens, target).detach()[:, first:]
        answers = without_tokens(model, tokens)
        found += [one.srg for one in faithfulness(answers, maps, target)]
        random += random_srg(answers, maps.shape[1], 2, target, seed=start).mean(1).tolist()
    assert np.mean(found) > (0.54 if is_plain else 0.52)  # .59 and .57; of occlusion .60 and .58
    assert abs(np.mean(random)) < 0.04


def _patches(model: vitrail.ViT, images: Tensor, labels: Tensor, method: str) -> Tensor:
    rows, columns = grid_of(model, (images.shape[2], images.shape[3]))
    maps = METHODS[method].row(model, embed(model, images), Target(labels)).detach()
    return maps[:, -rows * columns :].unflatten(1, (rows, columns))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_mosaic_is_pointed_at(confident: tuple[vitrail.ViT, Tensor, Tensor, bool]) -> None:
    model, images, labels, is_plain = confident
    draw, fours = torch.Generator().manual_seed(1), []
    while len(fours) < 100:
        four = torch.randint(200, (4,), generator=draw)
        if len(set(labels[four].tolist())) == 4:
            fours.append(four)
    numbers = torch.stack(fours)
    a, b, c, d = (images[numbers[:, i]] for i in range(4))
    mosaics = torch.cat((torch.cat((a, b), 3), torch.cat((c, d), 3)), 2)
    for method, least, most in ((DEFAULT, 0.31 if is_plain else 0.65, 1.0), ("rollout", 0.24, 0.26)):
        shares = []
        for cell in range(4):
            maps = _patches(model, mosaics, labels[numbers[:, cell]], method).clamp(min=0)
            half_y, half_x = maps.shape[1] // 2, maps.shape[2] // 2
            cells = maps.unflatten(1, (2, half_y)).unflatten(3, (2, half_x)).sum((2, 4)).flatten(1)
            shares.append(cells[:, cell] / cells.sum(1))
        assert least < float(torch.cat(shares).mean()) < most, method


@pytest.mark.long
def test_another_class_or_head_is_another_map(confident: tuple[vitrail.ViT, Tensor, Tensor, bool]) -> None:
    """The sanity check of arXiv:1810.03292: a map that ignores the classifier explains nothing of it."""
    model, images, labels, _ = confident
    images, labels = images[:30], labels[:30]
    own = _patches(model, images, labels, DEFAULT).flatten(1)
    other = _patches(model, images, (labels + 37) % 100, DEFAULT).flatten(1)
    head = model.head.weight
    kept = head.detach().clone()
    with torch.no_grad():
        head.normal_(0, float(kept.std()), generator=torch.Generator().manual_seed(0))
    try:
        anew = _patches(model, images, labels, DEFAULT).flatten(1)
    finally:
        with torch.no_grad():
            head.copy_(kept)
    for maps, most in ((anew, 0.5), (other, 0.9)):
        assert np.mean([spearmanr(a, b).statistic for a, b in zip(own, maps, strict=True)]) < most


def test_the_head_counts_in_a_small_model_too() -> None:
    model, target = random_vit(), Target(torch.tensor([0, 1]))
    tokens = embed(model, torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    before, walked = removal_gradient(model, tokens, target), rollout(model, tokens, target)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(removal_gradient(model, tokens, target), before)
    assert torch.equal(rollout(model, tokens, target), walked)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_model_at_518_pixels_stays_below_a_gigabyte_and_a_half() -> None:
    program = (
        "import numpy, resource, torch, vitrail\n"
        "config = vitrail.ViTConfig.named('S/14', image_size=518, num_labels=10)\n"
        "size = (518, 518)\n"
        "steps = vitrail.Preprocessing(image_size=size, decode_size=size)\n"
        "card = vitrail.Card(geometry=config, classes=tuple('abcdefghij'), preprocessing=steps)\n"
        "image = numpy.random.default_rng(0).integers(0, 256, (518, 518, 3), dtype=numpy.uint8)\n"
        "for method in ('removal-gradient', 'gradient-rollout', 'legrad'):\n"
        "    found = vitrail.explain((vitrail.ViT(config), card), image, method=method, faithfulness=False)\n"
        "    assert found.items[0].map.shape == (37, 37)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1.5e9
