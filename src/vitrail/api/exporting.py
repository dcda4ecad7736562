"""A trained model as one file that runs without torch."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import data as datasets
from vitrail.api.datasets import Split
from vitrail.api.inference import OnNote, data_to_open
from vitrail.config import Preprocessing
from vitrail.data import load_image
from vitrail.data.sources import NAMED_SETS
from vitrail.errors import ConfigError, DataError, ImageError, shown
from vitrail.exporting import LEAST_IMAGES, Exported, ExportOptions, Images, export_model, synthetic_photographs
from vitrail.exporting.export import check_is_free
from vitrail.exporting.targets import target_class
from vitrail.predictor import Predictor
from vitrail.reading import read_regular
from vitrail.runtime import EngineOptions
from vitrail.weights import Card

_MAX_IMAGE_BYTES = 256 << 20
_ANY = Preprocessing(image_size=(8, 8), decode_size=(8, 8), fast_decoding=True)
"""For seeing whether a file can be decoded."""
_SYNTHETIC = 64


def export(
    model: str | Path | tuple[Any, Card],
    out: str | Path | None = None,
    *,
    images: str | Path | list[str | Path] | None = None,
    data: str | Path | None = None,
    split: Split | None = None,
    samples: int = 256,
    image_size: int | tuple[int, int] | None = None,
    data_root: str | Path | None = None,
    options: ExportOptions | None = None,
    progress: bool = False,
    on_note: OnNote = lambda _: None,
) -> Exported:
    """Write a model as one file that predicts without torch: `vitrail export`.

    The written file is compared with the model, in a process without torch, before it gets its name. It holds the
    classes, the preprocessing, the temperature and the thresholds of "unknown".

    Args:
        model: a run directory, a model file or other weights, or a (model, card) pair.
        out: the file or folder; None: the model's name with .onnx, .pt2, -hf, -openvino or -triton, in the working
            directory.
        images: files and folders to compare on; their classes are unknown.
        data: labelled images to compare on, by which the accuracy of both is measured, too; None and no `images`: what
            the model's own data have beside its training images, where they are at hand, else made-up pictures.
        split: of `data`, or of the model's own; None: test, or all where there are no splits.
        samples: images to compare on, at most.
        image_size: another input side in pixels, or (height, width); None: the model's own.
        data_root: where named data sets are.
        options: which kind of file or folder, which precision, how many tokens are merged; None: ONNX, fp32.
        progress: show a bar on standard error.
        on_note: told what is compared, and on which images.
    Returns:
        `.path`, `.parity` (largest differences, equal labels), `.accuracy` of both, checksums.
    Raises:
        VitrailError: the file answers otherwise than the model; nothing was written.
        ConfigError, WeightsError, DataError, InputError: as of `evaluate`.
        SaveError: the file cannot be written.
    """
    options = options or ExportOptions()
    target = Path(out) if out else Path(_stem(model) + target_class(options.to).suffix)
    check_is_free(target, options.to)
    if images is not None and (data is not None or split is not None):
        other = "--data" if data is not None else "--split"
        raise ConfigError(f"--images and {other} exclude each other.", do="Give labelled images with --data.")
    predictor = Predictor(model, device="cpu", image_size=image_size, options=EngineOptions(engine="torch"))
    if images is not None:
        found = _of_files(images if isinstance(images, list) else [images], samples, on_note)
    else:
        found = _labelled(predictor.card, data, split, samples, data_root)
    if len(found.encoded) < LEAST_IMAGES:
        found = _topped_up(found)
        on_note(f"there are few images, so made-up pictures are added: {found.source}; accuracy is not measured")
    elif found.is_synthetic:
        on_note(
            "no images are at hand, so the file is compared on made-up pictures; for its accuracy, give labelled ones "
            "with --data"
        )
    return export_model(predictor, target, found, options, name=_stem(model), progress=progress, on_note=on_note)


def _stem(model: object) -> str:
    """The name of a model, for a file."""
    if isinstance(model, tuple):
        return "model"
    path = Path(str(model).removeprefix("builtin:"))
    return (path.absolute() if path.is_dir() else path.with_suffix("") if path.is_file() else path).name or "model"


def _of_files(paths: list[str | Path], samples: int, on_note: OnNote) -> Images:
    """Files that are images. Raises DataError where none is."""
    files = datasets.files_at(paths)
    places = np.linspace(0, len(files) - 1, min(samples, len(files))).round().astype(int).tolist()
    encoded: list[bytes] = []
    errors: list[ImageError] = []
    for path in (files[place] for place in places):
        try:
            data = read_regular(path, _MAX_IMAGE_BYTES)
            load_image(data, _ANY, name=str(path))
            encoded.append(data)
        except OSError as error:
            raise DataError(f"{shown(path)}: cannot be read.", got=error.strerror or error) from error
        except ImageError as error:
            errors.append(error)
    if not encoded:
        raise DataError(
            "None of these files is an image.", got="; ".join(map(str, errors[:3])), do="What is read: docs/data.md"
        )
    if errors:
        on_note(f"left out: {'; '.join(map(str, errors[:3]))}{f' and {len(errors) - 3} more' if errors[3:] else ''}")
    return Images(
        encoded=encoded,
        labels=None,
        source="given with --images",
        fingerprint=_fingerprint(encoded),
        is_synthetic=False,
    )


def _labelled(
    card: Card, data: str | Path | None, split: Split | None, samples: int, data_root: str | Path | None
) -> Images:
    """Of the data that are asked for, else of the model's own. Raises DataError, ConfigError."""
    if data is None and split is None:
        return _own(card, samples, data_root)
    return _of_data(card, data, split, samples, data_root)


def _of_data(
    card: Card, data: str | Path | None, split: Split | None, samples: int, data_root: str | Path | None
) -> Images:
    """Labelled images. Raises DataError, ConfigError."""
    config, own_data = data_to_open(card, data, data_root)
    source = datasets.open_source(config, may_download=data is not None)
    available = datasets.available_splits(config, source=source)
    held_out = "val" in source.splits or card.recipe.get("evaluation", {}).get("split") == "val"
    choices = ["val"] if own_data and held_out else []
    wanted = split or next(one for one in (*choices, "test", "all") if one in available)
    found = datasets.draw(config, wanted, samples, card.classes, source)
    name = config.spec if config.spec in NAMED_SETS else "of your own data"
    return Images(
        encoded=found.encoded,
        labels=found.labels,
        source=f"{name}, {wanted}",
        fingerprint=found.fingerprint,
        is_synthetic=False,
    )


def _own(card: Card, samples: int, data_root: str | Path | None) -> Images:
    """The val split of the model's own data if it was held out, else the test split; or made-up pictures."""
    if card.classes and not card.is_yes_or_no:
        try:
            return _of_data(card, None, None, samples, data_root)
        except (ConfigError, DataError):
            pass
    encoded = synthetic_photographs(min(samples, _SYNTHETIC))
    return Images(
        encoded=encoded, labels=None, source="synthetic", fingerprint=_fingerprint(encoded), is_synthetic=True
    )


def _topped_up(images: Images) -> Images:
    """With made-up pictures, so that there are enough."""
    encoded = [*images.encoded, *synthetic_photographs(LEAST_IMAGES)]
    source = f"{len(images.encoded)} images {images.source}, {LEAST_IMAGES} made up"
    return replace(images, encoded=encoded, labels=None, source=source, fingerprint=_fingerprint(encoded))


def _fingerprint(encoded: list[bytes]) -> str:
    digest = hashlib.sha256()
    for image in encoded:
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()
