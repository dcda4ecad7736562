"""Any pretrained ViT to a model and its card: vitrail's own files, and those of every family that is known.

The family is recognised by the names of the tensors; every tensor is explained or nothing is loaded (audit.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.config import Preprocessing
from vitrail.config.checks import pair
from vitrail.errors import ConfigError, VitrailError, WeightsError
from vitrail.model import ViT
from vitrail.reading import DAMAGE
from vitrail.weights import modelfile
from vitrail.weights.audit import Audit, check_explained
from vitrail.weights.card import Card, is_own, read_card
from vitrail.weights.files import open_source
from vitrail.weights.heads import drop_fed_head, read_head
from vitrail.weights.key_table import WeightSource, check_claims
from vitrail.weights.mahalanobis import Mahalanobis
from vitrail.weights.modelfile import build_model, empty_model
from vitrail.weights.new_geometry import Head, change_channels, change_classes, change_patch, resize_image
from vitrail.weights.unwrap import select_model


@dataclass
class _Read:
    """Weights before they are fitted to what was asked for."""

    tensors: dict[str, Tensor]
    card: Card
    audit: Audit
    family: str
    evidence: str
    mahalanobis: Mahalanobis | None = None


def load(
    source: str | Path,
    *,
    num_labels: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    head: Head = "match",
    num_channels: int | None = None,
    patch_size: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[ViT, Card]:
    """Load a model from a vitrail file, a run directory, `builtin:NAME`, or the weights of another library.

    Args:
        source: a vitrail file, a run directory, builtin:NAME, a local file or folder of Hugging Face, timm, Google,
            torchvision, DeiT or DINOv2, or a hub id "owner/name[@revision]".
        num_labels: number of classes; another number than the weights have starts a new classifier. 0: features.
        image_size: side of the input in pixels, or (height, width); positions are resampled by the rule of the
            weights' own library.
        classes: class names; rows of the classifier are kept by name, see `head`.
        head: match: rows with equal names are kept, the others start anew; keep: all rows, in their order; reset: none.
        num_channels: 1 or 3; the first kernel is summed or repeated.
        patch_size: another patch side, same grid, the kernel resampled (arXiv:2212.08013).
        device: where the model goes; fp32 there.
    Returns:
        The model in evaluation mode, and its card; card.provenance["audit"] says what became of every tensor, where
        the weights are foreign or were changed.
    Raises:
        WeightsError: nothing there, damaged, not known, or a tensor without an explanation: nothing is loaded.
        ConfigError: what was asked for does not fit the weights.
    """
    if classes is not None and num_labels not in (None, len(classes)):
        raise ConfigError("num_labels and classes disagree.", got=num_labels, expected=len(classes))
    read = _read(source, image_size)
    before = dict(read.audit.adapted)
    card = _fitted(read, num_labels, image_size, classes, head, num_channels, patch_size)
    if read.family != "vitrail" or read.audit.adapted != before or read.audit.reinitialised:
        lines = read.audit.lines(read.family, read.evidence)
        provenance = {**card.provenance, "audit": read.audit.to_json(), "audit_lines": lines}
        card = replace(card, provenance=provenance, metrics={}, calibration=None)
    model = build_model(card.geometry, read.tensors, device)
    model.mahalanobis = read.mahalanobis if card.calibration else None
    return model, card


def load_card(source: str | Path) -> Card:
    """What `load` would say about weights, unchanged. A vitrail file is described without reading its weights."""
    own = is_own(source)
    return read_card(own) if own else _read(source).card


def _read(source: str | Path, image_size: int | tuple[int, int] | None = None) -> _Read:
    """Read weights as they are in the file; `image_size` decides where their geometry could be read in two ways."""
    if own := is_own(source):
        model, card = modelfile.load(own)
        tensors = dict(model.state_dict())
        card = replace(card, provenance={**card.provenance})
        audit = Audit(mapped={n: n for n in tensors})
        return _Read(tensors, card, audit, "vitrail", "its own description", model.mahalanobis)
    asked = pair(image_size) if image_size is not None else None
    found = replace(open_source(source), asked_size=asked)
    try:
        family, evidence, opened = select_model(found)
        reading = family.read(opened, evidence)
        read_head(reading, opened.tensors)
        expected = empty_model(reading.geometry).state_dict()
        check_explained(opened, reading, expected, (reading.table or family.TABLE).theirs)
        check_claims(reading.claims)
        drop_fed_head(reading)
    except VitrailError:
        raise
    except DAMAGE as error:
        raise WeightsError(
            f"{source}: its tensors are of shapes that no model of this kind has.",
            got=f"{type(error).__name__}: {error}",
            do="If another program opens these weights, please report it.",
        ) from error
    audit = Audit(mapped=reading.mapped, adapted=reading.adapted, dropped={**reading.dropped, **opened.beside})
    provenance = _provenance(source, opened, reading.family, evidence, reading.defaulted)
    card = Card(
        geometry=reading.geometry,
        classes=reading.classes if reading.geometry.num_labels else (),
        preprocessing=reading.preprocessing,
        provenance=provenance,
        problem_type=reading.problem_type,
    )
    tensors = {name: tensor.clone() for name, tensor in reading.tensors.items()}
    return _Read(tensors, card, audit, reading.family, evidence)


def _provenance(
    source: str | Path, opened: WeightSource, family: str, evidence: str, defaulted: Sequence[str]
) -> dict[str, Any]:
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in opened.tensors.values()})
    return {
        "source": str(source) if not Path(source).exists() else Path(source).name,
        "family": family,
        "evidence": evidence,
        "container": opened.container,
        "sha256": opened.sha256,
        "dtype": ", ".join(dtypes),
        "notes": list(opened.notes),
        "defaulted": list(defaulted),
        **({"training": opened.told} if opened.told else {}),
    }


def _fitted(
    read: _Read,
    num_labels: int | None,
    image_size: int | tuple[int, int] | None,
    classes: Sequence[str] | None,
    head: Head,
    num_channels: int | None,
    patch_size: int | None,
) -> Card:
    """Change the tensors to what was asked for, and say so in the card."""
    card, geometry, names = read.card, read.card.geometry, read.card.classes
    problem_type = card.problem_type
    if patch_size is not None:
        geometry = change_patch(read.tensors, geometry, patch_size, read.audit)
    if num_channels is not None:
        geometry = change_channels(read.tensors, geometry, num_channels, read.audit)
    if image_size is not None:
        geometry = resize_image(read.tensors, geometry, image_size, read.audit)
    wanted = classes if classes is not None else num_labels
    if wanted is not None:
        had = geometry.num_labels
        before = geometry
        geometry = change_classes(read.tensors, geometry, names, wanted, head, read.audit)
        problem_type = problem_type if geometry is before else "single_label_classification"
        names = tuple(classes) if classes is not None else names if geometry.num_labels == had else ()
    preprocessing = card.preprocessing
    if preprocessing.num_channels != geometry.num_channels:
        preprocessing = _other_channels(preprocessing, geometry.num_channels)
    if image_size is not None or patch_size is not None:
        preprocessing = preprocessing.resized(pair(geometry.image_size))
    return replace(card, geometry=geometry, classes=names, preprocessing=preprocessing, problem_type=problem_type)


def _other_channels(preprocessing: Preprocessing, channels: int) -> Preprocessing:
    """Grey input takes the mean of the colours' constants, colour input repeats the grey ones."""
    if channels not in (1, 3):
        raise ConfigError("Images have 1 or 3 channels.", got=channels, expected="1 or 3")

    def spread(values: tuple[float, ...]) -> tuple[float, ...]:
        return (sum(values) / len(values),) * channels

    return replace(
        preprocessing,
        channels="L" if channels == 1 else "RGB",
        mean=spread(preprocessing.mean),
        std=spread(preprocessing.std),
    )
