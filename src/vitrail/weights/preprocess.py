"""How other libraries bring an image to their models' input, said in `Preprocessing`, and back.

In: preprocessor_config.json of Hugging Face, pretrained_cfg of timm, or the name of a habit. Out: the same steps, and
what the file did not say. An image file gives the same pixels here as through Pillow in the source library.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from vitrail.config import Preprocessing
from vitrail.config.preprocessing import CropRounding, ResizeFilter, ResizeMode
from vitrail.errors import WeightsError
from vitrail.weights.key_table import size_pair

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
PIL_FILTERS: dict[int, ResizeFilter] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
Size = tuple[int, int]


def squash(size: Size, mean: Sequence[float], std: Sequence[float], resize_filter: ResizeFilter) -> Preprocessing:
    """Both sides to the input's size, the aspect ratio not kept."""
    return Preprocessing(
        image_size=size,
        decode_size=size,
        resize_mode="squash",
        resize_filter=resize_filter,
        icc="ignore",
        channels="RGB" if len(mean) == 3 else "L",
        mean=tuple(mean),
        std=tuple(std),
    )


def shorter_side(
    resize: int,
    size: Size,
    mean: Sequence[float],
    std: Sequence[float],
    resize_filter: ResizeFilter,
    crop_rounding: CropRounding = "half-even",
) -> Preprocessing:
    """The shorter side to `resize`, then the centre of the input's size."""
    return _crop("crop", (resize, resize), size, mean, std, resize_filter, crop_rounding)


def from_huggingface(
    preprocessor: Mapping[str, Any], config: Mapping[str, Any], image_size: Size, channels: int = 3
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Read preprocessor_config.json.

    Args:
        preprocessor: its values; empty: the habit of config["model_type"].
        config: config.json.
        image_size: height and width that the model was made for.
        channels: of the model.
    Returns:
        The steps, and what the file left to the habits of its class.
    Raises:
        WeightsError: a step that is not known here.
    """
    kind = str(preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type") or "")
    kind = kind or {"deit": "DeiT", "dinov2": "Bit", "dinov2_with_registers": "Bit"}.get(
        config.get("model_type", ""), "ViT"
    )
    habit = _habit(kind, image_size)
    said: dict[str, Any] = {**habit, **{k: v for k, v in preprocessor.items() if v is not None}}
    defaulted = tuple(f"{k} {habit[k]} (of {kind})" for k in habit if preprocessor.get(k) is None)
    for step, name in (("do_resize", "resize"), ("do_rescale", "rescale")):
        if said[step] is False:
            raise WeightsError(f"preprocessor_config.json: images are not to be {name}d, which is not supported.")
    mean, std = _constants(said, channels)
    chosen = PIL_FILTERS.get(said["resample"])
    if chosen is None:
        raise WeightsError("preprocessor_config.json: unknown resample.", got=said["resample"], expected="0 to 5")
    size, crop = said["size"], said["crop_size"] if said["do_center_crop"] else None
    if crop is None and isinstance(size, Mapping) and "shortest_edge" in size:
        crop = size["shortest_edge"]
    target = _sides(crop) if crop is not None else None
    if isinstance(size, Mapping) and "shortest_edge" in size:
        shorter = int(cast(Any, size["shortest_edge"]))
        return shorter_side(shorter, cast(Size, target), mean, std, chosen, "floor"), defaulted
    sides = _sides(size)
    if target is None or target == sides:
        return squash(sides, mean, std, chosen), defaulted
    return _crop("squash", sides, target, mean, std, chosen, "floor"), defaulted


def from_timm(
    pretrained_cfg: Mapping[str, Any], image_size: Size, channels: int = 3
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Read pretrained_cfg. The size that is resized to is floor(input / crop_pct), as timm computes it.

    Returns:
        The steps, and what the file left to timm's habits.
    Raises:
        WeightsError: a step that is not known here.
    """
    habit = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    said: dict[str, Any] = {**habit, **{k: v for k, v in pretrained_cfg.items() if v is not None}}
    defaulted = tuple(f"{k} {habit[k]} (timm's default)" for k in habit if pretrained_cfg.get(k) is None)
    chosen, mode = said["interpolation"], said["crop_mode"]
    if chosen not in PIL_FILTERS.values() or mode not in ("center", "squash"):
        raise WeightsError(
            "timm's preprocessing has a step that is not known here.",
            got=f"interpolation {chosen}, crop_mode {mode}",
            expected=f"{', '.join(PIL_FILTERS.values())}; center or squash",
        )
    mean, std = (_for_channels(said[name], channels) for name in ("mean", "std"))
    resize = tuple(math.floor(side / said["crop_pct"]) for side in image_size)
    how: ResizeMode = "crop" if mode == "center" else "squash"
    return _crop(how, (resize[0], resize[1]), image_size, mean, std, chosen, "half-even"), defaulted


def to_huggingface(preprocessing: Preprocessing, processor: str) -> tuple[dict[str, Any], list[str]]:
    """Write preprocessor_config.json.

    Args:
        processor: ViTImageProcessor, DeiTImageProcessor or BitImageProcessor.
    Returns:
        Its values, and the steps that it cannot say.
    """
    p, lost = preprocessing, _not_said(preprocessing)
    height, width = p.image_size
    values: dict[str, Any] = {
        "image_processor_type": processor,
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": {name: number for number, name in PIL_FILTERS.items()}[p.resize_filter],
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(p.mean),
        "image_std": list(p.std),
    }
    resize = p.resize_size or p.image_size
    if p.resize_mode == "crop" and height != width and min(resize) < max(height, width):
        # A processor resizes by the shorter side alone, which would leave too little to cut out of.
        lost.append(f"images are stretched to {height}x{width} instead of cut to this shape")
    elif p.resize_mode == "crop" or resize != p.image_size:
        values["do_center_crop"] = True
        values["crop_size"] = {"height": height, "width": width}
        values["size"] = (
            {"shortest_edge": min(resize)} if p.resize_mode == "crop" else {"height": resize[0], "width": resize[1]}
        )
        if p.crop_rounding != "floor":
            lost.append("odd crop margins are rounded down instead of half to even (one pixel)")
        if p.resize_mode == "crop":
            values["image_processor_type"] = "BitImageProcessor"
        elif processor == "ViTImageProcessor":
            values["image_processor_type"] = "DeiTImageProcessor"
    return values, lost


def to_timm(preprocessing: Preprocessing) -> tuple[dict[str, Any], list[str]]:
    """Write the preprocessing part of pretrained_cfg.

    Returns:
        Its values, and the steps that it cannot say.
    """
    p, lost = preprocessing, _not_said(preprocessing)
    resize = p.resize_size or p.image_size
    crop_pct = p.image_size[0] / resize[0]
    if math.floor(p.image_size[0] / crop_pct) != resize[0]:  # floor would fall one short
        crop_pct = p.image_size[0] / (resize[0] + 0.5)
    if p.crop_rounding == "floor" and resize != p.image_size:
        lost.append("odd crop margins are rounded half to even instead of down (one pixel)")
    return {
        "input_size": [p.num_channels, *p.image_size],
        "interpolation": p.resize_filter,
        "crop_pct": crop_pct,
        "crop_mode": "center" if p.resize_mode == "crop" else "squash",
        "mean": list(p.mean),
        "std": list(p.std),
    }, lost


def _habit(kind: str, image_size: Size) -> dict[str, Any]:
    """What a processor of transformers does where its file is silent."""
    height, width = image_size
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    own = {"height": height, "width": width}
    if kind.startswith("DeiT"):
        resize = {"height": 256, "width": 256} if image_size == (224, 224) else own
        crop, constants = {"do_center_crop": True, "crop_size": own}, {"image_mean": HALF, "image_std": HALF}
        return {**common, "size": resize, "resample": 3, **crop, **constants}
    if kind.startswith("Bit"):
        edge = {"shortest_edge": height if image_size != (518, 518) else 256}
        crop_size = own if image_size != (518, 518) else {"height": 224, "width": 224}
        return {
            **common,
            "size": edge,
            "resample": 3,
            "do_center_crop": True,
            "crop_size": crop_size,
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
        }
    if not kind.startswith("ViT"):
        raise WeightsError(f"preprocessor_config.json: unknown processor {kind}.", expected="ViT, DeiT or Bit")
    return {
        **common,
        "size": own,
        "resample": 2,
        "do_center_crop": False,
        "crop_size": own,
        "image_mean": HALF,
        "image_std": HALF,
    }


def _constants(said: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in units of [0, 1], another rescale factor folded in."""
    if said["do_normalize"] is False:
        mean, std = (0.0,) * channels, (1.0,) * channels
    else:
        mean, std = _for_channels(said["image_mean"], channels), _for_channels(said["image_std"], channels)
    factor = float(said["rescale_factor"]) * 255
    if abs(factor - 1) < 1e-6:
        return mean, std
    return tuple(m / factor for m in mean), tuple(s / factor for s in std)  # (x f - m) / s = (x - m / f) / (s / f)


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """As many values as channels: equal ones may be written once."""
    if len(values) == channels:
        return tuple(float(v) for v in values)
    if len(set(values)) == 1:
        return (float(values[0]),) * channels
    raise WeightsError("Mean or std has the wrong number of values.", got=list(values), expected=f"{channels} values")


def _sides(value: object) -> Size:
    """A size of a processor as (height, width)."""
    if isinstance(value, Mapping):
        sides = cast(Mapping[str, Any], value)
        value = (sides.get("height"), sides.get("width"))
    found = size_pair(value)
    if found is None:
        raise WeightsError("preprocessor_config.json: a size of unknown form.", got=value, expected="height and width")
    return found


def _crop(
    mode: ResizeMode,
    resize: Size,
    size: Size,
    mean: Sequence[float],
    std: Sequence[float],
    resize_filter: ResizeFilter,
    crop_rounding: CropRounding,
) -> Preprocessing:
    """Resize, then the centre; an input larger than what is resized to would need a border, which is refused."""
    if resize[0] < size[0] or resize[1] < size[1]:
        raise WeightsError("The crop is larger than the resized image.", got=list(resize), expected=f"at least {size}")
    return Preprocessing(
        image_size=size,
        decode_size=size,
        resize_mode=mode,
        resize_filter=resize_filter,
        resize_size=resize,
        crop_rounding=crop_rounding,
        icc="ignore",
        channels="RGB" if len(mean) == 3 else "L",
        mean=tuple(mean),
        std=tuple(std),
    )


def _not_said(preprocessing: Preprocessing) -> list[str]:
    """What no other library can say: a second resize on the device, embedded colour profiles."""
    p, lost = preprocessing, list[str]()
    if p.decode_size != p.image_size:
        lost.append(f"images are kept at {p.decode_size} first, then resized to {p.image_size}")
    if p.icc == "apply":
        lost.append("colours go through the ICC profile that a file embeds")
    return lost
