"""Exact evaluation: every example once, counts as integers, nothing padded, nothing dropped."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.augment import prepare
from vitrail.config import Preprocessing
from vitrail.data import ImageSet, OnDemand, batches
from vitrail.distributed import World
from vitrail.errors import DataError, ImageError
from vitrail.model import ViT
from vitrail.progress import Bar
from vitrail.run.predictions import TOP, Predictions, keeps_logits, ordered_by_id
from vitrail.runtime import Runtime, torch_runtime

MOST_CONFUSION = 100
"""Classes up to which the JSON of an evaluation has the whole confusion matrix; beyond it, the pairs most confused."""
LOSS_UNIT = 2.0**-24
"""Losses are summed as whole multiples of this, so that the sum does not depend on who added what first."""


class EvaluationStopped(Exception):
    """A process was asked to stop; there is no result."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model does on one split.

    An example that cannot be read counts as an example and as a wrong answer; it has no loss and no place in the
    confusion matrix.

    Args:
        confusion: [L][L] counts, row = true class, column = predicted class.
        loss: mean cross-entropy over the readable examples, in nats.
        predictions: the answer for each image; on the first of several processes alone.
        with_mirror: the same of the mean over each image and its mirror image; None: not measured.
    """

    split: str
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    num_top5_correct: int
    loss: float
    errors: tuple[ImageError, ...]
    predictions: Predictions | None = field(default=None, repr=False, compare=False)
    with_mirror: "Evaluation | None" = None

    @property
    def num_examples(self) -> int:
        return sum(map(sum, self.confusion)) + len(self.errors)

    @property
    def num_correct(self) -> int:
        return sum(row[i] for i, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        """Right answers over all examples, in [0, 1]."""
        return self.num_correct / self.num_examples

    @property
    def figures(self) -> dict[str, Any]:
        """What a model file says of it."""
        counts = {"split": self.split, "num_examples": self.num_examples, "num_correct": self.num_correct}
        return {**counts, "accuracy": self.accuracy, "loss": self.loss}

    @property
    def summary(self) -> str:
        """Its figures in a few words."""
        return f"accuracy {self.accuracy:.4f}, loss {self.loss:.4f}"

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Examples, precision, recall and F1 of each class; 0 where nothing was predicted or present."""
        result: dict[str, dict[str, float]] = {}
        for i, name in enumerate(self.classes):
            right = self.confusion[i][i]
            present, predicted = sum(self.confusion[i]), sum(row[i] for row in self.confusion)
            result[name] = {
                "num_examples": present,
                "precision": right / predicted if predicted else 0.0,
                "recall": right / present if present else 0.0,
                "f1": 2 * right / (present + predicted) if present + predicted else 0.0,
            }
        return result

    def to_json(self) -> dict[str, Any]:
        """The object of `vitrail eval --json`."""
        return {
            "split": self.split,
            "num_examples": self.num_examples,
            **self._figures(),
            "per_class": self.per_class,
            "classes": list(self.classes),
            **self._confusion_json(),
            "errors": [{"path": error.name, "error": error.reason} for error in self.errors],
            **({"with_mirror": self.with_mirror._figures()} if self.with_mirror else {}),
        }

    def _figures(self) -> dict[str, float]:
        return {
            "num_correct": self.num_correct,
            "accuracy": self.accuracy,
            "top5_accuracy": self.num_top5_correct / self.num_examples,
            "loss": self.loss,
        }

    def _confusion_json(self) -> dict[str, Any]:
        if len(self.classes) <= MOST_CONFUSION:
            return {"confusion": [list(row) for row in self.confusion]}
        cells = ((count, i, j) for i, row in enumerate(self.confusion) for j, count in enumerate(row) if count)
        pairs = sorted((cell for cell in cells if cell[1] != cell[2]), key=lambda cell: (-cell[0], *cell[1:]))
        named = [(self.classes[i], self.classes[j], count) for count, i, j in pairs[:MOST_CONFUSION]]
        return {"most_confused": [{"label": i, "answer": j, "count": count} for i, j, count in named]}


@torch.inference_mode()
def evaluate(
    model: ViT,
    image_set: ImageSet,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    progress: bool = False,
    on_batch: Callable[[], object] | None = None,
    world: World | None = None,
    runtime: Runtime | None = None,
    with_mirror: bool = False,
) -> Evaluation:
    """Measure a model on a split, in fp32, in evaluation mode.

    Several processes share the examples, each once: nothing is padded, nobody waits before the end, integers are
    summed. Every process gets the same result.

    Args:
        model: on its device; its mode is put back afterwards.
        image_set: labels index image_set.classes, which are the model's.
        preprocessing: the model's own.
        batch_size: examples at a time.
        progress: show a bar on standard error.
        on_batch: called after each batch; a true answer stops all processes.
        world: the processes that share the work; None: this one.
        runtime: what runs the model; None: torch.
        with_mirror: measure the mean of the logits of each image and its mirror image as well.
    Raises:
        DataError: there is nothing to evaluate.
        EvaluationStopped: on_batch asked for it, here or in another process.
    """
    world = world or World()
    device = next(model.parameters()).device
    check_not_empty(image_set)
    alone, both = _Answers(image_set, device), _Answers(image_set, device) if with_mirror else None
    mine = np.arange(world.rank, len(image_set), world.size)
    logits_of = runtime or torch_runtime(model, preprocessing.image_size)
    was_training = model.training
    model.eval()
    lost, done = list[tuple[int, str, str]](), 0
    with Bar(len(mine), title=image_set.split, keep=False, enabled=progress) as bar:
        for batch in batches(image_set, mine, batch_size, device=device):
            images = prepare(batch.images, preprocessing)
            logits = logits_of(images)
            lost += [(int(mine[done + place]), error.name, error.reason) for place, error in batch.errors.items()]
            done += len(batch.labels)
            read = batch.labels >= 0 if batch.errors else slice(None)  # what is black gets no answer
            alone.add(logits, batch.labels, read)
            if both:
                both.add((logits + logits_of(images.flip(3))) / 2, batch.labels, read)
            bar.advance(len(batch.labels))
            if on_batch and on_batch():
                alone.counts.stopped = True
                break
    model.train(was_training)
    image_set, read, count = readable(image_set, lost, world)
    found = alone.gathered(world, image_set, read, count)
    return replace(found, with_mirror=both.gathered(world, image_set, read, count)) if both else found


def check_not_empty(image_set: ImageSet) -> None:
    """Raise DataError where there is nothing to measure."""
    if len(image_set.labels) == 0:
        raise DataError(f"The {image_set.split} split holds no readable image.", got=f"{len(image_set.errors)} errors")


def readable(image_set: ImageSet, lost: list[tuple[int, str, str]], world: World) -> tuple[ImageSet, np.ndarray, int]:
    """The examples that were read, their places among all, and how many all are.

    Args:
        lost: place, name and reason of those that this process could not read.
    """
    count = len(image_set)
    if isinstance(image_set.images, OnDemand):
        lost = sorted(one for part in world.gather(lost) for one in part)
    read = np.setdiff1d(np.arange(count), [place for place, *_ in lost])
    return image_set.without({place: ImageError(reason, name) for place, name, reason in lost}), read, count


class _Answers:
    """What is counted and kept of the answers of this process."""

    def __init__(self, image_set: ImageSet, device: torch.device) -> None:
        self.counts = _Counts(len(image_set.classes), device)
        self.rows = _Rows(keeps_logits(len(image_set), len(image_set.classes)))

    def add(self, logits: Tensor, labels: Tensor, read: Tensor | slice) -> None:
        """Take some examples: float logits [B, L], true classes [B], and which of them were read."""
        row = self.rows.add(logits, labels.clamp(min=0))
        self.counts.add(logits[read], labels[read], {name: values[read] for name, values in row.items()})

    def gathered(self, world: World, image_set: ImageSet, read: np.ndarray, count: int) -> Evaluation:
        """Those of all processes. All must call it; arguments and errors as of `_Rows.gathered`, `_Counts.summed`."""
        found = self.counts.summed(world, image_set)
        return replace(found, predictions=self.rows.gathered(world, image_set, read, count))


class _Counts:
    """Integers that are added up on the device, and once over all processes."""

    def __init__(self, num_labels: int, device: torch.device) -> None:
        self.num_labels, self.device, self.stopped = num_labels, device, False
        self.confusion = torch.zeros(num_labels * num_labels, dtype=torch.int64, device=device)
        # Right among the top 5, loss in units, examples without a finite loss.
        self.rest = torch.zeros(3, dtype=torch.int64, device=device)

    def add(self, logits: Tensor, labels: Tensor, row: dict[str, Tensor]) -> None:
        """Count some examples: float logits [B, L], their true classes [B], and what `_Rows` makes of them."""
        self.confusion += torch.bincount(labels * self.num_labels + logits.argmax(1), minlength=self.num_labels**2)
        losses = row["losses"]
        finite = losses.isfinite()
        units = (losses.where(finite, 0.0) / LOSS_UNIT).round().long().sum()
        self.rest += torch.stack(((row["top_classes"] == labels[:, None]).sum(), units, (~finite).sum()))

    def summed(self, world: World, image_set: ImageSet) -> Evaluation:
        """What all processes counted together. Raises EvaluationStopped where one of them was told to stop."""
        stopped = torch.tensor([int(self.stopped)], device=self.device)
        *counts, top5, units, bad, stops = world.sum(torch.cat((self.confusion, self.rest, stopped))).tolist()
        if stops:
            raise EvaluationStopped
        num_counted, num_labels = sum(counts), self.num_labels
        if num_counted != len(image_set):
            raise AssertionError(f"{num_counted} of {len(image_set)} examples were counted")
        rows = [counts[i * num_labels : (i + 1) * num_labels] for i in range(num_labels)]
        return Evaluation(
            split=image_set.split,
            classes=image_set.classes,
            confusion=tuple(tuple(row) for row in rows),
            num_top5_correct=top5,
            loss=math.nan if bad else units * LOSS_UNIT / num_counted,
            errors=image_set.errors,
        )


class _Rows:
    """The answers of this process, on the device until all are there.

    Args:
        keep_logits: all of them, not only what is derived from them.
    """

    def __init__(self, keep_logits: bool) -> None:
        self.keep_logits, self.parts = keep_logits, list[dict[str, Tensor]]()

    def add(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The rows of some examples, which are kept: float logits [B, L] and their true classes [B]."""
        best, total = logits.argmax(1, keepdim=True), logits.logsumexp(1)
        top = logits.topk(min(TOP, logits.shape[1]))
        # Of equal logits `topk` may take any first; the answer is what argmax says.
        classes = torch.where(top.indices == best, top.indices[:, :1], top.indices)
        classes[:, :1] = best
        row = {
            "labels": labels.int(),
            "top_classes": classes.int(),
            "top_probabilities": (top.values - total[:, None]).exp(),
            "losses": F.cross_entropy(logits, labels, reduction="none"),
            "log_sum_exp": total,
            **({"logits": logits.clone()} if self.keep_logits else {}),
        }
        self.parts.append(row)
        return row

    def gathered(self, world: World, image_set: ImageSet, read: np.ndarray, count: int) -> Predictions | None:
        """The rows of all processes, on the first of them. All must call it.

        Args:
            image_set: the examples that were read.
            read: their places among all, of which there are `count`.
        """
        if not self.parts:  # fewer images than processes
            self.add(torch.zeros(0, len(image_set.classes)), torch.zeros(0, dtype=torch.int64))
        mine = {name: torch.cat([part[name] for part in self.parts]).cpu().numpy() for name in self.parts[0]}
        several = world.gather_on_first(mine)
        if several is None:
            return None
        rows: dict[str, np.ndarray] = {}
        for name, array in several[0].items():
            every = np.empty((count, *array.shape[1:]), array.dtype)
            for rank, part in enumerate(several):
                every[rank :: world.size] = part[name]
            rows[name] = every[read] if len(read) < count else every
        return ordered_by_id(
            Predictions(
                split=image_set.split,
                fingerprint=image_set.fingerprint,
                classes=image_set.classes,
                names=image_set.names,
                ids=np.asarray(image_set.ids, np.int64),
                labels=rows["labels"],
                top_classes=rows["top_classes"],
                top_probabilities=rows["top_probabilities"],
                losses=rows["losses"],
                log_sum_exp=rows["log_sum_exp"],
                logits=rows.get("logits"),
                unreadable=tuple((error.name, error.reason) for error in image_set.errors),
            )
        )
