"""One optimiser step: forward, loss, backward, clip, update, average."""

import contextlib
import copy
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, Float32
from torch import Tensor, nn

from vitrail import distributed, weights
from vitrail.config import ComputeConfig, DistillConfig, OptimConfig
from vitrail.config.checks import pair
from vitrail.data import ImageSet
from vitrail.distributed import World
from vitrail.model import ViT
from vitrail.training import nonfinite
from vitrail.training.linear_kernels import LinearBy, from_settings
from vitrail.training.onednn_linear import onednn_linear
from vitrail.training.optim import set_lr
from vitrail.training.precision import autocast_dtype


class TrainStep:
    """Moves a model by one batch. Everything random in it is a function of `seed` and the step.

    Args:
        model: on its device.
        optimizers: over its parameters.
        optim: label smoothing, clipping, average.
        compute: precision, compilation, micro-batches.
        seed: of dropout and stochastic depth.
        world: the processes that share a batch; None: this one.
        forward: what `vitrail.distributed.wrap_model` made of the model; None: the model, compiled or not.
        part: what is computed of the model where its first layers were computed before (`transfer.LastBlocks`); None:
            all of it.
        linear: whose products train the linear layers; None: what `compute` states, else mkl.
    """

    kind: type[ViT] = ViT
    """Of the model."""

    def __init__(
        self,
        model: ViT,
        optimizers: list[torch.optim.Optimizer],
        optim: OptimConfig,
        compute: ComputeConfig,
        seed: int,
        *,
        world: World | None = None,
        forward: nn.Module | None = None,
        part: nn.Module | None = None,
        linear: LinearBy | None = None,
    ) -> None:
        self.model, self.optimizers, self.optim, self.compute, self.seed = model, optimizers, optim, compute, seed
        self.world = world or World()
        self.skipped = ""
        self.class_weights: Tensor | None = None  # float [L], what an example of each class counts in the loss
        self.distill = DistillConfig()  # what a teacher's answers count
        self.mark: Callable[[str], object] = lambda phase: None  # is told what has just ended
        self.device = next(model.parameters()).device
        self.dtype = autocast_dtype(compute, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = _average(model, optim)
        compiled = compute.compile and forward is None
        self.part = part or model
        self.forward: nn.Module = torch.compile(self.part) if compiled else forward or self.part  # type: ignore[assignment]
        by_settings = from_settings(compute, self.device)
        self.linear: LinearBy = linear if linear is not None else by_settings.by if by_settings else "mkl"

    @property
    def evaluated(self) -> ViT:
        """The weights that are evaluated and saved, the average where there is one; whole on every process.

        Under FSDP all processes must ask for it.
        """
        tensors = self.average.tensors if self.average else self.model.state_dict()
        # Under fp8 too: evaluation is in fp32, by plain layers.
        if self.compute.precision == "fp8" or distributed.is_spread(tensors):
            return weights.build_model(self.model.config, distributed.gather_tensors(tensors), self.device, self.kind)
        return self.average.model if self.average else self.model

    def __call__(
        self,
        images: Float[Tensor, "B *input"],
        targets: Tensor,
        step: int,
        lr_factor: float,
        *,
        batch_size: int | None = None,
        num_own: int | None = None,
        teacher_logits: Float16[Tensor, "B L"] | None = None,
    ) -> Tensor:
        """Take one step.

        Args:
            images: normalised [B, C, H, W], or what `part` takes of them; this process's share of the effective batch,
                at least one.
            targets: int64 [B], or probabilities [B, L]; whatever else `loss` compares with, one an image.
            step: steps done before this one.
            lr_factor: of the peak learning rate.
            batch_size: images of the effective batch over all processes; None: those given.
            num_own: of the images given, how many count, 0 where there were fewer images than processes; None: all.
            teacher_logits: what a teacher answered for these images, up to a constant an image; None: there is none.
        Returns:
            This process's addend of the mean loss of the batch, 0-dim, still on the device. A step whose gradient is
            not finite changes nothing; `skipped` then says so, on all processes alike.
        """
        self._seed(step)
        batch_size = len(images) if batch_size is None else batch_size
        share = 1.0 if num_own is None else num_own / len(images)
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        set_lr(self.optimizers, lr_factor)
        total = torch.zeros((), device=self.device)
        # Equally often on all processes, as FSDP needs; a part may then be empty.
        micro = min(self.compute.accumulation_steps, math.ceil(batch_size / self.world.size))
        given = (images, targets) if teacher_logits is None else (images, targets, teacher_logits)
        for number, part in enumerate(zip(*(tensor.tensor_split(micro) for tensor in given), strict=True)):
            counted = len(part[0]) * share
            if not len(part[0]):
                part = tuple(tensor[:1] for tensor in given)
            last = number == micro - 1
            with distributed.accumulate_gradients(self.forward, last=last), onednn_linear(self.linear == "onednn"):
                # Processes average their gradients, which makes a mean of sums: hence the number of processes.
                addend = self.loss(self.forward, *part) * (counted / batch_size)
                self.mark("forward")
                self.scaler.scale(addend * self.world.size if self.world.size > 1 else addend).backward()
            self.mark("backward")
            total += addend.detach()
        self.skipped = self._update(total)
        if self.skipped:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        elif self.average:
            self.average.update(step)
        self.mark("optimiser")
        return total

    def loss(
        self,
        forward: nn.Module,
        images: Float[Tensor, "B *input"],
        targets: Tensor,
        teacher_logits: Float16[Tensor, "B L"] | None = None,
    ) -> Tensor:
        """The mean loss of some images, with a graph, computed as in training by the model or a wrapping of it."""
        other_size = tuple(images.shape[2:]) != pair(self.model.config.image_size)
        with self._autocast():
            logits = forward(images, interpolate_pos_encoding=other_size)["logits"].float()
        by_labels = self._loss_by_labels(logits, targets)
        if teacher_logits is None:
            return by_labels
        by_teacher = distillation_loss(logits, teacher_logits, self.distill.temperature)
        if targets.is_floating_point():
            by_teacher = by_teacher * targets.sum(1)  # 0: an image that could not be read
        return torch.lerp(by_labels, by_teacher.mean(), self.distill.weight)

    def _loss_by_labels(self, logits: Float32[Tensor, "B L"], targets: Tensor) -> Tensor:
        smoothing, counted_by, soft = self.optim.label_smoothing, self.class_weights, targets
        if smoothing and targets.is_floating_point():
            # Not cross_entropy's own, which gives a target of zeros, an image that could not be read, its share too.
            soft = targets * (1 - smoothing) + targets.sum(1, keepdim=True) * (smoothing / targets.shape[1])
            smoothing = 0.0
        if counted_by is None:
            return F.cross_entropy(logits, soft, label_smoothing=smoothing)
        # Not through cross_entropy's own `weight`, which divides by the weights in the batch: the gradient would then
        # depend on how a batch is cut into parts.
        losses = F.cross_entropy(logits, soft, label_smoothing=smoothing, reduction="none")
        return (losses * (targets @ counted_by if targets.is_floating_point() else counted_by[targets])).mean()

    def where_not_finite(
        self,
        images: Float[Tensor, "B *input"],
        targets: Tensor,
        teacher_logits: Float16[Tensor, "B L"] | None = None,
        *,
        step: int,
    ) -> str:
        """Compute a step that was skipped once more, and name the layer in which a number first was not finite.

        All processes must call it. Empty: not with these images, or not a second time.
        """
        self._seed(step)
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        with nonfinite.watching(self.model) as seen, onednn_linear(self.linear == "onednn"):
            self.loss(self.part, images, targets, teacher_logits).backward()
        found = nonfinite.first_not_finite(self.model, images, seen)
        for buffer, before in zip(self.model.buffers(), statistics, strict=True):
            buffer.copy_(before)
        self.model.zero_grad(set_to_none=True)
        return found

    def rewrap(self, forward: nn.Module) -> None:
        """Take another wrapping of the same model: which weights move has changed."""
        self.forward = forward

    def _seed(self, step: int) -> None:
        torch.manual_seed((self.seed * 1_000_003 + step + (self.world.rank << 40)) % 2**63)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def _update(self, loss: Tensor) -> str:
        """Clip and step, or skip the step on all processes when a gradient is not finite.

        Returns:
            Empty; "overflow" when gradient scaling was too large, which is how it finds its scale; "not finite".
        """
        if self.scaler.is_enabled():
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
        if self.optim.clip_norm:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.clip_norm)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        # The same on every process: it is the norm of the average.
        finite = bool(distributed.gather_tensors({"norm": norm})["norm"].isfinite())
        if finite:
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
        self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if finite:
            return ""
        bad = self.world.sum(torch.tensor(int(not bool(loss.isfinite()))))
        overflow = self.scaler.is_enabled() and not int(bad) and self.scaler.get_scale() >= 1
        return "overflow" if overflow else "not finite"


def distillation_loss(
    logits: Float32[Tensor, "B L"], teacher_logits: Float[Tensor, "B L"], temperature: float
) -> Float32[Tensor, "B"]:
    """How far a student is from its teacher on each image: T^2 KL(teacher || student), in nats, both softened by T.

    Source: arXiv:1503.02531, section 2; arXiv:2012.12877, equation 2.
    """
    student = F.log_softmax(logits / temperature, 1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, 1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def class_weights(config: OptimConfig, train_set: ImageSet, device: torch.device) -> Float32[Tensor, "L"] | None:
    """How much an example of each class counts in the loss, 1 in the mean over the examples; None: all the same."""
    if config.class_weights == "none":
        return None
    counts = np.bincount(train_set.labels, minlength=len(train_set.classes))
    values = len(train_set) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(values.astype(np.float32)).to(device)


def _average(model: ViT, config: OptimConfig) -> "WeightAverage | None":
    return WeightAverage(model, config.ema_decay, keeps_start=config.ema_keeps_start) if config.ema_decay else None


class WeightAverage:
    """Exponential moving average of a model's weights and buffers, spread over processes where they are.

    Args:
        model: the one that is trained.
        decay: per step; smaller in the first steps, min(decay, (1 + step) / (10 + step)), so that the random start
            is forgotten at once.
        keeps_start: not smaller in the first steps.
    """

    def __init__(self, model: ViT, decay: float, *, keeps_start: bool = False) -> None:
        self.source, self.decay, self.keeps_start = model, decay, keeps_start
        if distributed.is_spread(model.state_dict()):
            self.model = model
            self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        else:
            self.model = copy.deepcopy(model).eval().requires_grad_(False)
            self.tensors = self.model.state_dict()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after `step` in."""
        decay = self.decay if self.keeps_start else min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self.tensors, self.source.state_dict()
        floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        ours = distributed.local_list([mine[name] for name in floating])
        torch._foreach_lerp_(ours, distributed.local_list([theirs[name] for name in floating]), 1 - decay)
        for name in mine.keys() - set(floating):
            mine[name].copy_(theirs[name])
