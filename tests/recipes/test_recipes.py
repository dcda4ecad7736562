"""Every recipe states what it must, builds, and takes a step."""

import dataclasses

import pytest
import torch

from vitrail import recipes
from vitrail.augment import Augment
from vitrail.config import Preprocessing, RunConfig, ViTConfig
from vitrail.config.checks import pair
from vitrail.errors import ConfigError
from vitrail.model import ViT
from vitrail.training.optim import build_optimizers
from vitrail.training.step import TrainStep


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_states_command_hardware_time_score_and_source(name: str) -> None:
    stated = recipes.describe(name)
    verb, _, rest = stated.command.removeprefix("vitrail ").partition(" ")
    assert verb in ("train", "pretrain", "finetune")
    assert rest.startswith(name) if verb != "finetune" else name == "finetune" or f"--recipe {name}" in rest
    for text in dataclasses.astuple(stated):
        assert "TODO" not in text
    assert recipes.get(name).recipe == name


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_takes_a_step(name: str) -> None:
    config = recipes.get(name)
    # Two layers show as much as twelve; the whole ViT-B/16 takes a step in the benchmark.
    few = min(2, config.model.num_hidden_layers)
    model, last = dataclasses.replace(config.model, num_hidden_layers=few), min(few, config.optim.train_last)
    config = dataclasses.replace(config, model=model, optim=dataclasses.replace(config.optim, train_last=last))
    size = pair(config.data.image_size)
    preprocessing = Preprocessing(
        image_size=size, decode_size=(8, 8) if name == "digits" else (32, 32), channels=config.data.channels,
        mean=config.data.mean, std=config.data.std,
    )  # fmt: skip
    model = ViT(
        ViTConfig.of(
            config.model,
            preprocessing.image_size,
            num_channels=preprocessing.num_channels,
            num_labels=len(tuple("abc")),
        )
    )
    compute = dataclasses.replace(config.compute, compile=False)
    step = TrainStep(model, build_optimizers(model, config.optim), config.optim, compute, seed=0)
    images = torch.randint(256, (4, preprocessing.num_channels, *preprocessing.decode_size), dtype=torch.uint8)
    augmented = Augment(config.augment, preprocessing, seed=0)(images, torch.arange(4), 0)
    assert augmented.shape[2:] == size
    before = [p.detach().clone() for p in model.parameters()]
    loss = step(augmented, torch.tensor([0, 1, 2, 0]), 0, 1.0)
    assert torch.isfinite(loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_reference_is_the_one_of_the_design() -> None:
    config = recipes.get("reference-scratch")
    assert (config.optim.name, config.optim.lr, config.data.batch_size) == ("adam", 1e-5, 32)
    assert (config.data.image_size, config.model.hidden_size, config.model.patch_size) == (224, 768, 16)
    augment = config.augment
    assert (augment.flip, augment.rotation, augment.crop_padding) == (0.5, 15.0, 4)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (0.2, 0.2, 0.2, 0.1)
    assert (config.compute.precision, config.schedule.shape, config.evaluation.split) == ("fp16", "constant", "test")


def test_plain_and_conv_recipes_are_labelled() -> None:
    kinds = {name: recipes.get(name).model.kind for name in recipes.names()}
    assert {name for name, kind in kinds.items() if kind == "ViT + conv"} == {"cifar10-cpu-conv", "cifar100-cpu-conv"}


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean cifar10-cpu"):
        recipes.get("cifar10-cpuu")


def test_an_unknown_recipe_tells_those_that_need_weights_apart() -> None:
    with pytest.raises(
        ConfigError, match="from scratch digits, .*; from pretrained weights finetune, .*, knn; without labels pretrain"
    ) as caught:
        recipes.get("digit")
    scratch, pretrained, without = str(caught.value.expected).split(";")
    assert without == f" without labels {', '.join(recipes.without_labels())}"
    assert set(recipes.from_scratch()) == {name for name in recipes.names() if name in scratch.replace(",", "").split()}
    assert all(recipes.starts_from_weights(name) for name in recipes.names() if f" {name}," in f"{pretrained},")


def test_get_gives_equal_configurations_each_time() -> None:
    assert all(isinstance(recipes.get(n), RunConfig) and recipes.get(n) == recipes.get(n) for n in recipes.names())


def test_finetune_follows_the_size_of_the_weights() -> None:
    small, large = recipes.get("finetune", num_parameters=recipes.SMALL - 1), recipes.get("finetune")
    assert small == dataclasses.replace(recipes.get("finetune-cpu"), recipe="finetune")
    assert (small.optim.name, large.optim.name) == ("muon", "adamw")
    assert recipes.get("finetune", num_parameters=recipes.SMALL) == large
    assert recipes.get("lora", num_parameters=1) == recipes.get("lora")


def test_recipes_without_labels_are_those_of_pretrain() -> None:
    commands = {name: recipes.describe(name).command for name in recipes.names()}
    without = {name for name, command in commands.items() if command.startswith("vitrail pretrain")}
    assert without == set(recipes.without_labels()) == {n for n in commands if recipes.get(n).is_pretraining}
    assert not without & {*recipes.from_scratch(), *filter(recipes.starts_from_weights, commands)}


def test_recipes_that_start_from_weights_are_those_of_finetune() -> None:
    commands = {name: recipes.describe(name).command for name in recipes.names()}
    assert {n for n in commands if recipes.starts_from_weights(n)} == {
        n for n, command in commands.items() if command.startswith("vitrail finetune")
    }
