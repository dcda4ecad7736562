"""The weights in the package give the logits that they gave when they were put there.

To write builtin_logits.json anew, after other weights: python -m tests.weights.test_builtin
"""

import json
from pathlib import Path

import pytest
import torch

from vitrail import weights

GOLDEN = Path(__file__).with_name("builtin_logits.json")
NAMES = ("cifar100", "cifar100-conv")
TOLERANCE = 1e-4
"""Of the largest logit: processors sum in another order, which is worth 1e-6."""


@torch.no_grad()
def logits(name: str) -> torch.Tensor:
    """Those of three images that are the same on every machine: waves, which need no random numbers."""
    model, card = weights.load(f"builtin:{name}")
    height, width = card.preprocessing.image_size
    place = torch.arange(3 * 3 * height * width, dtype=torch.float64).view(3, 3, height, width)
    return model.eval()((place * 0.37).sin().float())["logits"]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_day_they_were_shipped(name: str) -> None:
    expected = torch.tensor(json.loads(GOLDEN.read_text())[name])
    assert expected.shape == (3, 100)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits(name), expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


def test_every_file_of_the_package_is_tested() -> None:
    folder = Path(weights.__file__).with_name("builtin")
    assert {path.stem for path in folder.iterdir()} == set(NAMES)


if __name__ == "__main__":
    rows = {name: [[round(float(x), 6) for x in row] for row in logits(name)] for name in NAMES}
    lines = [f'"{name}": [\n{",".join(f" {json.dumps(row)}" for row in found)}]' for name, found in rows.items()]
    GOLDEN.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
