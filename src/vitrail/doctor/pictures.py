"""What the doctor keeps of every image: a small grey copy, the model's features and a few numbers.

Each image is decoded once, its pixels are let go; 60,000 images take 60 MB, and four bytes for each of the features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from vitrail.augment import prepare
from vitrail.config import Preprocessing
from vitrail.config.checks import pair
from vitrail.data import Source, decode_image, load_image
from vitrail.data.sources import Encoded
from vitrail.data.store import in_threads, num_bytes
from vitrail.doctor.likeness import SIDE
from vitrail.errors import ImageError, WeightsError
from vitrail.model import ViT
from vitrail.progress import Bar

ORDER = ("train", "val", "test")
_THUMBNAIL = 256
"""Longest side, in pixels, at which brightness and sharpness are measured."""
_ROUNDING = 20 / 12
"""Variance of the Laplacian of what rounding to whole grey levels leaves."""

Rows = Float32[np.ndarray, "N D"]


@dataclass(frozen=True)
class Pictures:
    """The readable images of a data set, all splits one after the other, and what is measured of each."""

    source: Source
    split: list[str]
    position: Int64[np.ndarray, "N"]
    """In its split."""
    labels: Int64[np.ndarray, "N"]
    grey: UInt8[np.ndarray, "N 32 32"]
    """The whole image, squashed."""
    features: Rows
    size: Int64[np.ndarray, "N 2"]
    """Height and width, upright."""
    numbers: Float32[np.ndarray, "N 3"]
    """Standard deviation of the most varied colour channel, 99th percentile of the grey levels, both in [0, 255], and
    sharpness: standard deviation of the Laplacian over that of the grey levels."""

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """How messages call an image: split:path."""
        return f"{self.split[index]}:{self.source.splits[self.split[index]].names[self.position[index]]}"


@dataclass(frozen=True)
class _Seen:
    pixels: UInt8[np.ndarray, "C h w"]
    grey: UInt8[np.ndarray, "32 32"]
    size: tuple[int, int]
    numbers: tuple[float, float, float]


def look(source: Source, model: ViT, preprocessing: Preprocessing, *, batch_size: int, progress: bool) -> Pictures:
    """Decode every image of every split; what cannot be read is left out.

    Args:
        source: the data set.
        model: on its device, in evaluation mode.
        preprocessing: that of the model.
        batch_size: images at a time.
        progress: show a bar for each split.
    Raises:
        WeightsError: the features are not finite.
    """
    seen: list[_Seen] = []
    rows: list[np.ndarray] = []
    splits: list[str] = []
    positions: list[int] = []
    waiting: list[np.ndarray] = []
    for name in (name for name in ORDER if name in source.splits):
        split = source.splits[name]
        records = zip(split.read(np.arange(len(split))), split.names, strict=True)
        tasks = ((partial(_looked_at, record, file, preprocessing), num_bytes(record)) for record, file in records)
        title = f"{source.name} {name}, features"
        with Bar(len(split), title=title, enabled=progress) as bar:
            for position, found in enumerate(in_threads(tasks, most=8)):
                bar.advance(1)
                if found is None:
                    continue
                waiting.append(found.pixels)
                seen.append(_Seen(found.pixels[:0], found.grey, found.size, found.numbers))
                splits.append(name)
                positions.append(position)
                if len(waiting) == batch_size:
                    rows.append(features_of(model, np.stack(waiting), preprocessing))
                    waiting.clear()
    if waiting:
        rows.append(features_of(model, np.stack(waiting), preprocessing))
    labels = [int(source.splits[name].labels[at]) for name, at in zip(splits, positions, strict=True)]
    return Pictures(
        source,
        splits,
        np.array(positions, np.int64),
        np.array(labels, np.int64),
        np.array([one.grey for one in seen], np.uint8).reshape(-1, SIDE, SIDE),
        np.concatenate(rows) if rows else np.zeros((0, 1), np.float32),
        np.array([one.size for one in seen], np.int64).reshape(-1, 2),
        np.array([one.numbers for one in seen], np.float32).reshape(-1, 3),
    )


@torch.inference_mode()
def features_of(model: ViT, pixels: UInt8[np.ndarray, "B C h w"], preprocessing: Preprocessing) -> Rows:
    """What the model's classifier would see. Raises WeightsError where that is not finite."""
    other_size = preprocessing.image_size != pair(model.config.image_size)
    device = next(model.parameters()).device
    images = prepare(torch.from_numpy(pixels).to(device), preprocessing)
    rows = model.pool(model.forward_features(images, interpolate_pos_encoding=other_size)).float().cpu().numpy()
    if not np.isfinite(rows).all():
        raise WeightsError("What the model makes of the images is not finite: another model is needed.")
    return rows


def standard(rows: Rows) -> Rows:
    """Columns of mean 0 and standard deviation 1, so that none of them decides alone."""
    return (rows - rows.mean(0)) / (rows.std(0) + 1e-6) if len(rows) else rows


def nearest(
    rows: Rows, count: int, *, on_block: Callable[[int], None] = lambda _: None
) -> tuple[Int64[np.ndarray, "N k"], Float32[np.ndarray, "N k"]]:
    """The other rows of the largest cosine, the largest first, and their cosines; in blocks of at most 128 MB.

    Args:
        rows: of any length.
        count: how many, at most all others.
        on_block: told how many rows are done since the last call.
    """
    unit = torch.from_numpy(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
    k, step = min(count, len(rows) - 1), max(1, (32 << 20) // max(len(rows), 1))
    indices, cosines = np.zeros((len(rows), k), np.int64), np.zeros((len(rows), k), np.float32)
    for start in range(0, len(rows) if k > 0 else 0, step):
        block = unit[start : start + step] @ unit.T
        block[torch.arange(len(block)), torch.arange(start, start + len(block))] = -2
        found = block.topk(k, dim=1)
        indices[start : start + step], cosines[start : start + step] = found.indices.numpy(), found.values.numpy()
        on_block(len(block))
    return indices, cosines


def _looked_at(record: Encoded, name: str, preprocessing: Preprocessing) -> _Seen | None:
    try:
        pixels = record if isinstance(record, np.ndarray) else decode_image(record, name=name)
    except ImageError:  # named by the check for damage
        return None
    image = Image.fromarray(pixels)
    small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    colours, levels = np.asarray(small, np.float32), np.asarray(small.convert("L"), np.float32)
    spread = float(colours.std((0, 1)).max())
    numbers = (spread, float(np.percentile(levels, 99)), _sharpness(levels))
    grey = np.asarray(small.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return _Seen(load_image(image, preprocessing, name=name), grey, (image.height, image.width), numbers)


def _sharpness(levels: Float32[np.ndarray, "H W"]) -> float:
    if min(levels.shape) < 3:
        return 1.0
    middle = levels[1:-1, 1:-1]
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float(max((around - 4 * middle).var() - _ROUNDING, 0) ** 0.5 / (levels.std() + 1))
