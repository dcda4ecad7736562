"""From the images of a batch to the model's input: augmented, mixed, and this process's share of them."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.augment import Augment, Mix
from vitrail.config import Preprocessing, RunConfig
from vitrail.config.vit import token_stride
from vitrail.data import Batch, balanced_order, epoch_order
from vitrail.distributed import World
from vitrail.training.schedule import scaled_size


class Inputs:
    """Makes the input of each step, the same whatever the number of processes.

    Args:
        config: of the run.
        preprocessing: of the model.
        num_labels: classes.
        world: the processes that share a batch.
    """

    def __init__(self, config: RunConfig, preprocessing: Preprocessing, num_labels: int, world: World) -> None:
        self.config, self.preprocessing, self.world = config, preprocessing, world
        self.augment = Augment(config.augment, preprocessing, seed=config.seed)
        self.mix = Mix(config.augment, num_labels, seed=config.seed)

    def order(self, epoch: int, labels: np.ndarray) -> np.ndarray:
        """Positions of the training examples in one epoch."""
        if self.config.data.balance == "sampling":
            return balanced_order(self.config.seed, epoch, labels)
        return epoch_order(self.config.seed, epoch, len(labels))

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

    def __call__(
        self, batch: Batch, epoch: int, batch_number: int, size: int, scale: float
    ) -> tuple[Tensor, Tensor, int]:
        """Augment, mix and scale.

        Args:
            batch: what `pick` chose, on the device.
            epoch, batch_number: what the random numbers depend on.
            size: images of the batch over all processes.
            scale: of the input's sides, in (0, 1].
        Returns:
            Float images [B, C, H, W]; targets int64 [B] or float [B, L]; how many of the images count here.
        """
        ids = batch.ids
        if self.config.data.balance != "none":  # an image that comes twice in an epoch is augmented in two ways
            places = batch_number * self.config.data.batch_size + self._places(size, epoch, batch_number)
            ids = torch.from_numpy(places).to(ids.device)
        images, targets = self.augment(batch.images, ids, epoch), batch.labels
        own = self.world.share_of(size)
        if self.config.augment.mixup or self.config.augment.cutmix:
            if self.world.size == 1:
                images, targets = self.mix(images, targets, epoch, batch_number)
            else:
                mixing, half = self.mix.draw(size, epoch, batch_number), max(1, own.stop - own.start)
                images, targets = self.mix.apply(mixing, images[:half], targets[:half], images[half:], targets[half:])
        if scale < 1:
            side = scaled_size(self.preprocessing.image_size, scale, token_stride(self.config.model))
            images = F.interpolate(images, size=side, mode="bilinear", antialias=True)
        return images, targets, min(len(images), own.stop - own.start)
