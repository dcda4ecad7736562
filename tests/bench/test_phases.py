"""Operations are counted as torch counts them, fractions sum to 1, peers compute what we compute."""

import itertools
import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitrail import data, recipes
from vitrail.bench import peers
from vitrail.bench.ceiling import forward_operations, matrix_peak
from vitrail.bench.phases import PHASES, Training, random_images
from vitrail.bench.report import measure
from vitrail.config import ViTConfig
from vitrail.model import ViT

SMALL = ViTConfig(image_size=16, patch_size=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_labels=5)
CPU = torch.device("cpu")


def test_operations_are_those_that_torch_counts() -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        ViT(SMALL)(torch.randn(1, 3, 16, 16))
    assert forward_operations(SMALL) == counter.get_total_flops()


def test_the_peak_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.accumulate([0.0, 1.0, 3.0, 1.0, 2.0, 1.0, 4.0, 1.0, 5.0])  # products of 3, 2, 4 and 5 s
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert matrix_peak(CPU, seconds=5.0) == 2 * 2048**3 / 2.0


def test_phases_are_of_whole_steps_and_sum_to_one() -> None:
    config = recipes.get("cifar10-cpu")
    preprocessing = data.preprocessing_for(config.data)
    images = random_images(300, 10, preprocessing)
    model = ViT(
        ViTConfig.of(
            config.model,
            preprocessing.image_size,
            num_channels=preprocessing.num_channels,
            num_labels=len(images.classes),
        )
    )
    training = Training(config, model, images, preprocessing)
    assert [training.step() for _ in range(3)] == [128, 128, 128]
    assert training.epoch == 1, "the third batch is of the next epoch: the rest of 44 is no whole batch"
    clock = training.time_phases()
    training.step()
    fractions = clock.fractions()
    assert tuple(fractions) == PHASES
    assert sum(fractions.values()) == pytest.approx(1)
    assert min(fractions.values()) > 0


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_has_the_same_geometry(name: str) -> None:
    pytest.importorskip("tests.support.torchvision_operators")
    pytest.importorskip(name)
    model = peers.build(name, SMALL)
    images, labels = torch.randn(4, 3, 16, 16), torch.randint(5, (4,))
    assert model(images).shape == (4, 5)
    ours = sum(p.numel() for p in ViT(SMALL).parameters())
    assert sum(p.numel() for p in model.parameters()) == ours  # type: ignore[attr-defined]
    before = [p.detach().clone() for p in model.parameters()]  # type: ignore[attr-defined]
    assert peers.trainer(model, images, labels)() == 4  # type: ignore[arg-type]
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))  # type: ignore[attr-defined]


def test_peers_are_asked_only_for_what_they_have() -> None:
    assert peers.can_build(SMALL)
    assert not peers.can_build(ViTConfig(image_size=16, patch_size=4, num_registers=2))
    assert not peers.can_build(ViTConfig(image_size=(16, 32), patch_size=4))


def test_the_whole_measurement() -> None:
    found = measure(recipes.get("digits"), num_labels=10, seconds=0.05, with_peers=True)
    assert min(found[way]["images_per_second"] for way in ("training", "inference")) > 0
    assert found["training"]["share_of_peak"] > 0
    assert sum(found["fractions"].values()) == pytest.approx(1)
    assert list(found["peers"]["training"]["contenders"]) == ["vitrail"], (
        "no peer has mean pooling without a class token"
    )
