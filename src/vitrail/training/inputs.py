"""From the images of a batch to the model's input: augmented, mixed, and this process's share of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from vitrail.augment import Augment, Mix, targets_of
from vitrail.config import Preprocessing, RunConfig
from vitrail.config.vit import token_stride
from vitrail.data import Batch, Crop, ImageSet, OnDemand, Order, balanced_order, batches, epoch_order
from vitrail.data.streaming.order import ExactOrder, StreamOrder
from vitrail.distributed import World
from vitrail.training.schedule import scaled_size
from vitrail.training.teacher_answers import Answers
from vitrail.training.transfer.tokens import CachedTokens


@dataclass(frozen=True)
class StepInput:
    """What a step is taken on: this process's share of a batch.

    Args:
        images: float [B, C, H, W], normalised.
        targets: int64 [B], or float [B, L].
        num_own: how many of the images count here.
        teacher_logits: float16 [B, L], less the largest one of each image; None: there is no teacher.
    """

    images: Tensor
    targets: Tensor
    num_own: int
    teacher_logits: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Images, targets and, where there is a teacher, its logits."""
        given = self.images, self.targets
        return given if self.teacher_logits is None else (*given, self.teacher_logits)


class Inputs:
    """Makes the input of each step, the same whatever the number of processes.

    Args:
        config: of the run.
        preprocessing: of the model.
        train_set: the examples.
        world: the processes that share a batch.
        answers: of a teacher; None: there is none.
    """

    def __init__(
        self,
        config: RunConfig,
        preprocessing: Preprocessing,
        train_set: ImageSet,
        world: World,
        answers: Answers | None = None,
    ) -> None:
        self.answers = answers
        self.config, self.preprocessing, self.train_set, self.world = config, preprocessing, train_set, world
        self._cuts = isinstance(train_set.images, OnDemand) and config.augment.resized_crop < 1
        self.augment = Augment(config.augment, preprocessing, seed=config.seed, crops_come_first=self._cuts)
        self.tokens: CachedTokens | None = None  # what frozen layers make of the images, where it was computed
        self.mix = Mix(config.augment, len(train_set.classes), seed=config.seed)

    def order(self, epoch: int) -> Int64[np.ndarray, "M"] | Order:
        """Positions of the training examples in one epoch."""
        seed, settings, starts = self.config.seed, self.config.data, self.train_set.chunk_starts
        if settings.balance == "sampling":
            return balanced_order(seed, epoch, self.train_set.labels)
        if starts is None:
            return epoch_order(seed, epoch, len(self.train_set))
        if settings.shuffle == "exact":
            return ExactOrder(len(self.train_set), seed, epoch)
        return StreamOrder(np.diff(starts), seed, epoch, lanes=settings.lanes, window=settings.window)

    def batches(self, epoch: int, first: int, device: torch.device) -> Iterator[Batch]:
        """The batches of an epoch from the one with number `first` on, this process's part of each."""
        order, size = self.order(epoch), self.config.data.batch_size
        if self.tokens is not None:
            return map(self.tokens.named, batches(self.tokens.examples, order, size, device=device, start=first))
        if self.train_set.follow and isinstance(order, StreamOrder):
            self.train_set.follow(order, order.of_epoch(epoch + 1), first * size)
        crops = self._crops(epoch) if self._cuts else None
        pick = self.pick(epoch)
        return batches(self.train_set, order, size, device=device, start=first, pick=pick, crops=crops)

    def _crops(self, epoch: int) -> Callable[[int, int, np.ndarray], list[Crop]]:
        """The part of each image that is decoded, from the number of a batch, its size and the ids in it."""

        def crops(batch_number: int, size: int, ids: np.ndarray) -> list[Crop]:
            drawn_by = self._ids(torch.from_numpy(ids), epoch, batch_number, size)
            return [Crop(*values) for values in self.augment.crops(drawn_by, epoch).tolist()]

        return crops

    def _ids(self, ids: Tensor, epoch: int, batch_number: int, size: int) -> Tensor:
        """What the random numbers of each image depend on: its id, or its place where it may come twice in an epoch."""
        if self.config.data.balance == "none":
            return ids
        places = batch_number * self.config.data.batch_size + self._places(size, epoch, batch_number)
        return torch.from_numpy(places).to(ids.device)

    def pick(self, epoch: int) -> Callable[[int, np.ndarray], np.ndarray] | None:
        """What this process needs of a batch, from its number and positions; None: all of it.

        That is its share, at least one image, and then the partners that its images are mixed with.
        """
        if self.world.size == 1:
            return None

        return lambda batch_number, chunk: chunk[self._places(len(chunk), epoch, batch_number)]

    def _places(self, size: int, epoch: int, batch_number: int) -> np.ndarray:
        """Where in a batch of `size` this process's images are."""
        if self.world.size == 1:
            return np.arange(size)
        own = self.world.share_of(size)
        places = np.arange(size)[own] if own.stop > own.start else np.arange(1)
        if mixing := self.mix.draw(size, epoch, batch_number):
            places = np.concatenate((places, (places - mixing.shift) % size))
        return places

    def __call__(self, batch: Batch, epoch: int, batch_number: int, size: int, scale: float) -> StepInput:
        """Augment and mix, let the teacher answer for what it sees at full size, and scale.

        Args:
            batch: what `pick` chose, on the device.
            epoch, batch_number: what the random numbers depend on.
            size: images of the batch over all processes.
            scale: of the input's sides, in (0, 1].
        """
        ids = self._ids(batch.ids, epoch, batch_number, size)
        images, targets = self._seen(batch.images, ids, epoch), batch.labels
        own = self.world.share_of(size)
        if self.config.augment.mixup or self.config.augment.cutmix:
            if self.world.size == 1:
                images, targets = self.mix(images, targets, epoch, batch_number)
            else:
                mixing, half = self.mix.draw(size, epoch, batch_number), max(1, own.stop - own.start)
                images, targets = self.mix.apply(mixing, images[:half], targets[:half], images[half:], targets[half:])
        elif batch.errors:
            targets = targets_of(targets, len(self.train_set.classes)).float()
        teacher_logits = self.answers(images, epoch, batch_number) if self.answers else None
        if scale < 1:
            side = scaled_size(self.preprocessing.image_size, scale, token_stride(self.config.model))
            images = F.interpolate(images, size=side, mode="bilinear", antialias=True)
        return StepInput(images, targets, min(len(images), own.stop - own.start), teacher_logits)

    def _seen(self, images: Tensor, ids: Tensor, epoch: int) -> Tensor:
        """Augmented images; of cached tokens [B, views, N, D], those of the image or of its mirror image."""
        if self.tokens is None:
            return self.augment(images, ids, epoch)
        mirrored = self.augment.flips(ids, epoch)
        return images[torch.arange(len(images), device=images.device), mirrored.long()].float()
