"""Training the last blocks of a model on tokens that are computed once: what frozen layers make of each image.

Frozen layers give the same tokens for the same image in every epoch. They are computed before the first step and kept
in fp16, in a file of the user's cache folder that is mapped into memory; a step then computes the last blocks alone.
The next run on the same images, with the same frozen layers, finds the file.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor, nn

from vitrail import fsio
from vitrail.augment import prepare
from vitrail.config import Preprocessing, RunConfig, to_json
from vitrail.data import Batch, ImageSet, batches
from vitrail.data.decoded_cache import make_room
from vitrail.data.loader import UNREADABLE
from vitrail.errors import ImageError, WeightsError
from vitrail.locations import token_cache
from vitrail.model import ViT
from vitrail.reading import DAMAGE, open_regular, read_json_object
from vitrail.training.onednn_linear import onednn_linear
from vitrail.training.optim import layer_of
from vitrail.training.transfer.pretrained import size_text
from vitrail.training.transfer.trainable import first_block

_VERSION = 1  # of the files
_TOKENS, _INDEX = "tokens.bin", "index.json"
_MAX_INDEX_BYTES = 1 << 28
_BATCH = 64  # always the same, so that the last bits do not depend on a setting


class LastBlocks(nn.Module):
    """The end of a model; the weights are the model's own.

    Args:
        model: whole.
        count: how many blocks.
    """

    def __init__(self, model: ViT, count: int) -> None:
        super().__init__()
        self.model, self.first = model, model.config.num_hidden_layers - count

    def forward(
        self, tokens: Float[Tensor, "B N D"], interpolate_pos_encoding: bool = False
    ) -> dict[str, Float[Tensor, "B L"]]:
        """Classify, as `ViT.forward` does, what `ViT.tokens_before` gives; its positions are in it already."""
        return {"logits": self.model.classify(self.model.features_from(self.first, tokens))}


@dataclass(frozen=True)
class CachedTokens:
    """What frozen layers make of the examples of a set.

    Args:
        examples: their images are tokens; those of an unreadable image are zero, its label is UNREADABLE.
        lost: why an image could not be read, by its id.
    """

    examples: ImageSet
    lost: Mapping[int, ImageError]

    def named(self, batch: Batch) -> Batch:
        """A batch of the examples that says which of its images could not be read."""
        if not self.lost:
            return batch
        ids = enumerate(batch.ids.tolist())
        return replace(batch, errors={place: self.lost[id] for place, id in ids if id in self.lost})


class TokenCache:
    """The file with the tokens of a training set.

    Args:
        config: of the run.
        model: on its device, with the weights that are frozen.
        train_set: the images.
        preprocessing: of the model.
        dtype: of autocast; None: fp32.
        linear: whose products compute the linear layers in fp32.
    """

    def __init__(
        self,
        config: RunConfig,
        model: ViT,
        train_set: ImageSet,
        preprocessing: Preprocessing,
        *,
        dtype: torch.dtype | None = None,
        linear: str = "",
    ) -> None:
        self.config, self.model, self.train_set = config, model, train_set
        self.preprocessing, self.dtype, self.linear = preprocessing, dtype, linear
        self.first, self.num_views = first_block(model, config.optim), 2 if config.augment.flip else 1
        num_tokens = math.prod(model.config.grid) + model.config.num_prefix_tokens
        self.shape = len(train_set), self.num_views, num_tokens, model.config.hidden_size
        self.folder = token_cache() / self._key()

    @property
    def num_bytes(self) -> int:
        """Of the tokens."""
        return 2 * math.prod(self.shape)

    def line(self) -> str:
        """What is kept, how large it is and where, for the plan."""
        views = " and of their mirror images" if self.num_views == 2 else ""
        return (
            f"tokens         what the first {self.first} of {self.model.config.num_hidden_layers} blocks make of "
            f"{len(self.train_set)} images{views}: {size_text(self.num_bytes)} in {self.folder}"
        )

    def find(self) -> CachedTokens | None:
        """The tokens of an earlier run, or None where there are none or they are not whole."""
        with contextlib.suppress(*DAMAGE):
            index = read_json_object(self.folder / _INDEX, _MAX_INDEX_BYTES)
            lost = {int(at): ImageError(str(reason), str(name)) for at, name, reason in index["lost"]}
            with open_regular(self.folder / _TOKENS) as file:
                num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes == self.num_bytes and lost.keys() <= set(range(len(self.train_set))):
                with contextlib.suppress(OSError):  # a folder that may only be read is used as it is
                    fsio.touch(self.folder / _INDEX)
                return self._cached(lost)
        return None

    def compute(self, on_batch: Callable[[int], None]) -> CachedTokens:
        """Compute the tokens and keep them; the index is written last and says that they are whole.

        Args:
            on_batch: called with the number of images after each batch; may raise to stop.
        Raises:
            SaveError: they cannot be written, or there is no room for them.
            WeightsError: they are not finite, or too large for fp16.
        """
        limit = int(self.config.data.cache_gib * 2**30)
        make_room(self.folder.parent, self.num_bytes, limit, "tokens", "Use --no-compute.cache-tokens")
        lost: dict[int, ImageError] = {}
        with fsio.writing(self.folder / _TOKENS, needed_bytes=self.num_bytes) as file:
            for tokens, errors in self._batches():
                lost |= errors
                file.write(tokens.data)
                on_batch(len(tokens))
        fsio.write_json(self.folder / _INDEX, {"lost": [[at, e.name, e.reason] for at, e in sorted(lost.items())]})
        return self._cached(lost)

    @torch.inference_mode()
    def _batches(self) -> Iterator[tuple[Float16[np.ndarray, "B views N D"], dict[int, ImageError]]]:
        """Tokens of the images in their order, and why some could not be read, by their places among all."""
        model, device, was_training = self.model, next(self.model.parameters()).device, self.model.training
        model.eval()
        try:
            for number, batch in enumerate(batches(self.train_set, None, _BATCH, device=device)):
                views = [
                    prepare(one, self.preprocessing) for one in (batch.images, batch.images.flip(3))[: self.num_views]
                ]
                autocast = torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype is not None)
                with autocast, onednn_linear(self.linear == "onednn"):
                    found = [model.tokens_before(self.first, view) for view in views]
                tokens = torch.stack(found, 1).half()
                tokens[list(batch.errors)] = 0
                if not bool(tokens.isfinite().all()):
                    raise WeightsError(
                        "What the frozen layers make of the images is not finite, or too large for fp16.",
                        do="Train with --no-compute.cache-tokens.",
                    )
                yield tokens.cpu().numpy(), {number * _BATCH + at: error for at, error in batch.errors.items()}
        finally:
            model.train(was_training)

    def _cached(self, lost: dict[int, ImageError]) -> CachedTokens:
        """The examples of the set with their tokens, mapped; copy on write, so that the file stays as it is."""
        tokens = np.memmap(self.folder / _TOKENS, dtype=np.float16, mode="c", shape=self.shape)
        labels = self.train_set.labels.copy()
        labels[list(lost)] = UNREADABLE
        examples = replace(self.train_set, images=tokens, labels=labels, follow=None)
        return CachedTokens(examples, {int(self.train_set.ids[at]): error for at, error in lost.items()})

    def _key(self) -> str:
        """A name for what the tokens depend on: the images and their order, how they are seen, the frozen weights."""
        geometry = replace(self.model.config, num_labels=0)
        described = [_VERSION, self.train_set.fingerprint, to_json(self.preprocessing), to_json(geometry), self.shape]
        described += [self.first, *([str(self.dtype)] if self.dtype else [])]
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        digest.update(self.train_set.ids.tobytes())
        for name, tensor in self.model.state_dict().items():
            if layer_of(name, self.model) <= self.first:
                digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]
