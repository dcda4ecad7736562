"""Optimisers: which parameter is moved by which rule, and Muon.

Paper: Adam arXiv:1412.6980, AdamW arXiv:1711.05101. Muon: Jordan et al. 2024, KellerJordan/Muon.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail import distributed
from vitrail.config import OptimConfig
from vitrail.model import ViT

# Quintic of the Newton-Schulz iteration, chosen for slope at zero rather than for convergence to exactly 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
# Tables of relative positions begin at zero and have to become as large as scores: they move faster (docs/LOG.md).
_TABLE_RATE = 4.0


class Muon(torch.optim.Optimizer):
    """Momentum whose step for each matrix is replaced by the nearest matrix with equal singular values.

    Args:
        params: matrices [rows, columns], fused ones [parts * rows, columns], or kernels [rows, ...], which are
            taken for matrices with the other axes flattened.
        parts: matrices stacked in each parameter, as 3 in a fused query, key and value projection.
        lr: length of a step; the update has singular values near 1, times sqrt(max(1, rows / columns)).
        momentum: Nesterov momentum in [0, 1).
        weight_decay: decoupled, times lr.
        dtype: of the products that orthogonalise; None: as orthogonalise chooses.
    Source: KellerJordan/Muon.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        parts: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": parts})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    same_shape[p.shape].append(p)
            for params in same_shape.values():
                self._step_together(params, group)

    def _step_together(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Move parameters of one shape."""
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        velocities = [self.state[p]["momentum"] for p in params]
        gradients = [cast(Tensor, p.grad) for p in params]
        torch._foreach_lerp_(velocities, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, velocities, group["momentum"])
        matrices = torch.stack(ahead).flatten(2).unflatten(1, (group["parts"], -1))
        step = group["lr"] * max(1.0, matrices.shape[-2] / matrices.shape[-1]) ** 0.5
        updates = orthogonalise(matrices, dtype=self.dtype).view(len(params), *params[0].shape)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(updates.unbind()), alpha=-step)


def orthogonalise(
    matrices: Float[Tensor, "*batch rows columns"], steps: int = 5, *, dtype: torch.dtype | None = None
) -> Float[Tensor, "*batch rows columns"]:
    """Bring the singular values of each matrix near 1 and keep its singular vectors, whatever its scale.

    Five steps leave singular values between about 0.7 and 1.15, which serves an update as well as exactly 1.

    Args:
        dtype: of the products; None: bf16 on CUDA, fp32 elsewhere.
    Source: KellerJordan/Muon, `zeropower_via_newtonschulz5`.
    """
    a, b, c = _QUINTIC
    x = matrices.to(dtype or (torch.bfloat16 if matrices.is_cuda else torch.float32))
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-20)).view(-1, *x.shape[-2:])
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape).to(matrices.dtype)


def build_optimizers(
    model: ViT, config: OptimConfig, num_examples: int = 0, *, dtype: torch.dtype | None = None
) -> list[torch.optim.Optimizer]:
    """The optimisers of a run; each parameter is in exactly one group of one of them.

    Biases, norms, scales, tokens and positions are not decayed unless config.decay_all says so. Tables of relative
    positions move at four times the rate. Every group keeps its peak learning rate under "peak_lr", which the schedule
    multiplies.

    Args:
        num_examples: of the training set; matters where config.lr_examples is more; 0: unknown.
        dtype: of autocast; Muon's products have it, too; None: fp32.
    """
    few = min(1.0, num_examples / config.lr_examples) ** 0.5 if num_examples and config.lr_examples else 1.0
    matrices: dict[tuple[float, int], list[nn.Parameter]] = defaultdict(list)
    others: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    exempt = model.no_weight_decay()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = config.layer_decay ** (model.config.num_hidden_layers + 1 - layer_of(name, model))
        if name.endswith("relative.table"):
            scale *= _TABLE_RATE
        if config.name == "muon" and not config.lora_rank and _is_hidden_matrix(name, parameter, model):
            matrices[scale, 3 if name.endswith("attn.qkv.weight") else 1].append(parameter)
        else:
            decayed = config.decay_all or (parameter.ndim >= 2 and name not in exempt)
            others[scale, config.weight_decay if decayed else 0.0].append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": params, "weight_decay": decay, "lr": config.lr * scale}
        for (scale, decay), params in sorted(others.items(), key=lambda item: item[0], reverse=True)
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    optimizers: list[torch.optim.Optimizer] = []
    if config.name == "sgd":
        optimizers.append(torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused))
    elif config.name == "adam":
        optimizers.append(torch.optim.Adam(groups, lr=config.lr, betas=config.betas, fused=fused))
    else:
        optimizers.append(torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused))
    hidden: list[dict[str, Any]] = [
        {"params": params, "parts": parts, "lr": config.muon_lr * scale}
        for (scale, parts), params in sorted(matrices.items(), key=lambda item: (-item[0][0], item[0][1]))
    ]
    if hidden:
        optimizers.append(
            Muon(
                hidden,
                lr=config.muon_lr,
                momentum=config.muon_momentum,
                weight_decay=config.muon_weight_decay,
                dtype=torch.bfloat16 if dtype is torch.bfloat16 else None,
            )
        )
    for optimizer in optimizers:
        _fill_momentum(optimizer)
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"] * few
    return optimizers


def layer_of(name: str, model: ViT) -> int:
    """Depth of a parameter: 0 for patches, tokens and positions, i + 1 for block i, one more for what comes after.

    Source: BEiT, arXiv:2106.08254, as in microsoft/unilm:beit/optim_factory.py.
    """
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    before = ("stem.", "patch_embed.", "cls_token", "dist_token", "reg_token", "mask_token", "pos_embed")
    return 0 if name.startswith(before) else model.config.num_hidden_layers + 1


def _is_hidden_matrix(name: str, parameter: nn.Parameter, model: ViT) -> bool:
    """Whether Muon moves it: matrices of the encoder, and what lies between the stem's first convolution and there.

    What touches pixels or logits, and what is no matrix, goes with AdamW, as KellerJordan/Muon advises.
    """
    if name.startswith("blocks."):
        return parameter.ndim == 2
    after_pixels = name.startswith("stem.") and not name.startswith("stem.0.")
    return parameter.ndim == 4 and (
        after_pixels or (bool(model.config.stem_channels) and name == "patch_embed.proj.weight")
    )


def set_lr(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of all optimisers as named tensors: "optimiser.parameter.key"."""
    return {
        f"{i}.{index}.{key}": value
        for i, optimizer in enumerate(optimizers)
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def wrong_optimizer_tensor(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> str | None:
    """The first tensor that `optimizer_tensors` of these optimisers cannot have given; None: there is none."""
    moved = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    found: dict[tuple[int, int], set[str]] = defaultdict(set)
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(\d{1,3})\.(\d{1,9})\.([a-z_]+)", name)
        if not match or int(match[1]) >= len(moved) or int(match[2]) >= len(moved[int(match[1])]):
            return name
        i, index, key = int(match[1]), int(match[2]), match[3]
        p = moved[i][index]
        shape, dtype = ((), torch.float32) if key == "step" else (p.shape, p.dtype)
        if key not in _state_keys(optimizers[i]) or tensor.shape != shape or tensor.dtype != dtype:
            return name
        found[i, index].add(key)
    short = (place for place, keys in found.items() if keys != _state_keys(optimizers[place[0]]))
    return next((f"{i}.{index}" for i, index in short), None)


def _state_keys(optimizer: torch.optim.Optimizer) -> set[str]:
    if isinstance(optimizer, Muon):
        return {"momentum"}
    return {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}


def load_optimizer_tensors(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, into optimisers built from the same configuration."""
    states: list[dict[int, dict[str, Tensor]]] = [defaultdict(dict) for _ in optimizers]
    moved = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    for name, tensor in tensors.items():
        i, index, key = name.split(".")
        parameter = moved[int(i)][int(index)]
        alike = tensor.shape == parameter.shape
        states[int(i)][int(index)][key] = distributed.scatter_tensor(tensor, parameter) if alike else tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": dict(state), "param_groups": optimizer.state_dict()["param_groups"]})
        _fill_momentum(optimizer)


def _fill_momentum(optimizer: torch.optim.Optimizer) -> None:
    """SGD moves parameters that joined later, or whose momentum is missing, only beside others that lack it too: give
    all of them one. Zeros make the first step that which torch makes without.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for p in group["params"] if group["momentum"] else ():
                optimizer.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
