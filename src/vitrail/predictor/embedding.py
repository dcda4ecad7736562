"""Images to embeddings: what a model makes of them before it classifies, in any engine."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from vitrail import weights
from vitrail.augment import prepare
from vitrail.errors import WeightsError
from vitrail.model import ViT
from vitrail.predictor.live import preprocessing_at
from vitrail.runtime import EngineOptions, choose
from vitrail.runtime.device import pick_device


class Embedder:
    """A model without its classifier; the arguments are those of `Predictor`, and a model without classes will do."""

    def __init__(
        self,
        model: str | Path,
        *,
        device: str,
        image_size: int | tuple[int, int] | None,
        options: EngineOptions,
        on_wait: Callable[[str], object],
    ) -> None:
        self.device = pick_device(device)
        loaded, self.card = weights.load(model)
        self.model = loaded.to(self.device).eval()
        self.preprocessing = preprocessing_at(self.card, image_size)
        size = self.preprocessing.image_size
        self.chosen = choose(without_classifier(self.model), size, options, num_images=0, on_wait=on_wait)

    @torch.inference_mode()
    def __call__(self, pixels: UInt8[np.ndarray, "B C h w"]) -> Float32[np.ndarray, "B D"]:
        """What `ViT.pool` gives for images as they are decoded. Raises WeightsError: not finite."""
        images = prepare(torch.from_numpy(pixels).to(self.device), self.preprocessing)
        found = self.chosen.runtime(images)
        if not bool(found.isfinite().all()):
            raise WeightsError("The outputs of the model are not finite.", do="Train it again.")
        return found.cpu().numpy()


def without_classifier(model: ViT) -> ViT:
    """The same model, which gives what `pool` gives: whatever runs a ViT then gives embeddings."""
    bare = copy.copy(model)
    bare._modules = {**model._modules, "head": nn.Identity(), "head_dist": None}
    bare.config = replace(model.config, num_labels=0)
    return bare
