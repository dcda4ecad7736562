"""Pretraining without labels: the loss, its independence of labels and processes, resuming, and what comes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitrail
from tests.support.folders import image_folder, write_images
from vitrail import data, recipes
from vitrail.config import DataConfig, PretrainConfig, RunConfig
from vitrail.distributed import World
from vitrail.errors import ConfigError, DataError
from vitrail.model import MaskedViT
from vitrail.run import RunDir
from vitrail.selftest.fork_server import ForkServer
from vitrail.selftest.same_run import model_content
from vitrail.selftest.tiny import tiny_run
from vitrail.training import train
from vitrail.training.pretraining import MaskedInputs, encoder_of, masked_error, reconstruct, targets_of
from vitrail.training.transfer import initial_model, with_weights

SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"batch_size": 90},
    "model": {
        "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2.0,
        "use_mask_token": True, "projection_dropout": 0.0,
    },
    "pretrain": {"objective": "simmim"},
    "optim": {"name": "muon", "ema_decay": 0.9, "label_smoothing": 0.0},
    "schedule": {"epochs": 2, "max_steps": 0},
    "evaluation": {"split": "val", "every_epochs": 1},
    "compute": {"num_threads": 1, "accumulation_steps": 2},
}  # fmt: skip


def _changed(**sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: SECTIONS.get(name, {}) | sections.get(name, {}) for name in SECTIONS.keys() | sections.keys()}


def _on_images(spec: Path, **pretrain: Any) -> RunConfig:
    images = {"spec": str(spec), "image_size": 8, "batch_size": 7, "channels": "RGB", "mean": (0.5,) * 3}
    return tiny_run(
        **_changed(
            data=images | {"std": (0.5,) * 3, "validation_fraction": 0.2}, pretrain=pretrain, augment={"flip": 0.5}
        )
    )


# ---- the loss ----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_error_of_masked_pixels_and_ignores_the_others() -> None:
    images, masked = torch.randn(3, 2, 4, 6), torch.zeros(3, 6, dtype=torch.bool)
    masked[0, [0, 4]] = masked[1, [5]] = True  # nothing of the third image, which could not be read
    predicted = torch.randn(3, 6, 8)
    found = masked_error(predicted, targets_of(images, (2, 2), normalised=False), masked)
    for image, patches in ((0, (0, 4)), (1, (5,))):
        errors = [
            abs(float(images[image, c, 2 * (p // 3) + y, 2 * (p % 3) + x] - predicted[image, p, 4 * c + 2 * y + x]))
            for p in patches
            for c in range(2)
            for y in range(2)
            for x in range(2)
        ]
        assert float(found[image]) == pytest.approx(np.mean(errors), rel=1e-5)
    assert float(found[2]) == 0
    predicted[~masked] = float("inf")
    assert torch.equal(masked_error(predicted, targets_of(images, (2, 2), normalised=False), masked), found)


def test_normalised_targets_have_mean_0_and_standard_deviation_1() -> None:
    images = torch.randn(2, 3, 8, 8) * 5 + 2
    wanted = targets_of(images, (4, 4), normalised=True)
    patch = images[1, :, 4:, :4].flatten()
    assert torch.allclose(wanted[1, 2], (patch - patch.mean()) / patch.std(), atol=1e-4)


def test_the_figure_does_not_depend_on_the_batch_size_or_on_processes() -> None:
    config = tiny_run(**SECTIONS)
    held_out, preprocessing = data.load(config.data, ("val",))["val"], data.preprocessing_for(config.data)
    torch.manual_seed(0)
    model, _ = initial_model(config, preprocessing, ("image",), resume=False)
    assert isinstance(model, MaskedViT)
    few, many = (
        reconstruct(model, held_out, preprocessing, config.pretrain, seed=0, batch_size=size) for size in (7, 500)
    )
    assert few.num_examples == len(held_out)
    assert few.loss == pytest.approx(many.loss, abs=1e-6)
    # A model that always answers 0 errs by the pixels themselves.
    torch.nn.init.zeros_(model.prediction.weight)
    torch.nn.init.zeros_(model.prediction.bias)
    flat = reconstruct(model, held_out, preprocessing, PretrainConfig(normalise_targets=True), seed=0, batch_size=50)
    assert flat.loss == flat.mean_colour_loss
    grey = reconstruct(model, held_out, preprocessing, config.pretrain, seed=0, batch_size=50)
    assert grey.mean_colour_loss < grey.loss == pytest.approx(0.77, abs=0.1)


def test_an_image_that_cannot_be_read_has_no_mask(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 10, side=8)
    paths[3].write_bytes(paths[3].read_bytes()[:40])
    config = _on_images(tmp_path, objective="simmim")
    config = tiny_run(**_changed(data=vars(config.data) | {"store": "files"}, augment={"flip": 0.5}))
    train_set = data.load(config.data, ("all",), needs_labels=False)["all"]
    inputs = MaskedInputs(config, data.preprocessing_for(config.data), train_set, World())
    counted = {}
    for number, batch in enumerate(inputs.batches(0, 0, torch.device("cpu"))):
        masked = inputs(batch, 0, number, min(7, 10 - 7 * number), 1.0).targets
        counted |= dict(zip(batch.ids.tolist(), masked.sum(1).tolist(), strict=True))
    assert counted == {number: 0 if number == 3 else 2 for number in range(10)}


# ---- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_run(**SECTIONS), run)
    return run


def _tensors(run: Path) -> dict[str, torch.Tensor]:
    return vitrail.load(run / "last.safetensors")[0].state_dict()


def test_a_run_leaves_an_encoder_and_a_figure_that_falls(whole: Path) -> None:
    model, card = vitrail.load(whole)
    assert (type(model), model.config.num_labels, card.classes) == (vitrail.ViT, 0, ())
    assert model.config.use_mask_token
    assert card.provenance["source"] == "pretrained without labels (simmim)"
    found = RunDir(whole).read_reconstruction()
    measured = [line for line in RunDir(whole).read_metrics() if "split" in line]
    assert [line["split"] for line in measured] == ["val", "val"]
    assert all("accuracy" not in line for line in measured)
    assert found["loss"] == min(line["loss"] for line in measured) == measured[1]["loss"]
    assert card.metrics["loss"] == found["loss"]
    assert not (whole / "evaluation.json").exists()
    assert not list(whole.glob("predictions-*"))


def test_an_interrupted_run_goes_on_to_the_last_byte(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_run(**_changed(schedule={"max_steps": 11})), run)
    train(tiny_run(**SECTIONS), run, resume=True)
    for name in ("best.safetensors", "last.safetensors", "reconstruction.json"):
        assert model_content(run / name) == model_content(whole / name), name
    last = "checkpoints/step-0000030"
    for name in ("model", "optim", "ema"):
        assert (run / last / f"{name}.safetensors").read_bytes() == (whole / last / f"{name}.safetensors").read_bytes()


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_two_processes_mask_and_learn_alike(strategy: str, server: ForkServer, whole: Path, tmp_path: Path) -> None:
    sections = _changed(parallel={"strategy": strategy})
    if strategy == "fsdp":  # Muon needs whole matrices
        sections = _changed(parallel={"strategy": strategy}, optim={"name": "adamw"})
        train(tiny_run(**_changed(optim={"name": "adamw"})), whole := tmp_path / "whole")
    arguments = {"run": str(tmp_path / "run"), "sections": sections}
    ended = server.run("tests.support.jobs:train_tiny", arguments, ranks=2, log=tmp_path / "stderr")
    assert ended.statuses == [0, 0], (tmp_path / "stderr").read_text()
    ours, theirs = (
        [(line["step"], line["loss"]) for line in RunDir(run).read_metrics()] for run in (whole, tmp_path / "run")
    )
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], abs=1e-4)


def test_labels_do_not_matter(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 30, side=8)
    rows = [f"images/{path.name}" for path in sorted(images)]
    random = np.random.default_rng(0)
    (tmp_path / "one.csv").write_text("\n".join(["path,label", *(f"{r},{'abc'[i % 3]}" for i, r in enumerate(rows))]))
    (tmp_path / "two.csv").write_text("\n".join(["path,label", *(f"{r},{random.integers(5)}" for r in rows)]))
    (tmp_path / "none.csv").write_text("\n".join(["path", *rows]))
    for name in ("one.csv", "two.csv", "none.csv", "images"):
        train(_on_images(tmp_path / name), tmp_path / f"run of {name}")
    first = _tensors(tmp_path / "run of one.csv")
    for name in ("two.csv", "none.csv", "images"):
        assert all(torch.equal(first[key], value) for key, value in _tensors(tmp_path / f"run of {name}").items()), name


def test_pretrained_weights_are_finetuned(whole: Path, tmp_path: Path) -> None:
    settings = {"epochs": 1, "min_steps": 0, "flip": 0.0, "crop_padding": 0}
    tuned = vitrail.finetune(str(whole), "digits", tmp_path / "tuned", settings=settings)
    assert json.loads((tuned.run / "environment.json").read_text())["init"]["weights"] == str(whole)
    assert tuned.evaluation["accuracy"] > 0.3  # at least the linear probe, which it starts from
    assert len(vitrail.load(tuned.run)[1].classes) == 10
    steps = [with_weights(recipes.get("finetune"), str(start)).schedule.min_steps for start in (whole, tuned.run)]
    assert steps == [300, recipes.get("finetune").schedule.min_steps], "weights that have seen no label need more"


def test_what_is_saved_computes_what_was_trained() -> None:
    config = tiny_run(**SECTIONS)
    model, _ = initial_model(config, data.preprocessing_for(config.data), ("image",), resume=False)
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(encoder_of(model).forward_features(images), model.eval().forward_features(images))


def test_the_public_function(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images", {"train/a": 12, "train/deep/er": 9, "test/x": 3}, side=8)
    write_images(folder / "train", 4, seed=9, side=8)
    result = vitrail.pretrain(folder, tmp_path / "run", recipe=_on_images(folder), settings={"epochs": 1})
    assert result.evaluation["num_examples"] == 5  # a fifth of the 25 images in train
    assert result.best.accuracy is None
    assert result.to_json()["evaluation"]["split"] == "val"


# ---- what is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"model": {"use_mask_token": False}}, "model.use-mask-token"),
        ({"pretrain": {"mask_ratio": 1.0}}, "pretrain.mask-ratio"),
        ({"pretrain": {"mask_unit": 4}}, "masks some of the 1 squares"),
        ({"pretrain": {"mask_ratio": 0.01}}, "masks some of the 16 squares"),
        ({"augment": {"mixup": 0.1}}, "augment.mixup"),
        ({"data": {"balance": "sampling"}}, "data.balance"),
        ({"optim": {"label_smoothing": 0.1}}, "optim.label-smoothing"),
        ({"schedule": {"progressive_scales": (0.25,), "progressive_until": (0.5,)}}, "some of the 1 squares"),
        ({"init": {"weights": "builtin:cifar100"}}, "init.weights"),
        ({"probe": {"method": "knn"}}, "probe.method"),
        ({"model": {"stem_channels": (8,), "stem_strides": (1,)}}, "model.stem-channels"),
    ],
)
def test_a_configuration_that_makes_no_sense(sections: dict[str, dict[str, Any]], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        tiny_run(**_changed(**sections))


def test_classes_are_not_learnt_by_pretrain_nor_images_alone_by_train(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vitrail pretrain pretrain-cpu"):
        vitrail.train("pretrain-cpu", tmp_path / "run")
    with pytest.raises(ConfigError, match="digits learns classes"):
        vitrail.pretrain("digits", tmp_path / "run", recipe="digits")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(DataError, match="no images in it or below"):
        vitrail.pretrain(tmp_path / "empty", tmp_path / "run")
    with pytest.raises(DataError, match="no header with a path"):
        (tmp_path / "list.csv").write_text("picture\na.png\n")
        vitrail.pretrain(tmp_path / "list.csv", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_classes_is_still_refused_where_classes_are_learnt(tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    with pytest.raises(DataError, match="no class folders"):
        data.load(DataConfig(spec=str(tmp_path), image_size=8), ("train",))
