"""Learning from images alone: patches are masked, and the model predicts their pixels from the others.

What is special about such a run is here: the mask as its target, the loss, and the figure on the held-out images. All
else, from the optimisers to the checkpoints, is training as usual.

Paper: SimMIM, arXiv:2111.09886; normalised targets after MAE, arXiv:2111.06377, section 3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitrail import weights
from vitrail.augment import patch_masks, prepare
from vitrail.config import Preprocessing, PretrainConfig, RunConfig
from vitrail.config.checks import pair
from vitrail.config.vit import token_stride
from vitrail.data import Batch, ImageSet, batches
from vitrail.distributed import World
from vitrail.errors import ImageError
from vitrail.model import MaskedViT, ViT, patch_pixels
from vitrail.model.masked import PREDICTION
from vitrail.training.evaluate import LOSS_UNIT, EvaluationStopped, check_not_empty, readable
from vitrail.training.inputs import Inputs, StepInput
from vitrail.training.step import TrainStep


class MaskedInputs(Inputs):
    """Makes the input of each step; its target is which patches are masked."""

    def __call__(self, batch: Batch, epoch: int, batch_number: int, size: int, scale: float) -> StepInput:
        """Augment, scale and mask: targets are masks [B, patches], of an unreadable image without any patch."""
        given = super().__call__(batch, epoch, batch_number, size, scale)
        grid = _grid(given.images, token_stride(self.config.model))
        masked = patch_masks(self.config.pretrain, batch.ids, epoch, grid, seed=self.config.seed)
        return replace(given, targets=masked & (batch.labels >= 0)[:, None])


class ReconstructionStep(TrainStep):
    """Moves a MaskedViT by one batch of images and their masks."""

    kind = MaskedViT

    def __init__(self, *args: Any, pretrain: PretrainConfig, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pretrain = pretrain

    def loss(
        self,
        forward: nn.Module,
        images: Float[Tensor, "B C H W"],
        targets: Tensor,
        teacher_logits: Tensor | None = None,
    ) -> Tensor:
        """The mean loss of some images under masks [B, patches], with a graph."""
        other_size = tuple(images.shape[2:]) != pair(self.model.config.image_size)
        with self._autocast():
            predicted = forward(images, bool_masked_pos=targets, interpolate_pos_encoding=other_size)["logits"]
        wanted = targets_of(images, token_stride(self.model.config), normalised=self.pretrain.normalise_targets)
        return masked_error(predicted.float(), wanted, targets).mean()


def targets_of(
    images: Float[Tensor, "B C H W"], patch: tuple[int, int], *, normalised: bool
) -> Float[Tensor, "B patches pixels"]:
    """What is to be predicted of each patch.

    Args:
        images: as the model sees them.
        normalised: minus the mean of the patch, over its standard deviation.
    """
    pixels = patch_pixels(images, patch)
    if not normalised:
        return pixels
    return (pixels - pixels.mean(2, keepdim=True)) / (pixels.var(2, keepdim=True) + 1e-6).sqrt()


def masked_error(
    predicted: Float[Tensor, "B patches pixels"],
    wanted: Float[Tensor, "B patches pixels"],
    masked: Bool[Tensor, "B patches"],
) -> Float[Tensor, " B"]:
    """Mean absolute error over the pixels of the masked patches of each image; 0 where none is masked.

    Source: arXiv:2111.09886, section 3.4.
    """
    errors = (predicted - wanted).abs().mean(2).where(masked, 0.0)
    return errors.sum(1) / masked.sum(1).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What a model makes of the masked patches of one split.

    Args:
        num_examples: images that could be read.
        loss: mean absolute error of the pixels of masked patches, in the units of the targets.
        mean_colour_loss: of painting them in the mean colour of the image's visible patches; of normalised targets,
            in the mean colour of the masked patch itself.
        errors: images that could not be read.
    """

    split: str
    num_examples: int
    loss: float
    mean_colour_loss: float
    errors: tuple[ImageError, ...] = ()
    accuracy: None = None

    @property
    def figures(self) -> dict[str, Any]:
        """What a model file says of it."""
        losses = {"loss": self.loss, "mean_colour_loss": self.mean_colour_loss}
        return {"split": self.split, "num_examples": self.num_examples, **losses}

    @property
    def summary(self) -> str:
        """Its figures in a few words."""
        return f"reconstruction loss {self.loss:.4f} (in the mean colour {self.mean_colour_loss:.4f})"

    def to_json(self) -> dict[str, Any]:
        """The object of reconstruction.json."""
        errors = [{"path": error.name, "error": error.reason} for error in self.errors]
        return {**self.figures, "errors": errors}


@torch.inference_mode()
def reconstruct(
    model: MaskedViT,
    image_set: ImageSet,
    preprocessing: Preprocessing,
    config: PretrainConfig,
    *,
    seed: int,
    batch_size: int,
    on_batch: Callable[[], object] | None = None,
    world: World | None = None,
) -> Reconstruction:
    """Measure a model on a split, in fp32, in evaluation mode. Several processes share the examples, each once.

    Args:
        model: on its device; its mode is put back afterwards.
        seed: of the masks, which are the same whenever the split is measured.
        batch_size: examples at a time.
        on_batch: called after each batch; a true answer stops all processes.
        world: the processes that share the work; None: this one.
    Raises:
        DataError: there is nothing to measure.
        EvaluationStopped: on_batch asked for it, here or in another process.
    """
    world, device = world or World(), next(model.parameters()).device
    check_not_empty(image_set)
    mine, patch = np.arange(world.rank, len(image_set), world.size), token_stride(model.config)
    was_training, done, lost = model.training, 0, list[tuple[int, str, str]]()
    model.eval()
    # Images, losses in units, those that are not finite, processes that were told to stop.
    counts = torch.zeros(5, dtype=torch.int64, device=device)
    for batch in batches(image_set, mine, batch_size, device=device):
        lost += [(int(mine[done + place]), error.name, error.reason) for place, error in batch.errors.items()]
        done += len(batch.labels)
        read = batch.labels >= 0
        images = prepare(batch.images, preprocessing)[read]
        masked = patch_masks(config, batch.ids[read], 0, _grid(images, patch), seed=seed)
        wanted = targets_of(images, patch, normalised=config.normalise_targets)
        predicted = model(images, bool_masked_pos=masked)["logits"].float()
        flat = torch.zeros_like(wanted) if config.normalise_targets else _mean_colour(wanted, masked, images.shape[1])
        losses = torch.stack((masked_error(predicted, wanted, masked), masked_error(flat, wanted, masked)))
        finite = losses.isfinite()
        units = (losses.where(finite, 0.0) / LOSS_UNIT).round().long().sum(1)
        counts[:4] += torch.cat((read.sum()[None], units, (~finite).sum()[None]))
        if on_batch and on_batch():
            counts[4] = 1
            break
    model.train(was_training)
    image_set, *_ = readable(image_set, lost, world)
    num_examples, loss, mean_colour, bad, stopped = world.sum(counts).tolist()
    if stopped:
        raise EvaluationStopped
    return Reconstruction(
        split=image_set.split,
        num_examples=num_examples,
        loss=math.nan if bad else loss * LOSS_UNIT / max(1, num_examples),
        mean_colour_loss=mean_colour * LOSS_UNIT / max(1, num_examples),
        errors=image_set.errors,
    )


def encoder_of(model: ViT) -> ViT:
    """The model without the layer that predicts pixels: a ViT without a classifier."""
    tensors = {n: t.detach() for n, t in model.state_dict().items() if not n.startswith(PREDICTION)}
    return weights.build_model(model.config, tensors, next(model.parameters()).device)


def plan_line(config: RunConfig) -> str:
    """What is about to be learnt, in a few words."""
    height, width = (config.pretrain.mask_unit * side for side in token_stride(config.model))
    return f"no labels: {config.pretrain.mask_ratio:.0%} of each image is masked in squares of {height}x{width} pixels"


def _mean_colour(
    patches: Float[Tensor, "B patches pixels"], masked: Bool[Tensor, "B patches"], num_channels: int
) -> Float[Tensor, "B patches pixels"]:
    """Every patch in the mean colour of those of its image that are not masked."""
    colours = patches.unflatten(2, (num_channels, -1))  # [B, patches, C, P * P]
    visible = ~masked[:, :, None]
    mean = (colours.mean(3) * visible).sum(1, keepdim=True) / visible.sum(1, keepdim=True)
    return mean[..., None].expand_as(colours).flatten(2)


def _grid(images: Tensor, patch: tuple[int, int]) -> tuple[int, int]:
    return images.shape[2] // patch[0], images.shape[3] // patch[1]
