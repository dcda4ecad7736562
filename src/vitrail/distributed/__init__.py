"""Several processes: the only room that speaks torch.distributed."""

from vitrail.distributed import faults
from vitrail.distributed.launch import is_launched, is_restarted, launch, leave_launch, rank_in_launch
from vitrail.distributed.shards import copy_whole, gather_tensors, is_spread, local_list, scatter_tensor
from vitrail.distributed.world import World, check_one_run_directory, join_processes
from vitrail.distributed.wrap import accumulate_gradients, batch_norm_is_local, wrap_model

__all__ = [
    "World",
    "accumulate_gradients",
    "batch_norm_is_local",
    "check_one_run_directory",
    "copy_whole",
    "faults",
    "gather_tensors",
    "is_launched",
    "is_spread",
    "join_processes",
    "launch",
    "rank_in_launch",
    "leave_launch",
    "local_list",
    "is_restarted",
    "scatter_tensor",
    "wrap_model",
]
