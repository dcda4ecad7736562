"""How long a run will take, and the line of an epoch."""

import re
from pathlib import Path

import pytest
import torch

import vitrail
from tests.support.random_vit import random_vit
from vitrail.config import RunConfig, ScheduleConfig
from vitrail.selftest.tiny import tiny_run
from vitrail.training import reporting
from vitrail.training.reporting import Estimate, evaluated_steps, pass_seconds, stages
from vitrail.training.schedule import input_scale


def _schedule(*, scales: tuple[float, ...] = (0.5, 0.75), until: tuple[float, ...] = (0.35, 0.7)) -> RunConfig:
    return RunConfig(schedule=ScheduleConfig(progressive_scales=scales, progressive_until=until))


@pytest.mark.parametrize("total", [1, 3, 20, 99, 101, 1000])
@pytest.mark.parametrize("part", [0.1, 0.5, 1.0])
def test_stages_are_those_of_the_schedule(total: int, part: float) -> None:
    config, stop = _schedule(), max(1, round(part * total))
    expected = [input_scale(step, total, config.schedule) for step in range(stop)]
    found, begins = list[float](), 0
    for end, scale in stages(config, total, stop):
        found += [scale] * (end - begins)
        begins = end
    assert found == expected
    assert stages(RunConfig(), total, stop) == [(stop, 1.0)]


@pytest.mark.parametrize("measured", [True, False])
def test_larger_images_to_come_are_counted(measured: bool) -> None:
    """Steps of 1 s now and of 3 s later, of which .5 s are the same for every size."""
    passes = {0.5: 0.5, 1.0: 2.5} if measured else {}
    estimate = Estimate([(100, 0.5), (200, 1.0)], passes, [200], step_share=2.0)
    assert estimate.left(0) is None
    for seconds in (9.0, 1.0, 1.0):  # the first one warms up
        estimate.took(0.5, seconds)
    later = 3.0 if measured else 4.0
    left = estimate.left(50)
    assert left == pytest.approx((50 * 1.0 + 100 * later, 2 * later))
    estimate.evaluation_seconds = 7.0
    for _ in range(2):
        estimate.took(1.0, 3.5)
    assert estimate.left(150) == pytest.approx((50 * 3.5, 7.0))
    assert estimate.left(200) == pytest.approx((0.0, 0.0))


def test_evaluations_are_counted() -> None:
    assert evaluated_steps(0, 25) == [25]
    assert evaluated_steps(10, 25) == [10, 20, 25]
    assert evaluated_steps(10, 20) == [10, 20]


def test_timing_the_sizes_changes_nothing() -> None:
    model = random_vit(projection_dropout=0.2, stem_channels=(8,), stem_strides=(1,), stem_pools=(1,)).train()
    config = tiny_run(schedule={"progressive_scales": (0.5,), "progressive_until": (0.5,)}, data={"batch_size": 4})
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.random.get_rng_state()
    found = pass_seconds(config, model, [(5, 0.5), (10, 1.0)], "mkl")
    assert set(found) == {0.5, 1.0}
    assert min(found.values()) > 0
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training


def test_a_run_says_how_long_it_takes_and_one_line_an_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "_LEAST_SECONDS", 0.0)
    config = tiny_run(
        schedule={"epochs": 3, "progressive_scales": (0.5,), "progressive_until": (0.4,)},
        evaluation={"every_epochs": 2}, checkpoint={"every_steps": 5},
    )  # fmt: skip
    vitrail.train(config, tmp_path / "run", progress=True)
    shown = capsys.readouterr().err
    assert "images grow    8x8 from step 1, 16x16 from step 16" in shown
    assert len(re.findall(r"^time  +about \d+ s", shown, re.MULTILINE)) == 1
    lines = [line for line in shown.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all(re.search(r"  loss \d\.\d{4}  .*\d+\.\d s, \d+ images/s$", line) for line in lines)
    assert ["test accuracy 0." in line for line in lines] == [False, True, True]
    vitrail.train(config, tmp_path / "silent")
    assert capsys.readouterr().err == ""
    assert (tmp_path / "silent" / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()
