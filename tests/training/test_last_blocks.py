"""Training the last blocks alone, on tokens that were computed once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from tests.support.folders import image_folder
from tests.support.random_vit import random_vit
from vitrail import data, recipes, weights
from vitrail.augment import prepare
from vitrail.config import AugmentConfig, ComputeConfig, OptimConfig, RunConfig, ScheduleConfig
from vitrail.distributed import World
from vitrail.errors import ConfigError, Interrupted, SaveError, WeightsError
from vitrail.locations import token_cache
from vitrail.model import ViT
from vitrail.run import RunDir
from vitrail.selftest.tiny import tiny_run
from vitrail.training import train
from vitrail.training.inputs import Inputs
from vitrail.training.optim import build_optimizers, layer_of
from vitrail.training.transfer import LastBlocks, TokenCache, with_weights
from vitrail.training.transfer import prepare as freeze

FP16 = 2e-3
"""Relative: tokens are rounded to eleven bits once, and errors grow a little on the way to a loss."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of four blocks that have seen a few digits."""
    config = tiny_run(schedule={"epochs": 1, "max_steps": 3}, optim={"lr": 4e-3})
    config = replace(config, model=replace(config.model, num_hidden_layers=4))
    return train(config, tmp_path_factory.mktemp("source") / "run").run


def tuning(source: Path, cached: bool = True, **compute: Any) -> RunConfig:
    """Two epochs of finetune-last on the digits, two of four blocks; dropout where nothing is trained would show."""
    config = with_weights(recipes.get("finetune-last"), str(source))
    return replace(
        config,
        data=replace(config.data, spec="digits", batch_size=128),
        model=replace(config.model, projection_dropout=0.1),
        optim=replace(config.optim, train_last=2),
        schedule=replace(config.schedule, epochs=2, min_steps=0),
        compute=ComputeConfig(device="cpu", cache_tokens=cached, **compute),
    )


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in RunDir(run).read_metrics() if "lr" in entry]


def test_cached_tokens_train_as_the_whole_model_does(source: Path, tmp_path: Path) -> None:
    cached = train(tuning(source, accumulation_steps=2), tmp_path / "cached")
    whole = train(tuning(source, cached=False, accumulation_steps=2), tmp_path / "whole")
    assert losses(cached.run) == pytest.approx(losses(whole.run), rel=FP16)
    assert cached.evaluation["loss"] == pytest.approx(whole.evaluation["loss"], rel=FP16)
    before, after = (safetensors.torch.load_file(p / "last.safetensors") for p in (source, cached.run))
    model, _ = weights.load(str(cached.run / "last.safetensors"))
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, _ in model.named_parameters() if layer_of(name, model) > 2}


def test_the_losses_are_those_of_frozen_blocks_written_out(source: Path, tmp_path: Path) -> None:
    config = tuning(source)
    config = replace(
        config,
        augment=AugmentConfig(),
        model=replace(config.model, projection_dropout=0.0),
        optim=OptimConfig(lr=1e-3, train_last=2, weight_decay=0.0),
        schedule=ScheduleConfig(epochs=1, shape="constant"),
        probe=replace(config.probe, baseline=False),
    )
    found = losses(train(config, tmp_path / "run").run)

    sets = data.load(config.data, ("train", "val"))
    model, _ = weights.load(str(source))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("blocks.2.", "blocks.3.", "norm.", "head.")))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    expected: list[float] = []
    order = data.epoch_order(config.seed, 0, len(sets["train"]))
    for batch in data.batches(sets["train"], order, config.data.batch_size, device=torch.device("cpu")):
        logits = model(prepare(batch.images, data.preprocessing_for(config.data)))["logits"]
        loss = F.cross_entropy(logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))
    assert found == pytest.approx(expected, rel=FP16)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(source: Path, tmp_path: Path) -> None:
    config = tuning(source)
    whole = train(config, tmp_path / "whole")
    train(replace(config, schedule=replace(config.schedule, max_steps=7)), tmp_path / "parts")
    shutil.rmtree(token_cache())  # what was cached is computed again
    parts = train(config, tmp_path / "parts", resume=True)
    left, right = (safetensors.torch.load_file(r.run / "last.safetensors") for r in (whole, parts))
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


# ---- the cache ---------------------------------------------------------------------------------------------------


def cache_of(folder: Path, model: ViT, *, flip: float = 0.5, last: int = 1, store: str = "memory") -> TokenCache:
    """Of the images of a folder, 16 pixels wide."""
    config = RunConfig(
        data=replace(recipes.get("finetune").data, spec=str(folder), image_size=16, batch_size=4, store=store),
        model=model.config.architecture,
        augment=AugmentConfig(flip=flip),
        optim=OptimConfig(train_last=last),
        compute=ComputeConfig(cache_tokens=True),
    )
    freeze(model, config.optim)
    return TokenCache(config, model, data.load(config.data, ("train",))["train"], data.preprocessing_for(config.data))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of two classes; what is cached of them is seen by one test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return image_folder(tmp_path / "images", {"train/cat": 6, "train/dog": 5, "test/cat": 1, "test/dog": 1}, side=16)


def compute(cache: TokenCache) -> Any:
    return cache.compute(lambda count: None)


def test_a_batch_has_the_tokens_of_the_mirrored_image_where_it_is_flipped(folder: Path) -> None:
    model = random_vit().eval()
    cache = cache_of(folder, model)
    inputs = Inputs(cache.config, cache.preprocessing, cache.train_set, World())
    plain = list(inputs.batches(3, 1, torch.device("cpu")))
    inputs.tokens = compute(cache)
    seen: set[bool] = set()
    for number, (batch, pixels) in enumerate(zip(inputs.batches(3, 1, torch.device("cpu")), plain, strict=True), 1):
        assert torch.equal(batch.ids, pixels.ids)
        images = inputs.augment(pixels.images, pixels.ids, 3)
        given = inputs(batch, 3, number, len(batch.ids), 1.0)
        assert torch.equal(given.targets, pixels.labels)
        assert given.num_own == len(given.images)
        logits = LastBlocks(model, 1)(given.images)["logits"]
        torch.testing.assert_close(logits, model(images)["logits"], rtol=FP16, atol=FP16)
        seen |= set(inputs.augment.flips(batch.ids, 3).tolist())
    assert seen == {True, False}


def test_tokens_are_found_again_by_what_they_depend_on(folder: Path) -> None:
    model = random_vit(num_hidden_layers=3)
    cache = cache_of(folder, model)
    assert cache.find() is None
    tokens = compute(cache).examples.images
    assert np.array_equal(cache.find().examples.images, tokens)
    with torch.no_grad():
        model.blocks[2].mlp.fc1.weight.add_(1)  # is trained, and has no part in them
    assert cache_of(folder, model).folder == cache.folder
    others = [cache_of(folder, model, flip=0.0), cache_of(folder, model, last=2)]
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight.add_(1)
    others.append(cache_of(folder, model))
    (folder / "train" / "cat" / "img0.png").unlink()
    others.append(cache_of(folder, model))
    assert len({cache.folder, *(other.folder for other in others)}) == 5


def test_tokens_of_a_run_in_bf16_are_computed_in_bf16_and_have_a_file_of_their_own(folder: Path) -> None:
    model = random_vit()
    cache = cache_of(folder, model)
    other = TokenCache(cache.config, model, cache.train_set, cache.preprocessing, dtype=torch.bfloat16)
    assert other.folder != cache.folder
    exact, found = (torch.from_numpy(compute(one).examples.images.astype(np.float32)) for one in (cache, other))
    assert 1e-4 < float((found - exact).norm() / exact.norm()) < 2e-2


def test_a_file_that_is_not_whole_is_computed_again(folder: Path) -> None:
    cache = cache_of(folder, random_vit())
    compute(cache)
    path = cache.folder / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-2])
    assert cache.find() is None
    compute(cache)
    (cache.folder / "index.json").write_text(json.dumps({"lost": [[99, "a", "b"]]}))
    assert cache.find() is None


def test_what_does_not_fit_is_said_before_anything_is_computed(folder: Path) -> None:
    model = random_vit()
    cache = cache_of(folder, model)
    plenty = cache.config
    cache.config = replace(plenty, data=replace(plenty.data, cache_gib=1e-6))
    with pytest.raises(SaveError, match=r"(?s)no room for the tokens.*--no-compute.cache-tokens"):
        compute(cache)
    cache.config = plenty
    with torch.no_grad():
        model.patch_embed.proj.bias.fill_(1e5)  # beyond fp16
    with pytest.raises(WeightsError, match="too large for fp16"):
        compute(cache)
    assert cache.find() is None


def test_what_was_interrupted_leaves_nothing(folder: Path) -> None:
    cache = cache_of(folder, random_vit())

    def stop(count: int) -> None:
        raise Interrupted("stopped", signal_number=2, do="")

    with pytest.raises(Interrupted):
        cache.compute(stop)
    assert list(cache.folder.iterdir()) == []
    assert cache.find() is None


def test_an_unreadable_image_counts_nothing(folder: Path) -> None:
    (folder / "train" / "cat" / "img0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    cache = cache_of(folder, random_vit(), store="files")
    compute(cache)
    found = cache.find()
    inputs = Inputs(cache.config, cache.preprocessing, cache.train_set, World())
    inputs.tokens = found
    named: list[str] = []
    for number, batch in enumerate(inputs.batches(0, 0, torch.device("cpu"))):
        named += [error.name for error in batch.errors.values()]
        targets = inputs(batch, 0, number, len(batch.ids), 1.0).targets
        for place in batch.errors:
            assert not targets[place].any()
    assert len(named) == 1
    assert named[0].endswith("img0.png")


# ---- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"augment": AugmentConfig(flip=0.5, crop_padding=4)}, "augment.crop_padding=4"),
        ({"schedule": ScheduleConfig(progressive_scales=(0.5,), progressive_until=(0.5,))}, "progressive_scales"),
        ({"optim": OptimConfig()}, "a number of blocks"),
        ({"optim": OptimConfig(train_last=13)}, "at most the 12 blocks"),
    ],
)
def test_what_cannot_be_cached_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(recipes.get("finetune-last"), **sections)


def test_one_setting_says_what_is_trained(tmp_path: Path) -> None:
    for other in ({"freeze": "trunk"}, {"lora_rank": 4}):
        with pytest.raises(ConfigError, match=r"optim\.train-last"):
            OptimConfig(train_last=2, **other)
    config = replace(recipes.get("finetune-last"), init=replace(RunConfig().init, weights=""))
    with pytest.raises(ConfigError, match="no pretrained weights"):
        train(config, tmp_path / "run")


def test_weights_of_few_blocks_are_trained_as_a_whole(source: Path) -> None:
    few = replace(recipes.get("finetune-last"), optim=OptimConfig(train_last=9))
    assert with_weights(few, str(source)).optim.train_last == 4


def test_only_what_is_trained_has_an_optimiser_state() -> None:
    model = random_vit(num_hidden_layers=4)
    config = OptimConfig(train_last=1)
    freeze(model, config)
    (optimizer,) = build_optimizers(model, config)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {n for n, p in model.named_parameters() if id(p) in held} == {
        n for n, _ in model.named_parameters() if n.startswith(("blocks.3.", "norm.", "head."))
    }
