"""Ranges of the settings of a run."""

import dataclasses

import pytest

from vitrail.config import AugmentConfig, DataConfig, Preprocessing, RunConfig, ScheduleConfig
from vitrail.errors import ConfigError


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("data", {"batch_size": 0}, "data.batch-size"),
        ("data", {"validation_fraction": 1.0}, "data.validation-fraction"),
        ("data", {"image_size": 0}, "data.image-size"),
        ("data", {"decode_size": (0, 4)}, "data.decode-size"),
        ("data", {"seed": -1}, "data.seed"),
        ("data", {"image_size": 100}, "data.image-size must be a positive multiple"),
        ("augment", {"flip": 1.5}, "augment.flip"),
        ("augment", {"flip_kind": "alternating"}, "augment.flip-kind"),
        ("augment", {"flip": 0.4, "flip_kind": "alternating"}, "augment.flip-kind"),
        ("augment", {"hue": 0.6}, "augment.hue"),
        ("augment", {"resized_crop": 0.0}, "augment.resized-crop"),
        ("augment", {"scale": (2.0, 1.0)}, "augment.scale"),
        ("augment", {"policy_magnitude": 31}, "augment.policy-magnitude"),
        ("optim", {"lr": -1.0}, "optim.lr"),
        ("optim", {"lr": float("inf")}, "optim.lr"),
        ("optim", {"lr": float("nan")}, "optim.lr"),
        ("optim", {"betas": (0.9, 1.0)}, "optim.betas"),
        ("optim", {"ema_decay": 1.0}, "optim.ema-decay"),
        ("schedule", {"epochs": 0}, "schedule.epochs"),
        ("schedule", {"warmup_fraction": 1.0}, "schedule.warmup-fraction"),
        ("schedule", {"final_fraction": 2.0}, "schedule.final-fraction"),
        ("evaluation", {"batch_size": 0}, "evaluation.batch-size"),
        ("checkpoint", {"keep": 0}, "checkpoint.keep"),
        ("compute", {"accumulation_steps": 1000}, "compute.accumulation-steps"),
    ],
)
def test_out_of_range_is_refused_by_name(section: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(**{section: dataclasses.replace(getattr(RunConfig(), section), **changes)})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_is_what_generators_take(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed is out of range"):
        RunConfig(seed=seed)


@pytest.mark.parametrize(
    ("scales", "ends"),
    [((0.5,), ()), ((0.5, 0.7), (0.5, 0.5)), ((0.5,), (1.0,)), ((0.5, 0.7), (0.7, 0.3)), ((1.0,), (0.5,))],
)
def test_progressive_scales_need_rising_ends(scales: tuple[float, ...], ends: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="schedule.progressive"):
        ScheduleConfig(progressive_scales=scales, progressive_until=ends)


def test_alternating_flips_need_every_image_once_in_each_epoch() -> None:
    flips = AugmentConfig(flip=0.5, flip_kind="alternating")
    assert RunConfig(augment=flips).augment == flips
    with pytest.raises(ConfigError, match=r"augment\.flip-kind(.|\n)*data\.balance=sampling"):
        RunConfig(augment=flips, data=DataConfig(balance="sampling"))


def test_preprocessing_wants_a_mean_for_each_channel() -> None:
    with pytest.raises(ConfigError, match="3 values for channels=RGB"):
        Preprocessing(image_size=(8, 8), decode_size=(8, 8), mean=(0.5,), std=(0.5, 0.5, 0.5))
    assert Preprocessing(image_size=(8, 8), decode_size=(8, 8), channels="L", mean=(0.5,), std=(0.5,)).num_channels == 1
