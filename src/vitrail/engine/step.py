"""One optimiser step: forward, loss, backward, clip, update, average."""

import contextlib
import copy
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.config import ComputeConfig, OptimConfig
from vitrail.config.checks import pair
from vitrail.engine.optim import set_lr
from vitrail.model import ViT
from vitrail.run.device import autocast_dtype


class TrainStep:
    """Moves a model by one batch. Everything random in it is a function of `seed` and the step.

    Args:
        model: on its device.
        optimizers: over its parameters.
        optim: label smoothing, clipping, average.
        compute: precision, compilation, micro-batches.
        seed: of dropout and stochastic depth.
    """

    def __init__(
        self, model: ViT, optimizers: list[torch.optim.Optimizer], optim: OptimConfig, compute: ComputeConfig, seed: int
    ) -> None:
        self.model, self.optimizers, self.optim, self.compute, self.seed = model, optimizers, optim, compute, seed
        self.device = next(model.parameters()).device
        self.dtype = autocast_dtype(compute, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = WeightAverage(model, optim.ema_decay) if optim.ema_decay else None
        self.forward: nn.Module = torch.compile(model) if compute.compile else model  # type: ignore[assignment]

    @property
    def evaluated(self) -> ViT:
        """The weights that are evaluated and saved: the average where there is one."""
        return self.average.model if self.average else self.model

    def __call__(self, images: Float[Tensor, "B C H W"], targets: Tensor, step: int, lr_factor: float) -> Tensor:
        """Take one step.

        Args:
            images: normalised, the whole effective batch.
            targets: int64 [B], or probabilities [B, L].
            step: steps done before this one.
            lr_factor: of the peak learning rate.
        Returns:
            The mean loss of the batch, 0-dim, still on the device.
        """
        torch.manual_seed((self.seed * 1_000_003 + step) % 2**63)
        set_lr(self.optimizers, lr_factor)
        total = torch.zeros((), device=self.device)
        other_size = tuple(images.shape[2:]) != pair(self.model.config.image_size)
        micro = min(self.compute.accumulation_steps, len(images))
        for part, wanted in zip(images.tensor_split(micro), targets.tensor_split(micro), strict=True):
            with self._autocast():
                logits = self.forward(part, interpolate_pos_encoding=other_size)["logits"]
            loss = F.cross_entropy(logits.float(), wanted, label_smoothing=self.optim.label_smoothing)
            loss = loss * (len(part) / len(images))
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self._update()
        if self.average:
            self.average.update(step)
        return total

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def _update(self) -> None:
        """Clip and step; under gradient scaling, all optimisers skip a step together when any gradient overflowed."""
        norm = torch.zeros(())
        if self.optim.clip_norm or self.scaler.is_enabled():
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.clip_norm or math.inf)
        if not self.scaler.is_enabled() or bool(norm.isfinite()):
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
        self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)


class WeightAverage:
    """Exponential moving average of a model's weights and buffers.

    Args:
        model: the one that is trained.
        decay: per step; smaller in the first steps, min(decay, (1 + step) / (10 + step)), so that the random start
            is forgotten at once.
    """

    def __init__(self, model: ViT, decay: float) -> None:
        self.source, self.decay = model, decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after `step` in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self.model.state_dict(), self.source.state_dict()
        floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in floating], [theirs[n] for n in floating], 1 - decay)
        for name in mine.keys() - set(floating):
            mine[name].copy_(theirs[name])
