"""What the plan says about classes of very different size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vitrail import data
from vitrail.config import DataConfig, OptimConfig, RunConfig
from vitrail.data import ImageSet
from vitrail.selftest.tiny import tiny_run
from vitrail.training.setup import class_weights, imbalance


def _with_labels(labels: list[int], classes: tuple[str, ...]) -> ImageSet:
    whole = data.load(tiny_run().data, ("test",))["test"]
    count = len(labels)
    return replace(
        whole,
        images=whole.images[:count],
        labels=np.array(labels),
        ids=whole.ids[:count],
        names=whole.names[:count],
        classes=classes,
    )


@pytest.mark.parametrize(("largest", "said"), [(20, False), (21, True)])
def test_the_plan_speaks_of_imbalance_above_ten(largest: int, said: bool) -> None:
    train_set = _with_labels([0] * largest + [2] * 2, ("cat", "none of these", "d\nog"))
    lines = imbalance(RunConfig(), train_set)
    assert bool(lines) == said
    if said:
        assert "10.5 times: 21 training images of cat, 2 of d\\nog" in lines[0]
        assert "--data.balance sampling or --optim.class-weights balanced" in lines[0]


def test_the_plan_says_what_evens_the_classes_out() -> None:
    train_set = _with_labels([0, 0, 1], ("cat", "dog"))
    (line,) = imbalance(RunConfig(data=DataConfig(balance="sampling")), train_set)
    assert "evened out by --data.balance sampling" in line


def test_class_weights_are_one_in_the_mean() -> None:
    train_set = _with_labels([0] * 6 + [2] * 2, ("cat", "none of these", "dog"))
    found = class_weights(OptimConfig(class_weights="balanced"), train_set, torch.device("cpu"))
    assert found is not None
    assert found[[0, 2]].tolist() == pytest.approx([8 / 12, 2.0])
    assert float(found[train_set.labels].mean()) == pytest.approx(1.0)
    assert class_weights(OptimConfig(), train_set, torch.device("cpu")) is None
