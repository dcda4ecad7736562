"""Where a run computes, over how many processes, and when it saves. A docstring under a field is its help."""

from dataclasses import dataclass
from typing import Literal

from vitrail.config.bounds import require_bounded
from vitrail.config.checks import require_at_most, require_not_negative, require_positive

LARGEST_NUM_THREADS = 1024
"""Above it a system may refuse to start them, in the middle of a run."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Device, precision, memory."""

    device: str = "auto"
    """auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "fp32"
    """Of the forward pass: fp16 with gradient scaling and bf16 through autocast; the weights stay fp32. fp16 needs a
    GPU; bf16 a GPU, or a CPU with instructions for it (AVX-512 BF16, AMX). A CPU without them computes in fp32. fp8:
    bf16, and products of the encoder's linear layers in fp8 (torchao; Ada, Hopper or newer; only faster with
    compile)."""
    compile: bool = False
    """Compile the model with torch.compile."""
    checkpoint_activations: bool = False
    """Keep only the input of each block and recompute the block in the backward pass: less memory, about a third more
    time, the same gradients."""
    cache_tokens: bool = False
    """With optim.train-last: compute once what the frozen layers make of each training image, and of its mirror image
    where augment.flip is on; keep it in fp16 in the cache folder, within data.cache-gib, and train on that. No other
    augmentation is possible then."""
    accumulation_steps: int = 1
    """Micro-batches per optimiser step; the batch is split, never enlarged."""
    num_threads: int = 0
    """CPU threads; 0: as many as torch chooses."""
    cpu_linear: Literal["auto", "mkl", "onednn"] = "auto"
    """Library for the matrix products of linear layers when training on a CPU in fp32. auto: the faster one on this
    machine, measured once on the run's own shapes; mkl if there is nothing to gain. Evaluation always uses torch's."""
    max_skipped_steps: int = 3
    """A step whose gradient is not finite is skipped; after this many in a row the run stops."""

    def __post_init__(self) -> None:
        require_bounded("compute", self)
        require_positive("compute.accumulation_steps", self.accumulation_steps)
        require_not_negative("compute.num_threads", self.num_threads)
        require_at_most("compute.num_threads", self.num_threads, LARGEST_NUM_THREADS)
        require_positive("compute.max_skipped_steps", self.max_skipped_steps)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Saving the whole state of the run."""

    every_steps: int = 0
    """Save every N steps as well as after each epoch; 0: only after each epoch."""
    keep: int = 1
    """How many of the newest checkpoints to keep."""
    keep_best: bool = False
    """Keep the checkpoint of the best evaluation as well, with its optimiser state."""
    asynchronous: bool = True
    """Write in the background, from a copy of the state in memory, while training continues."""
    on_error: Literal["stop", "retry"] = "stop"
    """When a checkpoint cannot be saved: stop with exit status 74, or continue training and try again at the next
    one."""

    def __post_init__(self) -> None:
        require_bounded("checkpoint", self)
        require_not_negative("checkpoint.every_steps", self.every_steps)
        require_positive("checkpoint.keep", self.keep)


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How several processes, started with --nproc or torchrun, share the work."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: all weights on every process, gradients averaged; fsdp: weights, gradients and optimiser state spread over
    the processes, for models that do not fit."""
    timeout_seconds: float = 60.0
    """A process ends, and the run with it, when it has got no further for so long, or for twice as long as the
    slowest step or batch so far took; start-up is not counted, and the first step may take ten times as long."""
    silence_seconds: float = 0.0
    """The run ends when a process has not been heard of for so long: it was stopped, or cannot be reached. 0: only
    the time-out notices that. 6 is enough where all processes run all the time."""

    def __post_init__(self) -> None:
        require_bounded("parallel", self)
        require_positive("parallel.timeout_seconds", self.timeout_seconds)
        require_not_negative("parallel.silence_seconds", self.silence_seconds)
