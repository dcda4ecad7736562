"""The largest value of each setting that memory or time depends on: a config.json may come from a stranger."""

import dataclasses
import os
from typing import Any

from vitrail.config.checks import require, require_at_most
from vitrail.config.vit import LARGEST_SIDE

_SIZE = 10_000_000
_LENGTH = 10**9
LARGEST_SETTING: dict[str, float] = {
    "data.image_size": LARGEST_SIDE,
    "data.decode_size": LARGEST_SIDE,
    "data.resize_size": LARGEST_SIDE,
    "data.batch_size": _SIZE,
    "data.ram_budget_mib": _LENGTH,
    "data.cache_gib": _LENGTH,
    "data.ahead_mib": _LENGTH,
    "data.lanes": _SIZE,
    "data.window": _SIZE,
    "augment.crop_padding": LARGEST_SIDE,
    "augment.policy_ops": 100,
    "optim.train_last": LARGEST_SIDE,
    "optim.lora_rank": LARGEST_SIDE,
    "optim.lora_alpha": LARGEST_SIDE,
    "schedule.epochs": _LENGTH,
    "schedule.steps": _LENGTH,
    "schedule.min_steps": _LENGTH,
    "schedule.max_steps": _LENGTH,
    "evaluation.every_epochs": _LENGTH,
    "evaluation.batch_size": _SIZE,
    "evaluation.patience": _LENGTH,
    "probe.num_neighbors": _SIZE,
    "probe.max_examples": _SIZE,
    "pretrain.mask_unit": LARGEST_SIDE,
    "compute.accumulation_steps": _SIZE,
    "compute.max_skipped_steps": _LENGTH,
    "checkpoint.every_steps": _LENGTH,
    "checkpoint.keep": _LENGTH,
    "parallel.silence_seconds": _SIZE,
    "parallel.timeout_seconds": _SIZE,
}
MOST_ENTRIES = 4_096
"""Of a setting that is a tuple: one for each channel is the longest there is."""
_LONGEST_TEXT = 4_096


def require_bounded(section: str, settings: Any) -> None:
    """Raise ConfigError for a number above its bound, a tuple too long, or a text that can name no file.

    Args:
        section: of a run's settings; empty: the settings that stand outside of all.
        settings: a dataclass.
    """
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{section}.{field.name}".removeprefix(".")
        parts: tuple[Any, ...] = value if isinstance(value, tuple) else (value,)
        require(len(parts) <= MOST_ENTRIES, name, f"{len(parts)} values", f"at most {MOST_ENTRIES}")
        for part in parts:
            if type(part) is int:
                require_at_most(name, abs(part), LARGEST_SETTING.get(name) or float(2**63))
            elif type(part) is float and name in LARGEST_SETTING:
                require_at_most(name, part, LARGEST_SETTING[name])
            elif isinstance(part, str):
                require(len(part) <= _LONGEST_TEXT, name, f"{len(part)} characters", f"at most {_LONGEST_TEXT}")
                require(_may_name_a_file(part), name, repr(part), "text that can name a file")


def _may_name_a_file(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
