"""State that is spread over processes, as whole tensors and back: a checkpoint does not depend on their number."""

import sys
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def gather_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on every process; those that are whole already are passed on. All processes must call it."""
    return {name: tensor.full_tensor() if _is_part(tensor) else tensor for name, tensor in tensors.items()}


def scatter_tensor(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread over the processes as `like` is; itself where `like` is whole.

    Every process must call it with the same values.
    """
    if not _is_part(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    device = like.to_local().device
    return distribute_tensor(whole.to(device), like.device_mesh, like.placements, src_data_rank=None)


def is_spread(tensors: dict[str, Tensor]) -> bool:
    """Whether any of them is spread over processes."""
    return any(_is_part(tensor) for tensor in tensors.values())


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; the whole where it is not spread."""
    return tensor.to_local() if _is_part(tensor) else tensor


def local_list(tensors: list[Tensor]) -> list[Tensor]:
    """The parts of several tensors."""
    return [local(tensor) for tensor in tensors]


@torch.no_grad()
def copy_whole(target: Tensor, whole: Tensor) -> None:
    """Fill a tensor, spread or not, with whole values that every process has."""
    local(target).copy_(local(scatter_tensor(whole, target)))


def _is_part(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether a tensor is spread. Where that module of torch was never imported, which takes long, none can be."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)
