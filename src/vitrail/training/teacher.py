"""A teacher: a trained model that answers for every view that the student learns from.

In: augmented and mixed images at the full size of the run's input. Out: logits in the order of the data's classes.
Teacher and student see the same view of an image, as arXiv:2106.05237 found best; only its size and normalisation are
the teacher's own.

Paper: "Distilling the Knowledge in a Neural Network" (arXiv:1503.02531); "Knowledge distillation: A good teacher is
patient and consistent" (arXiv:2106.05237)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Float16
from torch import Tensor

from vitrail import weights
from vitrail.augment.geometry import resize
from vitrail.config import Preprocessing, RunConfig, to_json
from vitrail.config.checks import pair
from vitrail.data import ImageSet
from vitrail.errors import ConfigError, shown
from vitrail.model import ViT
from vitrail.tensor_file import tensors_sha256
from vitrail.training.precision import autocast_dtype
from vitrail.weights import Card

_LOWEST = -60_000.0
"""Of a logit below the largest one of its image: float16 ends at -65504."""
_MOST_NAMES = 3


class Teacher:
    """Answers for the images of a run.

    Args:
        model: on its device; it is set to evaluation mode and never trained.
        card: of the model.
        preprocessing: of the run.
        columns: of the teacher's logits, one for each class of the data.
        dtype: of autocast; None: fp32.
        about: what model files and environment.json say about it.

    `identity` is all that its answers for an image depend on, in values of JSON, but for the last bits.
    """

    def __init__(
        self,
        model: ViT,
        card: Card,
        preprocessing: Preprocessing,
        *,
        columns: Sequence[int],
        dtype: torch.dtype | None,
        about: dict[str, Any],
    ) -> None:
        self.model, self.dtype, self.about = model.eval().requires_grad_(False), dtype, about
        self.size = pair(card.geometry.image_size)
        self.identity = [about["sha256"], to_json(card.geometry), card.preprocessing.mean, card.preprocessing.std]
        self.device = next(model.parameters()).device
        self.columns = torch.tensor(columns, device=self.device)
        mine, theirs = card.preprocessing, preprocessing
        self._factor, self._shift = None, None
        if (mine.mean, mine.std) != (theirs.mean, theirs.std):
            mean, std, their_mean, their_std = (
                torch.tensor(values, device=self.device).view(-1, 1, 1)
                for values in (mine.mean, mine.std, theirs.mean, theirs.std)
            )
            self._factor, self._shift = their_std / std, (their_mean - mean) / std

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B C h w"]) -> Float16[Tensor, "B L"]:
        """The logits of augmented images, less the largest one of each image.

        Args:
            images: normalised as the run's preprocessing says, of any size.
        """
        if self._factor is not None and self._shift is not None:
            images = torch.addcmul(self._shift, images, self._factor)
        images = resize(images, self.size)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            logits = self.model(images)["logits"]
        logits = logits.float()[:, self.columns]
        return (logits - logits.amax(1, keepdim=True)).clamp(min=_LOWEST).half()


def load_teacher(config: RunConfig, preprocessing: Preprocessing, train_set: ImageSet, device: torch.device) -> Teacher:
    """Load the teacher that a run names.

    Args:
        preprocessing: of the run.
        train_set: of the run.
    Raises:
        WeightsError: the weights cannot be read.
        ConfigError: they answer for other classes.
    """
    source = config.distill.teacher
    model, card = weights.load(source, num_channels=preprocessing.num_channels, device=device)
    columns = _columns(source, card, train_set.classes)
    return Teacher(
        model,
        card,
        preprocessing,
        columns=columns,
        dtype=autocast_dtype(config.compute, device),
        about=_about(source, model, card, train_set),
    )


def _columns(source: str, card: Card, classes: tuple[str, ...]) -> list[int]:
    """Which logit of a teacher is that of each class. Raises ConfigError unless there is one for each, and no more."""
    theirs = card.classes
    problem = ""
    if not card.geometry.num_labels:
        problem = "no classifier"
    elif card.problem_type != "single_label_classification" or card.is_yes_or_no:
        problem = f"answers for {card.problem_type.replace('_', ' ')}"
    elif not theirs:
        problem = f"{card.geometry.num_labels} classes without names"
    elif set(theirs) != set(classes):
        missing, more = (sorted(set(a) - set(b)) for a, b in ((classes, theirs), (theirs, classes)))
        parts = (f"without {_listed(missing)}" if missing else "", f"with {_listed(more)}" if more else "")
        problem = f"{len(theirs)} classes, {', '.join(filter(None, parts))}"
    if problem:
        raise ConfigError(
            f"The teacher {shown(source)} does not answer for the classes of the data.",
            got=problem,
            expected=f"the {len(classes)} classes of the data, in any order",
            do="Fine-tune it to the data first (vitrail finetune), and take that run as the teacher.",
        )
    return [theirs.index(name) for name in classes]


def _listed(names: list[str]) -> str:
    said = ", ".join(shown(name, 40) for name in names[:_MOST_NAMES])
    return f"{said} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else said


def _about(source: str, model: ViT, card: Card, train_set: ImageSet) -> dict[str, Any]:
    """What model files and environment.json say about a teacher.

    It is an outside teacher unless all it ever learnt from are this run's own training images.
    """
    fingerprint = _of(card.provenance, "data", "train", "fingerprint")
    is_outside = (
        card.provenance.get("source") != "trained from scratch"
        or fingerprint != train_set.fingerprint
        or bool(card.provenance.get("teacher", {}).get("outside"))
    )
    metrics = {name: card.metrics.get(name) for name in ("accuracy", "num_examples", "split")}
    if [type(value) for value in metrics.values()] != [float, int, str]:  # of another library, or a stranger's
        metrics = {}
    spec = str(_of(card.recipe, "data", "spec") or "")
    kind, name = card.geometry.kind, Path(source).name if Path(source).exists() else source
    return {
        "label": f"distilled from {name} ({kind}, {_measured(metrics, spec)}{', outside data' * is_outside})",
        "weights": name,
        "sha256": tensors_sha256({name: tensor.cpu() for name, tensor in model.state_dict().items()}),
        "kind": kind,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "outside": is_outside,
        "data": spec,
        "metrics": metrics,
    }


def _measured(metrics: dict[str, Any], spec: str) -> str:
    if not metrics:
        return "accuracy unknown"
    of = f" of {spec}" if spec else ""
    return f"accuracy {metrics['accuracy']:.4f} on {metrics['num_examples']} images of the {metrics['split']} split{of}"


def _of(values: dict[str, Any], *names: str) -> object:
    """What a card holds under names within each other; None where something else is there."""
    found: Any = values
    for name in names:
        found = cast(dict[str, Any], found).get(name) if isinstance(found, dict) else None
    return found


def teacher_lines(config: RunConfig, about: dict[str, Any] | None) -> list[str]:
    """What the plan says about a teacher; nothing where there is none."""
    if about is None:
        return []
    distill = config.distill
    lines = [
        f"teacher        {about['label']}, {about['num_parameters'] / 1e6:.2f} M parameters; weight "
        f"{distill.weight:g}, temperature {distill.temperature:g}"
    ]
    if about["outside"]:
        lines.append(
            "teacher        it, or the weights that it began with, learnt from other images than this run's training "
            "set; some of those measured here may be among them"
        )
    return lines
