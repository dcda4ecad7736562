"""The JSON files beside foreign weights: the settings that are read, each of its kind and in its range.

In: config.json and preprocessor_config.json of Hugging Face, and timm's config.json. Out: the same values without null
and without what is not read; or one WeightsError that names the setting. What reads them afterwards need not ask again.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vitrail.errors import WeightsError, shown
from vitrail.reading import read_json_object

_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")  # of a file


@dataclass(frozen=True)
class Kind:
    """A kind of value: what it is in words, and how it is told."""

    words: str
    fits: Callable[[Any], bool]


def _number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and least <= value <= most


def _many(value: Any, fits: Callable[[Any], bool], counts: range) -> bool:
    return isinstance(value, list) and len(cast(list[Any], value)) in counts and all(map(fits, cast(list[Any], value)))


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 65_536


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 10_000


def _is_edge(value: Any) -> bool:
    if not isinstance(value, dict):
        return _is_side(value) or _many(value, _is_side, range(1, 3))
    sides = cast(dict[str, Any], value)
    known = sides.keys() <= {"height", "width", "shortest_edge", "longest_edge"}
    return known and all(side is None or _is_side(side) for side in sides.values())


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, cast(dict[str, Any], value).values()))


def _are_names(value: Any) -> bool:
    return _are_texts(value) and all(_NAME.fullmatch(name) for name in cast(dict[str, str], value).values())


def _are_numbers(least: float) -> Callable[[Any], bool]:
    return lambda value: _many(value, lambda one: _number(one, least, 1e6), range(1, 17))


COUNT = Kind("an integer from 0 to 10,000,000", lambda v: type(v) is int and 0 <= v <= 10_000_000)
SMALL = Kind("a number from 0 to 1", lambda v: _number(v, 0, 1))
POSITIVE = Kind("a number greater than 0", lambda v: _number(v, 1e-9, 1e9))
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
TEXT = Kind("a text", _is_text)
SIDES = Kind("a side in pixels, or height and width", lambda v: _is_side(v) or _many(v, _is_side, range(2, 3)))
EDGES = Kind("a side in pixels, or an object with height and width, or with shortest_edge", _is_edge)
COLOURS = Kind("one number for each channel", _are_numbers(-1e6))
SPREADS = Kind("one number above 0 for each channel", _are_numbers(1e-9))
FILTER = Kind("a number or a name", lambda v: _is_text(v) or type(v) is int)
NAMES = Kind("a list of texts", lambda v: _many(v, _is_text, range(10_000_001)))
LABELS = Kind("texts by number", _are_texts)
ANYTHING = Kind("anything", lambda _: True)

Schema = Mapping[str, "Kind | Schema"]

_TIMM_ARGUMENTS: Schema = {
    **dict.fromkeys(("depth", "embed_dim", "in_chans", "num_classes", "num_heads", "reg_tokens"), COUNT),
    **dict.fromkeys(("act_layer", "global_pool"), TEXT),
    **dict.fromkeys(("img_size", "patch_size"), SIDES),
    "class_token": FLAG,
    "norm_eps": SMALL,
}
_TIMM_PREPROCESSING: Schema = {
    **dict.fromkeys(("crop_mode", "global_pool", "interpolation"), TEXT),
    "crop_pct": POSITIVE,
    "mean": COLOURS,
    "std": SPREADS,
}
_COUNTS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_channels", "num_classes")
CONFIG: Schema = {
    **dict.fromkeys((*_COUNTS, "num_hidden_layers", "num_register_tokens"), COUNT),
    **dict.fromkeys(("architecture", "global_pool", "hidden_act", "model_type", "problem_type"), TEXT),
    **dict.fromkeys(("image_size", "patch_size"), SIDES),
    "auto_map": ANYTHING,
    "id2label": LABELS,
    "label_names": NAMES,
    "layer_norm_eps": SMALL,
    "mlp_ratio": POSITIVE,
    "model_args": _TIMM_ARGUMENTS,
    "pretrained_cfg": _TIMM_PREPROCESSING,
    "qkv_bias": FLAG,
}
PREPROCESSOR: Schema = {
    **dict.fromkeys(("do_center_crop", "do_normalize", "do_rescale", "do_resize"), FLAG),
    **dict.fromkeys(("feature_extractor_type", "image_processor_type"), TEXT),
    **dict.fromkeys(("crop_size", "size"), EDGES),
    "auto_map": ANYTHING,
    "image_mean": COLOURS,
    "image_std": SPREADS,
    "resample": FILTER,
    "rescale_factor": POSITIVE,
}
INDEX: Schema = {"weight_map": Kind("names of files in the folder, by tensor", _are_names)}


def read_sidecar(file: Path, schema: Schema) -> dict[str, Any]:
    """The settings of a JSON file that `schema` knows; empty when there is no such file.

    Raises:
        WeightsError: it is no JSON object, or a setting has a value of another kind or beyond its range.
    """
    if not file.exists():
        return {}
    try:
        values = read_json_object(file)
    except OSError as error:
        raise WeightsError(f"{shown(file)}: cannot be read.", got=error.strerror) from error
    except ValueError as error:
        raise WeightsError(f"{shown(file)}: is not JSON, or no object.", got=shown(error)) from error
    return checked(values, schema, file.name)


def checked(values: Mapping[str, Any], schema: Schema, where: str) -> dict[str, Any]:
    """The values that `schema` knows, null left out. Raises WeightsError for one of another kind."""
    found: dict[str, Any] = {}
    for name, kind in schema.items():
        value = values.get(name)
        if value is None:
            continue
        if not isinstance(kind, Kind):
            if not isinstance(value, dict):
                raise _wrong(where, name, value, "an object")
            found[name] = checked(cast(dict[str, Any], value), kind, f"{where}: {name}")
        elif kind.fits(value):
            found[name] = value
        else:
            raise _wrong(where, name, value, kind.words)
    return found


def _wrong(where: str, name: str, value: object, expected: str) -> WeightsError:
    return WeightsError(f"{where}: {name} has a wrong value.", got=shown(value), expected=expected)
