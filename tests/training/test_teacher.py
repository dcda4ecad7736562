"""A teacher: it sees what the student sees, answers in the order of the data's classes, and is refused in one line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import vitrail
from tests.support.headers import card_of, change_card
from tests.support.random_vit import random_vit
from vitrail import data, weights
from vitrail.augment import Mix, prepare
from vitrail.config import ComputeConfig, OptimConfig, Preprocessing, RunConfig
from vitrail.data import ImageSet
from vitrail.distributed import World
from vitrail.errors import ConfigError, RunError
from vitrail.selftest.tiny import tiny_run
from vitrail.training.inputs import Inputs
from vitrail.training.optim import build_optimizers
from vitrail.training.step import TrainStep, distillation_loss
from vitrail.training.teacher import load_teacher
from vitrail.training.teacher_answers import Answers
from vitrail.weights import Card

CPU = torch.device("cpu")
CLASSES = tuple(map(str, range(10)))
HALF_PRECISION = 2e-3


def _saved(path: Path, classes: tuple[str, ...] = CLASSES, provenance: dict[str, Any] | None = None) -> Path:
    """A random model of grey images 8x8 with other constants than those of the digits recipe."""
    model = random_vit(num_labels=len(classes), num_channels=1, image_size=8)
    steps = Preprocessing(image_size=(8, 8), decode_size=(8, 8), channels="L", mean=(0.3,), std=(0.2,))
    card = Card(geometry=model.config, classes=classes, preprocessing=steps, provenance=provenance or {})
    vitrail.save(path, model, card)
    return path


def _digits(**sections: dict[str, Any]) -> tuple[RunConfig, Preprocessing, ImageSet]:
    config = tiny_run(**sections)
    return config, data.preprocessing_for(config.data), data.load(config.data, ("train",))["train"]


def _step(weight: float, temperature: float, optim: OptimConfig, micro: int = 1) -> TrainStep:
    model = random_vit(num_labels=3, image_size=8)
    step = TrainStep(model, build_optimizers(model, optim), optim, ComputeConfig(accumulation_steps=micro), seed=0)
    step.distill = dataclasses.replace(step.distill, weight=weight, temperature=temperature)
    return step


def _batch(n: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(n, 3, generator=generator).half()
    return torch.randn(n, 3, 8, 8, generator=generator), torch.randint(3, (n,), generator=generator), logits


# ---- the loss ----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_formula_written_out() -> None:
    images, labels, taught = _batch()
    step = _step(0.3, 4.0, OptimConfig(label_smoothing=0.1))
    with torch.no_grad():
        logits = step.model(images)["logits"]
    expected = 0.0
    for student, teacher, label in zip(logits.double(), taught.double(), labels.tolist(), strict=True):
        wanted = torch.full((3,), 0.1 / 3, dtype=torch.float64)
        wanted[label] += 0.9
        by_labels = -float((wanted * student.log_softmax(0)).sum())
        p, q = (teacher / 4).softmax(0), (student / 4).softmax(0)
        by_teacher = 16 * float((p * (p.log() - q.log())).sum())
        expected += (0.7 * by_labels + 0.3 * by_teacher) / len(labels)
    assert float(step.loss(step.model, images, labels, taught).detach()) == pytest.approx(expected, abs=1e-5)
    assert float(step(images, labels, 0, 1.0, teacher_logits=taught)) == pytest.approx(expected, abs=1e-5)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    loss = distillation_loss(logits, logits.detach() + 7, 3.0)
    assert loss.abs().max() < 1e-5
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-5
    distillation_loss(logits, logits.detach().flip(1), 3.0).sum().backward()
    assert logits.grad.abs().max() > 0.1


def test_an_image_that_could_not_be_read_teaches_nothing() -> None:
    images, labels, taught = _batch(4)
    step = _step(0.5, 2.0, OptimConfig())
    targets = F.one_hot(labels, 3).float()
    targets[1] = 0
    read = [0, 2, 3]
    some = float(step.loss(step.model, images[read], labels[read], taught[read]).detach())
    whole = float(step.loss(step.model, images, targets, taught).detach())
    assert whole * 4 == pytest.approx(some * 3, rel=1e-5)


def test_micro_batches_learn_the_same() -> None:
    images, labels, taught = _batch()
    optim = OptimConfig(name="sgd", lr=0.1)
    whole, parts = _step(0.5, 2.0, optim), _step(0.5, 2.0, optim, micro=3)
    for number in range(2):
        whole(images, labels, number, 1.0, teacher_logits=taught)
        parts(images, labels, number, 1.0, teacher_logits=taught)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], tensor, atol=1e-6, rtol=0)


# ---- what it sees and answers ------------------------------------------------------------------------------------


def test_it_answers_as_if_the_images_were_prepared_for_it(tmp_path: Path) -> None:
    """Normalised with the run's constants at 16x16, the teacher's input is what its own preprocessing makes."""
    config, preprocessing, train_set = _digits(distill={"teacher": str(_saved(tmp_path / "t.safetensors"))})
    teacher = load_teacher(config, preprocessing, train_set, CPU)
    images = torch.from_numpy(train_set.images[:32])
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    run_input = prepare(large, dataclasses.replace(preprocessing, decode_size=(16, 16)))
    model, card = weights.load(config.distill.teacher)
    with torch.no_grad():
        expected = model(prepare(large, dataclasses.replace(card.preprocessing, decode_size=(16, 16))))["logits"]
    found = teacher(run_input)
    assert found.dtype == torch.float16
    assert not found.amax(1).any()
    torch.testing.assert_close(found.float().softmax(1), expected.softmax(1), atol=HALF_PRECISION, rtol=0)


def test_classes_in_another_order(tmp_path: Path) -> None:
    config, preprocessing, train_set = _digits(distill={"teacher": str(_saved(tmp_path / "a.safetensors"))})
    model, card = weights.load(config.distill.teacher)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight[order])
        model.head.bias.copy_(model.head.bias[order])
    shuffled = dataclasses.replace(card, classes=tuple(CLASSES[i] for i in order))
    vitrail.save(tmp_path / "b.safetensors", model, shuffled)
    other = dataclasses.replace(
        config, distill=dataclasses.replace(config.distill, teacher=str(tmp_path / "b.safetensors"))
    )
    images = torch.randn(8, 1, 16, 16)
    first, second = (load_teacher(c, preprocessing, train_set, CPU)(images) for c in (config, other))
    torch.testing.assert_close(first, second)


def test_logits_of_any_size_stay_finite(tmp_path: Path) -> None:
    config, preprocessing, train_set = _digits(distill={"teacher": str(_saved(tmp_path / "t.safetensors"))})
    teacher = load_teacher(config, preprocessing, train_set, CPU)
    with torch.no_grad():
        teacher.model.head.weight.mul_(1e7)
    answers = teacher(torch.randn(4, 1, 16, 16))
    assert answers.isfinite().all()
    assert distillation_loss(torch.randn(4, 10), answers, 2.0).isfinite().all()


class _Watching(Answers):
    """Answers that remember what was asked."""

    def __call__(self, images: torch.Tensor, epoch: int, batch_number: int) -> torch.Tensor:
        self.seen = images
        return super().__call__(images, epoch, batch_number)


def test_it_sees_the_student_s_view_mixed_and_at_full_size(tmp_path: Path) -> None:
    config, preprocessing, train_set = _digits(
        distill={"teacher": str(_saved(tmp_path / "t.safetensors"))}, data={"batch_size": 16},
        augment={"mixup": 1.0, "rotation": 10.0},
    )  # fmt: skip
    teacher = load_teacher(config, preprocessing, train_set, CPU)
    answers = _Watching(teacher, None, num_images=len(train_set), batch_size=16)
    inputs = Inputs(config, preprocessing, train_set, World(), answers)
    batch = next(iter(inputs.batches(1, 3, CPU)))
    small, full = (inputs(batch, 1, 3, 16, scale) for scale in (0.5, 1.0))
    assert small.images.shape[2:] == (8, 8)
    mixed, targets = Mix(config.augment, 10, seed=0)(inputs.augment(batch.images, batch.ids, 1), batch.labels, 1, 3)
    assert torch.equal(answers.seen, mixed)
    assert torch.equal(full.images, mixed)
    assert torch.equal(full.targets, targets)
    assert small.teacher_logits is not None
    assert torch.equal(small.teacher_logits, teacher(mixed))


def test_processes_share_its_work(tmp_path: Path) -> None:
    config, preprocessing, train_set = _digits(
        distill={"teacher": str(_saved(tmp_path / "t.safetensors"))}, augment={"cutmix": 1.0}
    )
    teacher = load_teacher(config, preprocessing, train_set, CPU)

    class OneOf(World):
        def __init__(self, rank: int) -> None:
            super().__init__()
            self.rank, self.size = rank, 3

    def first_batch(world: World) -> torch.Tensor:
        answers = Answers(teacher, None, num_images=len(train_set), batch_size=128)
        inputs = Inputs(config, preprocessing, train_set, world, answers)
        given = inputs(next(iter(inputs.batches(0, 0, CPU))), 0, 0, 128, 1.0)
        assert given.teacher_logits is not None
        return given.teacher_logits[: given.num_own]

    shares = torch.cat([first_batch(OneOf(rank)) for rank in range(3)])
    torch.testing.assert_close(shares, first_batch(World()), atol=HALF_PRECISION, rtol=HALF_PRECISION)


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "changes", "said"),
    [
        (("0", "1", "cat"), {}, "3 classes, without 2, 3, 4 and 5 more, with cat"),
        (CLASSES, {"classes": []}, "10 classes without names"),
        (CLASSES, {"problem_type": "multi_label_classification"}, "answers for multi label classification"),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    tmp_path: Path, classes: tuple[str, ...], changes: dict[str, Any], said: str
) -> None:
    path = _saved(tmp_path / "t.safetensors", classes)
    if changes:
        change_card(path, {**card_of(path), **changes})
    with pytest.raises(ConfigError, match="does not answer for the classes of the data") as refused:
        vitrail.train(tiny_run(distill={"teacher": str(path)}), tmp_path / "run")
    assert f"Got {said};" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_features_alone_are_refused(tmp_path: Path) -> None:
    model = random_vit(num_labels=0, num_channels=1)
    steps = Preprocessing(image_size=(16, 16), decode_size=(16, 16), channels="L", mean=(0.5,), std=(0.5,))
    vitrail.save(tmp_path / "t.safetensors", model, Card(geometry=model.config, classes=(), preprocessing=steps))
    with pytest.raises(ConfigError, match="Got no classifier"):
        vitrail.train(tiny_run(distill={"teacher": str(tmp_path / "t.safetensors")}), tmp_path / "run")


@pytest.mark.parametrize(
    ("distill", "name"),
    [({"weight": 0.0}, "weight"), ({"weight": 1.5}, "weight"), ({"temperature": 0.0}, "temperature")],
)
def test_settings_out_of_range(distill: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigError, match=f"distill.{name} is out of range"):
        tiny_run(distill={"teacher": "x", **distill})


def test_a_probe_has_no_teacher() -> None:
    with pytest.raises(ConfigError, match="a probe is fitted to the labels"):
        tiny_run(distill={"teacher": "x"}, probe={"method": "linear"}, init={"weights": "x"})


# ---- a run -------------------------------------------------------------------------------------------------------


def test_digits_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A teacher of the same images and one of others; each figure says whose answers it learnt from."""
    held_out = {"split": "val", "every_epochs": 0}
    vitrail.train(tiny_run(evaluation=held_out), tmp_path / "teacher")
    teacher = {"teacher": str(tmp_path / "teacher")}
    result = vitrail.train(
        tiny_run(evaluation=held_out, distill=teacher, schedule={"max_steps": 2}), tmp_path / "run", progress=True
    )
    accuracy = weights.read_card(tmp_path / "teacher").metrics["accuracy"]
    label = f"distilled from teacher (plain ViT, accuracy {accuracy:.4f} on 144 images of the val split of digits)"
    assert f"teacher        {label}, " in capsys.readouterr().err
    card = weights.read_card(result.model)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert card.teacher == label
    assert result.to_json()["teacher"] == environment["teacher"] == card.provenance["teacher"]
    assert str(tmp_path) not in json.dumps(card.provenance)
    assert vitrail.report(result.run).subject.model.endswith(label)

    vitrail.train(tiny_run(distill=teacher, schedule={"max_steps": 2}), tmp_path / "other", progress=True)
    assert weights.read_card(tmp_path / "other").teacher.endswith(", outside data)")
    assert "some of those measured here may be among them" in capsys.readouterr().err
    vitrail.train(
        tiny_run(distill={"teacher": str(tmp_path / "other")}, schedule={"max_steps": 2}), tmp_path / "grandchild"
    )
    assert weights.read_card(tmp_path / "grandchild").teacher.endswith(", outside data)"), "what the teacher's had seen"


def test_what_it_teaches_is_learnt(tmp_path: Path) -> None:
    """A student that hears nothing but a random teacher comes to agree with it; one that hears labels does not."""
    path = str(_saved(tmp_path / "t.safetensors"))
    settings: dict[str, dict[str, Any]] = {"schedule": {"epochs": 3}, "optim": {"lr": 5e-3}}
    vitrail.train(tiny_run(**settings, distill={"teacher": path, "weight": 1.0}), tmp_path / "taught")
    vitrail.train(tiny_run(**settings), tmp_path / "alone")
    config, preprocessing, train_set = _digits(distill={"teacher": path})
    images = prepare(torch.from_numpy(train_set.images), preprocessing)
    teacher = load_teacher(config, preprocessing, train_set, CPU)(images)
    taught, alone = (
        distillation_loss(vitrail.load(tmp_path / name)[0](images)["logits"].detach(), teacher, 1.0).mean()
        for name in ("taught", "alone")
    )
    assert taught < 0.5 * alone


def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    distill = {"teacher": str(_saved(tmp_path / "t.safetensors")), "cache": False}
    vitrail.train(tiny_run(distill=distill), tmp_path / "whole")
    vitrail.train(tiny_run(distill=distill, schedule={"max_steps": 5}), tmp_path / "parts")
    (tmp_path / "t.safetensors").rename(tmp_path / "moved.safetensors")
    moved = {**distill, "teacher": str(tmp_path / "moved.safetensors")}
    vitrail.train(tiny_run(distill=moved), tmp_path / "parts", resume=True)
    ours, theirs = (vitrail.load(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_run_does_not_go_on_with_another_teacher(tmp_path: Path) -> None:
    vitrail.train(
        tiny_run(distill={"teacher": str(_saved(tmp_path / "a.safetensors"))}, schedule={"max_steps": 3}),
        tmp_path / "run",
    )
    vitrail.train(tiny_run(), tmp_path / "b")
    for teacher in (str(tmp_path / "b"), ""):
        with pytest.raises(RunError, match="not the one that this run was started with"):
            vitrail.train(tiny_run(distill={"teacher": teacher}), tmp_path / "run", resume=True)
