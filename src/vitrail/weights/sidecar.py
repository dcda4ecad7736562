"""The JSON files beside foreign weights: the settings that are read, each of its kind and in its range.

In: config.json and preprocessor_config.json of Hugging Face, and timm's config.json. Out: the same values without null
and without what is not read; or one WeightsError that names the setting. What reads them afterwards need not ask again.
"""

import re
from pathlib import Path
from typing import Any, cast

from vitrail.errors import WeightsError, shown
from vitrail.reading import read_json_object
from vitrail.schema import FLAG, TEXT, Kind, Schema, by_name, checked, many, number, whole

_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")  # of a file
_SIDE = whole(1, 65_536)


def _is_edge(value: Any) -> bool:
    if not isinstance(value, dict):
        return _SIDE.fits(value) or many(_SIDE, 1, 2).fits(value)
    sides = cast(dict[str, Any], value)
    known = sides.keys() <= {"height", "width", "shortest_edge", "longest_edge"}
    return known and all(side is None or _SIDE.fits(side) for side in sides.values())


COUNT = whole()
SMALL = number(0, 1)
POSITIVE = number(1e-9, 1e9, "a number greater than 0")
SIDES = Kind("a side in pixels, or height and width", lambda v: _SIDE.fits(v) or many(_SIDE, 2, 2).fits(v))
EDGES = Kind("a side in pixels, or an object with height and width, or with shortest_edge", _is_edge)
COLOURS = many(number(-1e6, 1e6), 1, 16)
SPREADS = many(number(1e-9, 1e6, "a number greater than 0"), 1, 16)
FILTER = Kind("a number or a name", lambda v: TEXT.fits(v) or type(v) is int)
NAMES = many(TEXT)
LABELS = by_name(TEXT)
FILES = by_name(Kind("the name of a file in the folder", lambda v: TEXT.fits(v) and bool(_NAME.fullmatch(v))))

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
    "image_mean": COLOURS,
    "image_std": SPREADS,
    "resample": FILTER,
    "rescale_factor": POSITIVE,
}
INDEX: Schema = {"weight_map": FILES}


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
    return checked(values, schema, file.name, WeightsError, null=True)
