"""What makes a model's backward pass one for all processes: compile first, then DDP or FSDP2.

DDP (arXiv:2006.15704): every process has all weights, gradients are averaged. FSDP2 (`fully_shard`; arXiv:2304.11277
describes its predecessor): each process keeps a part of weights, gradients and optimiser state, for models that do not
fit; a block's weights are together only while it computes.
"""

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vitrail.config import ParallelConfig
from vitrail.distributed.world import World
from vitrail.errors import ConfigError
from vitrail.model import ViT


def wrap_model(model: ViT, config: ParallelConfig, world: World, *, compiled: bool) -> nn.Module:
    """What the forward pass is called on. Under FSDP the parameters of `model` itself become parts.

    Raises:
        ConfigError: FSDP with a part of the model that it cannot spread.
    """
    if world.size == 1:
        return torch.compile(model) if compiled else model  # type: ignore[return-value]
    device = next(model.parameters()).device
    if config.strategy == "fsdp":
        if any(True for _ in model.buffers()):
            raise ConfigError(
                "parallel.strategy fsdp cannot hold statistics of batch norms, which this model's stem has.",
                got="fsdp",
                expected="ddp",
            )
        from torch.distributed.device_mesh import init_device_mesh  # takes long; one process never needs it
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (world.size,))
        for block in model.blocks:
            if compiled:
                block.compile()
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    forward: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
    return DistributedDataParallel(
        forward,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=model.mask_token is not None,
    )


@contextlib.contextmanager
def accumulate_gradients(forward: nn.Module, *, last: bool) -> Iterator[None]:
    """Leave the gradients of a micro-batch where they are; those of the last one bring the sum together."""
    if isinstance(forward, DistributedDataParallel):
        with contextlib.nullcontext() if last else forward.no_sync():
            yield
    else:
        fsdp = sys.modules.get("torch.distributed.fsdp")  # a module that it wrapped had it imported
        if fsdp is not None and isinstance(forward, fsdp.FSDPModule):
            forward.set_requires_gradient_sync(last)  # type: ignore[operator]
        yield


def batch_norm_is_local(model: ViT, world: World) -> bool:
    """Whether each process normalises with statistics of its own images: then their number changes the result."""
    return world.size > 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
