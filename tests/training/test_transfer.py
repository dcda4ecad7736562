"""Fine-tuning: the start from weights, what moves, the probes, and what a model file of it holds."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.linear_model import LogisticRegression

import tests.support.torchvision_operators  # noqa: F401  (before peft, which imports transformers)
from tests.support.random_vit import random_vit
from vitrail import data, recipes, weights
from vitrail.config import OptimConfig, Preprocessing, ProbeConfig, RunConfig
from vitrail.errors import ConfigError, RunError, WeightsError
from vitrail.run import RunDir
from vitrail.selftest.same_run import differences
from vitrail.selftest.tiny import tiny_run
from vitrail.training import evaluate, train
from vitrail.training.optim import build_optimizers, layer_of
from vitrail.training.transfer import (
    affordable_count,
    initial_model,
    merge_lora,
    prepare,
    to_training,
    with_image_size,
    with_weights,
)
from vitrail.training.transfer.probe import Features, features, fit_linear, knn_probabilities
from vitrail.training.transfer.trainable import first_layer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits, whose model is fine-tuned below."""
    config = tiny_run(schedule={"epochs": 12, "warmup_fraction": 0.1}, data={"batch_size": 64}, optim={"lr": 4e-3})
    return train(config, tmp_path_factory.mktemp("source") / "run").run


def tuning(source: Path, recipe: str = "finetune", **optim: Any) -> RunConfig:
    """A short fine-tuning run on the digits."""
    config = with_weights(recipes.get(recipe), str(source))
    return replace(
        config,
        data=replace(config.data, spec="digits"),
        optim=replace(config.optim, **optim),
        schedule=replace(config.schedule, epochs=2, min_steps=0, steps=0),
        compute=replace(config.compute, device="cpu"),
    )


def trunk(path: Path) -> dict[str, torch.Tensor]:
    tensors = safetensors.torch.load_file(path)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}


@pytest.mark.long
def test_architecture_and_preprocessing_come_from_the_weights(source: Path) -> None:
    config, stored = with_weights(recipes.get("finetune"), str(source)), RunDir(source).read_config()
    assert config.model == replace(stored.model, projection_dropout=0.0)  # how to train is the recipe's
    assert (config.data.mean, config.data.channels) == (stored.data.mean, stored.data.channels)
    assert config.optim.lr == 1.5e-3


def test_wide_models_learn_more_slowly(tmp_path: Path) -> None:
    model = random_vit(hidden_size=512, num_hidden_layers=1)
    card = weights.Card(
        geometry=model.config,
        classes=tuple("abcde"),
        preprocessing=Preprocessing(image_size=(16, 16), decode_size=(16, 16), icc="ignore"),
    )
    weights.save(tmp_path / "wide.safetensors", model, card)
    config = with_weights(recipes.get("finetune"), str(tmp_path / "wide.safetensors"))
    assert config.optim.lr == pytest.approx(1.5e-3 / 4)
    assert (config.data.icc, recipes.get("finetune").data.icc) == ("ignore", "apply")  # the weights' habit
    assert with_weights(recipes.get("reference-finetune"), str(tmp_path / "wide.safetensors")).optim.lr == 1e-5


def test_a_size_that_is_resized_to_follows_the_input(tmp_path: Path) -> None:
    before = recipes.get("finetune")
    before = replace(before, data=replace(before.data, image_size=(224, 224), resize_size=(248, 248)))
    asked = replace(before, data=replace(before.data, image_size=448))
    assert with_image_size(asked, before).data.resize_size == (496, 496)
    both = replace(before, data=replace(before.data, image_size=448, resize_size=500))
    assert with_image_size(both, before).data.resize_size == 500


def test_fine_tuning_starts_at_the_probe_and_says_where_it_came_from(source: Path, tmp_path: Path) -> None:
    result = train(replace(tuning(source), seed=3), tmp_path / "run")
    assert result.baseline.split == "val"
    assert result.best.accuracy > 0.9 * result.baseline.linear
    _, card = weights.load(result.model)
    assert card.provenance["source"] == "fine-tuned"
    assert card.provenance["init"]["weights"] == str(source)
    assert RunDir(result.run).read_environment()["init"]["weights"] == str(source)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(source: Path, tmp_path: Path) -> None:
    config = tuning(source, freeze="gradual")
    whole = train(config, tmp_path / "whole")
    half = replace(config, schedule=replace(config.schedule, max_steps=7))
    train(half, tmp_path / "parts")
    parts = train(config, tmp_path / "parts", resume=True)
    assert parts.baseline.linear == whole.baseline.linear
    left, right = (safetensors.torch.load_file(r.run / "last.safetensors") for r in (whole, parts))
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_a_frozen_trunk_does_not_move(source: Path, tmp_path: Path) -> None:
    result = train(tuning(source, freeze="trunk", ema_decay=0.0), tmp_path / "run")
    before, after = trunk(source / "best.safetensors"), trunk(result.model)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_layers_thaw_from_the_last_to_the_first() -> None:
    model = random_vit(num_hidden_layers=3)
    config = OptimConfig(freeze="gradual", freeze_until=0.5)
    seen: list[set[int]] = []
    for done in (0.0, 0.2, 0.3, 0.4, 0.5):
        to_training(model, config, done)
        seen.append({layer_of(n, model) for n, p in model.named_parameters() if p.requires_grad})
    assert seen == [{4}, {3, 4}, {2, 3, 4}, {1, 2, 3, 4}, {0, 1, 2, 3, 4}]
    assert first_layer(3, 0.5, 0.49) == 1
    to_training(model, config, 0.2)
    assert not model.stem.training


def test_lower_layers_learn_more_slowly() -> None:
    model = random_vit(num_hidden_layers=3)
    (optimizer,) = build_optimizers(model, OptimConfig(lr=1.0, layer_decay=0.5, weight_decay=0.1))
    names = {id(p): n for n, p in model.named_parameters()}
    rates = {names[id(p)]: g["peak_lr"] for g in optimizer.param_groups for p in g["params"]}
    assert len(rates) == len(names)
    assert rates["head.weight"] == rates["norm.weight"] == 1.0
    assert rates["blocks.2.attn.qkv.weight"] == 0.5
    assert rates["blocks.0.mlp.fc1.bias"] == 0.125
    assert rates["pos_embed"] == rates["patch_embed.proj.weight"] == 0.0625


@pytest.mark.long
def test_low_rank_updates_are_merged_into_the_model_file(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    result = train(tuning(source, "lora", lora_rank=2), tmp_path / "run")
    model, _ = weights.load(result.model)
    split = data.load(tuning(source).data, ("val",))["val"]
    _, card = weights.load(result.model)
    again = evaluate(model, split, card.preprocessing, batch_size=100)
    assert again.num_correct == result.evaluation["num_correct"]
    before, after = trunk(source / "best.safetensors"), trunk(result.run / "last.safetensors")
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    matrices = ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")
    assert moved == {name for name in before if name.startswith("blocks.") and name.endswith(matrices)}


@torch.no_grad()
def test_merging_keeps_the_function() -> None:
    pytest.importorskip("peft")
    model, images = random_vit(), torch.randn(2, 3, 16, 16)
    plain = model(images)["logits"].clone()
    prepare(model, OptimConfig(lora_rank=3))
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            parameter.normal_()
    adapted = model(images)["logits"]
    assert not torch.allclose(adapted, plain)
    torch.testing.assert_close(merge_lora(model)(images)["logits"], adapted, atol=1e-5, rtol=1e-5)
    assert not any("lora" in name for name in merge_lora(model).state_dict())


def test_a_linear_probe_is_a_model_file(source: Path, tmp_path: Path) -> None:
    result = train(tuning(source, "linear-probe"), tmp_path / "run")
    model, card = weights.load(result.model)
    split = data.load(tuning(source).data, ("val",))["val"]
    assert evaluate(model, split, card.preprocessing, batch_size=7).num_correct == result.evaluation["num_correct"]
    assert result.best.accuracy > 0.8
    before, after = trunk(source / "best.safetensors"), trunk(result.model)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_nearest_neighbours_leave_a_trunk_without_classes(source: Path, tmp_path: Path) -> None:
    result = train(tuning(source, "knn"), tmp_path / "run")
    assert result.best.accuracy > 0.8
    assert weights.read_card(result.model).classes == ()


@pytest.mark.parametrize(("recipe", "does"), [("linear-probe", "a linear probe of"), ("knn", "the 20 nearest of")])
def test_a_probe_says_first_what_it_is_about_to_do(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str, does: str
) -> None:
    config = tuning(source, recipe)
    config = replace(
        config, probe=replace(config.probe, max_examples=50), optim=replace(config.optim, class_weights="balanced")
    )
    train(config, tmp_path / "run", progress=True)
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("plain ViT, ") and "10 classes (0, 1, " in first
    assert f"training images, {does} the features of 50 of them; measured on " in first
    assert "steps" not in first and not any("imbalance" in line for line in others)


def test_a_probe_folds_its_standardisation_into_the_classifier() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    rows = (generator.normal(size=(120, 6)) * 5 + 3 + 4 * labels[:, None]).astype(np.float32)
    probe = fit_linear(Features(rows, labels), 5, 0)
    scaled = (rows - rows.mean(0)) / (rows.std(0) + 1e-6)
    expected = LogisticRegression(C=probe.penalty, max_iter=200).fit(scaled, labels).predict(scaled)
    assert ((rows @ probe.weight.T + probe.bias).argmax(1) == expected).mean() > 0.99
    two = fit_linear(Features(rows[:80], labels[:80]), 2, 0)
    assert ((rows[:80] @ two.weight.T + two.bias).argmax(1) == labels[:80]).mean() > 0.8


def test_votes_count_by_similarity() -> None:
    rows = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)
    votes = knn_probabilities(Features(rows, np.array([0, 0, 3])), np.array([[1, 0.05], [0.1, 1]], np.float32), 4, 20)
    assert votes.shape == (2, 4)
    assert votes.argmax(1).tolist() == [0, 3]
    np.testing.assert_allclose(votes.sum(1), 1, rtol=1e-5)


def test_early_stopping_waits_for_patience(source: Path, tmp_path: Path) -> None:
    config = tuning(source, lr=1e-12, ema_decay=0.0)
    config = replace(
        config,
        schedule=replace(config.schedule, epochs=9),
        evaluation=replace(config.evaluation, patience=2),
        augment=type(config.augment)(),
    )
    result = train(config, tmp_path / "run")
    assert result.best.epoch == 0
    assert result.final.epoch == 6  # the second without a gain after the middle of the schedule


def test_what_training_makes_worse_is_not_kept(source: Path, tmp_path: Path) -> None:
    config = tuning(source, lr=0.3, layer_decay=1.0, ema_decay=0.0)
    config = replace(config, init=replace(config.init, head="reset"))
    result = train(config, tmp_path / "run")
    assert result.final.accuracy < result.best.accuracy == result.baseline.linear
    assert result.best.epoch == 0
    model, card = weights.load(result.model)
    split = data.load(config.data, ("val",))["val"]
    assert evaluate(model, split, card.preprocessing, batch_size=100).accuracy == result.baseline.linear


@pytest.mark.long
def test_a_run_killed_before_its_first_checkpoint_starts_from_its_weights_again(source: Path, tmp_path: Path) -> None:
    whole = train(tuning(source), tmp_path / "whole")
    train(tuning(source), tmp_path / "killed")
    for folder in (tmp_path / "killed" / "checkpoints").iterdir():
        shutil.rmtree(folder)
    again = train(tuning(source), tmp_path / "killed", resume=True)
    assert again.final == whole.final
    assert again.baseline.linear == whole.baseline.linear
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


@pytest.mark.long
def test_the_best_model_is_measured_once_on_the_test_split(source: Path, tmp_path: Path) -> None:
    config = tuning(source)
    config = replace(config, evaluation=replace(config.evaluation, test_best=True))
    result = train(config, tmp_path / "run")
    model, card = weights.load(result.model)
    test_set = data.load(config.data, ("test",))["test"]
    measured = evaluate(model, test_set, card.preprocessing, batch_size=100).to_json()
    assert result.evaluation["test"] == measured
    assert result.evaluation["split"] == "val"
    assert RunDir(result.run).read_evaluation() == result.evaluation
    assert train(config, result.run, resume=True).evaluation == result.evaluation
    probe = with_weights(recipes.get("linear-probe"), str(source))
    probe = replace(probe, data=replace(probe.data, spec="digits"), evaluation=config.evaluation)
    probe = replace(probe, evaluation=replace(config.evaluation, patience=0))
    assert train(probe, tmp_path / "probe").evaluation["test"]["num_examples"] == 359


@pytest.mark.parametrize("changed", [{"lora_rank": 2}, {"freeze": "trunk"}])
def test_random_features_are_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_run(optim=changed)
    with pytest.raises(ConfigError, match="vitrail finetune"):
        train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="linear on random weights"):
        train(replace(tiny_run(), probe=ProbeConfig(method="linear")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_small_set_is_passed_over_until_there_are_steps_enough(source: Path, tmp_path: Path) -> None:
    config = tuning(source)
    config = replace(
        config, schedule=replace(config.schedule, epochs=1, min_steps=60), probe=ProbeConfig(baseline=False)
    )
    result = train(config, tmp_path / "run")
    assert result.steps >= 60
    assert len([r for r in RunDir(result.run).read_metrics() if "accuracy" in r]) == 2  # the start, and the end
    assert result.baseline is None


def test_weights_of_another_geometry_are_refused(source: Path) -> None:
    config = tuning(source)
    other = replace(config, model=replace(config.model, num_hidden_layers=config.model.num_hidden_layers + 1))
    with pytest.raises(RunError, match="a different geometry"):
        initial_model(other, data.preprocessing_for(other.data), ("a", "b"), resume=False)
    other = replace(config, model=replace(config.model, relative_positions=True))
    with pytest.raises(RunError, match="has no relative positions"):
        initial_model(other, data.preprocessing_for(other.data), ("a", "b"), resume=False)


@pytest.mark.long
def test_a_classifier_of_which_some_classes_are_known_starts_at_the_probe(source: Path, tmp_path: Path) -> None:
    model, card = weights.load(str(source))
    known = (*card.classes[:2], *(f"other {i}" for i in range(len(card.classes) - 2)))
    weights.save(tmp_path / "some.safetensors", model, replace(card, classes=known))
    result = train(tuning(tmp_path / "some.safetensors"), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if "accuracy" in line)
    assert "2 of 10 classes kept by name" in str(RunDir(result.run).read_environment()["init"])
    assert (first["step"], first["accuracy"]) == (0, result.baseline.linear)


def test_how_many_images_a_baseline_sees_follows_from_the_run_alone() -> None:
    small, large = 3e6 * 65, 86e6 * 197  # 3 M parameters on images of 32 pixels; a B/16
    assert affordable_count((4500, 500), 5000, 1, small) == 5000
    assert affordable_count((180, 20), 5000, 6400, large) == 5000
    assert affordable_count((50_000, 5000), 5000, 10 * 50_000, large) == 5000
    assert affordable_count((50_000, 5000), 5000, 50_000, large) == 3750
    assert affordable_count((50_000, 5000), 5000, 0, large) == 59


@pytest.mark.long
def test_a_slow_moment_does_not_change_the_start(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = train(tuning(source), tmp_path / "usual")
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: 1000 * clock())
    slow = train(tuning(source), tmp_path / "slow")
    assert slow.baseline.num_train == usual.baseline.num_train
    assert slow.best == usual.best


def test_features_that_are_not_finite_are_an_error(source: Path) -> None:
    model, card = weights.load(source)
    config = tuning(source)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    digits = data.load(config.data, ("val",))["val"]
    with pytest.raises(WeightsError, match="not finite"):
        features(model, digits, card.preprocessing, batch_size=100)
