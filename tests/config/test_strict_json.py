"""Settings survive JSON, and nothing unknown passes."""

import json
from typing import Any

import pytest

from vitrail import recipes
from vitrail.config import DataConfig, RunConfig, ViTConfig, from_json, to_json
from vitrail.errors import ConfigError


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_survives_json(name: str) -> None:
    config = recipes.get(name)
    assert from_json(RunConfig, json.loads(json.dumps(to_json(config)))) == config


def test_unions_of_a_side_and_a_pair() -> None:
    for size in (32, (32, 64)):
        config = ViTConfig(image_size=size)
        assert from_json(ViTConfig, json.loads(json.dumps(to_json(config)))) == config


def _changed(path: str, value: Any) -> dict[str, Any]:
    values = json.loads(json.dumps(to_json(RunConfig())))
    *parents, last = path.split(".")
    part = values
    for name in parents:
        part = part[name]
    part[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.btach_size", 3, "no field 'btach_size'.\n  Expected 'batch_size'"),
        ("data.batch_size", "3", "data.batch_size has a wrong value"),
        ("data.batch_size", True, "data.batch_size has a wrong value"),
        ("data.batch_size", 3.5, "data.batch_size has a wrong value"),
        ("optim.name", "adamm", "expected one of 'adam', 'adamw', 'sgd', 'muon'"),
        ("optim.betas", [0.9], "optim.betas has a wrong value"),
        ("optim.lr", -1.0, "optim.lr is out of range"),
        ("model", [], "model is not an object"),
        ("data.image_size", [1, 2, 3], "data.image_size has a wrong value"),
    ],
)
def test_wrong_json_is_refused_by_name(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_json(RunConfig, _changed(path, value))


def test_a_missing_field_is_named() -> None:
    values = to_json(DataConfig())
    del values["batch_size"]
    with pytest.raises(ConfigError, match="data lacks the field 'batch_size'"):
        from_json(DataConfig, values, "data")
