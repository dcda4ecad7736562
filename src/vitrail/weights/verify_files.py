"""The other library's word about image files: its own transform of a file gives the input that ours gives.

Both are given what people have: photographs with an ICC profile, in grey, in CMYK, turned by EXIF. One difference is
meant and left out of the comparison: pictures are upright here, where other libraries' usual `Image.open` leaves them
as they are stored.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from vitrail.augment import prepare
from vitrail.config import Preprocessing
from vitrail.config.checks import pair
from vitrail.data import load_image
from vitrail.errors import WeightsError, shown
from vitrail.model import ViT
from vitrail.weights.writer import Format

# Of the normalised input: one level of 255 is at least 0.004.
INPUT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class FileDifference:
    """What the same files become here and there.

    Args:
        inputs: largest difference of the model's input, for each kind of file.
        max_logit: largest difference of the logits that follow.
    """

    inputs: dict[str, float]
    max_logit: float


@torch.inference_mode()
def file_difference(
    model: ViT, preprocessing: Preprocessing, folder: str | Path, library: Format, *, must_agree: bool
) -> FileDifference | None:
    """Compare what becomes of image files here and in the other library.

    Args:
        model: on the CPU, in evaluation mode.
        preprocessing: ours.
        folder: what the library opens.
        library: huggingface or timm.
        must_agree: False where it was said that the format cannot hold a step.
    Returns:
        None where the folder has no description of the other library's transform, or the model takes no colours.
    Raises:
        WeightsError: they differ and must not.
    """
    theirs = (_transformers_transform if library == "huggingface" else _timm_transform)(folder)
    if theirs is None or preprocessing.num_channels != 3:
        return None
    inputs, largest = dict[str, float](), 0.0
    resampled = preprocessing.image_size != pair(model.config.image_size)  # as DINOv2: positions for larger images
    for name, data in sample_files().items():
        ours = prepare(torch.from_numpy(load_image(data, preprocessing, name=name))[None], preprocessing)
        with Image.open(io.BytesIO(data)) as stored:
            other = theirs(ImageOps.exif_transpose(stored).convert("RGB")).reshape(ours.shape)
        inputs[name] = float((ours - other).abs().max())
        logits = (model(pixels, interpolate_pos_encoding=resampled)["logits"] for pixels in (ours, other))
        largest = max(largest, float((next(logits) - next(logits)).abs().max()))
    worst = max(inputs, key=lambda name: inputs[name])
    if must_agree and not inputs[worst] <= INPUT_TOLERANCE:
        raise WeightsError(
            f"{shown(folder)}: the other library makes another input of an image file ({worst}).",
            got=f"a difference of {inputs[worst]:.2g}",
            expected=f"at most {INPUT_TOLERANCE:g}",
        )
    return FileDifference(inputs, largest)


def sample_files() -> dict[str, bytes]:
    """A few small pictures with an edge in each direction, in the forms that photographs come in."""
    y, x = np.mgrid[:241, :333]
    waves = np.stack([127 + 90 * np.sin(x / (5 + c) + y / (11 - c)) for c in range(3)], -1)
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    picture = Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "plain": _encoded(picture, "PNG"),
        "ICC profile": _encoded(picture, "JPEG", icc_profile=_other_primaries()),
        "grey": _encoded(picture.convert("L"), "JPEG"),
        "CMYK": _encoded(picture.convert("CMYK"), "JPEG"),
        "turned by EXIF": _encoded(picture, "JPEG", exif=turned),
    }


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _other_primaries() -> bytes:
    """The sRGB profile with red and green exchanged: legal, and visibly different."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")


Transform = Callable[[Image.Image], torch.Tensor]


def _transformers_transform(folder: str | Path) -> Transform | None:
    import transformers

    if Path(folder).is_dir() and not (Path(folder) / "preprocessor_config.json").is_file():
        return None
    # The transform through Pillow, with which its models were trained; that through torchvision rounds otherwise.
    processor: Any = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)

    def transform(image: Image.Image) -> torch.Tensor:
        return processor(image, return_tensors="pt")["pixel_values"]

    return transform


def _timm_transform(folder: str | Path) -> Transform | None:
    import timm.data

    library: Any = timm.data
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_bytes())
    if not config.get("pretrained_cfg"):
        return None
    return library.create_transform(**library.resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"]))
