"""What a fine-tuning run says before it starts."""

import pytest
import torch

from tests.support.random_vit import random_vit
from vitrail import recipes
from vitrail.run import Origin
from vitrail.training.transfer import start_lines


@pytest.mark.parametrize("stem", [(), (8, 8)])
def test_a_vit_with_convolutions_says_that_it_stays_here(stem: tuple[int, ...]) -> None:
    changes = {"stem_channels": stem, "stem_strides": (1, 1), "stem_pools": (2, 1)} if stem else {}
    model = random_vit(**changes)
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "peak_lr": 0.1}], lr=0.1)
    lines = start_lines(recipes.get("finetune"), model, [optimizer], Origin(weights="", provenance={}))
    assert any("stays a vitrail file" in line for line in lines) == bool(stem)


def test_frozen_blocks_need_no_memory_for_their_backward_pass() -> None:
    model = random_vit(hidden_size=256, num_hidden_layers=8)
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "peak_lr": 0.1}], lr=0.1)
    origin = Origin(weights="", provenance={})

    def stated(recipe: str) -> float:
        (line,) = (
            line for line in start_lines(recipes.get(recipe), model, [optimizer], origin) if line.startswith("memory")
        )
        size, unit = line.split()[2:4]
        return float(size) * {"MiB": 1, "GiB": 1024}[unit]

    assert stated("finetune") > stated("finetune-last") + 40
