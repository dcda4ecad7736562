"""A run small enough for a test: the digits, a tiny ViT, a few steps."""

import dataclasses
from typing import Any

from vitrail import recipes
from vitrail.config import ArchitectureConfig, RunConfig

TINY_MODEL = ArchitectureConfig(
    patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2.0, projection_dropout=0.1
)


def tiny_run(**sections: dict[str, Any]) -> RunConfig:
    """The digits recipe with a tiny model for two epochs, and fields of sections changed."""
    config = dataclasses.replace(recipes.get("digits"), model=TINY_MODEL)
    changes: dict[str, dict[str, Any]] = {
        "schedule": {"epochs": 2, "warmup_fraction": 0.25},
        "data": {"batch_size": 128},
    }
    for name, fields in sections.items():
        changes[name] = changes.get(name, {}) | fields
    parts = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
    return dataclasses.replace(config, **parts)
