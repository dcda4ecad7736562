"""Several processes: the only room that speaks torch.distributed."""

from vitrail.distributed import faults
from vitrail.distributed.launch import inside_launch, launch, launched_rank, leave_launch, restarted
from vitrail.distributed.shards import copy_whole, gathered, is_spread, local_list, scattered
from vitrail.distributed.world import World, check_one_run_directory, join_processes
from vitrail.distributed.wrap import accumulating, batch_norm_is_local, wrapped

__all__ = [
    "World",
    "accumulating",
    "batch_norm_is_local",
    "check_one_run_directory",
    "copy_whole",
    "faults",
    "gathered",
    "inside_launch",
    "is_spread",
    "join_processes",
    "launch",
    "launched_rank",
    "leave_launch",
    "local_list",
    "restarted",
    "scattered",
    "wrapped",
]
