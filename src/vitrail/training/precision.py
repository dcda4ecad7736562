"""The number types of training: autocast, and fp8 for the encoder's linear layers."""

import importlib.util

import torch
from torch import nn

from vitrail.config import ComputeConfig
from vitrail.errors import ConfigError, install_hint
from vitrail.model import ViT

FP8_CAPABILITY = (8, 9)  # the first with matrix units for fp8: Ada; Hopper is (9, 0)


def has_cpu_bf16() -> bool:
    """Whether this CPU multiplies matrices of bf16 numbers faster than fp32: AVX-512 BF16 (AMD since Zen 4) or AMX
    (Intel's Xeons since Sapphire Rapids).
    """
    if not torch.backends.mkldnn.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast_dtype(config: ComputeConfig, device: torch.device) -> torch.dtype | None:
    """The type of the forward pass under autocast; None: full fp32.

    A CPU computes in bf16 where it has instructions for that, and in fp32 whatever else is asked: without such
    instructions, half-precision types are several times slower than fp32.
    """
    if config.precision == "fp32" or (device.type == "cpu" and not (config.precision == "bf16" and has_cpu_bf16())):
        return None
    return torch.float16 if config.precision == "fp16" else torch.bfloat16


def to_fp8(model: ViT, compute: ComputeConfig, device: torch.device) -> None:
    """Let the matrix products of the encoder's linear layers be of fp8 numbers, scaled a tensor at a time.

    The weights and their names stay what they are; patch embedding and classifier are not touched. Does nothing
    unless compute.precision is fp8.

    Raises:
        ConfigError: this device has no matrix units for fp8, or torchao is not installed.
    Source: arXiv:2209.05433 (the formats); pytorch/ao:torchao/float8.
    """
    if compute.precision != "fp8":
        return
    capability: tuple[int, int] = (0, 0)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
    if tuple(capability) < FP8_CAPABILITY:
        named = f"{torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
        raise ConfigError(
            "compute.precision fp8 needs a GPU with matrix units for it.",
            got=named,
            expected="a GPU of the Ada, Hopper or Blackwell generation",
            do="Use --compute.precision bf16.",
        )
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError(
            "compute.precision fp8 needs torchao.",
            got="no package torchao",
            do=f"{install_hint('torchao')}, or use --compute.precision bf16.",
        )
    from torchao.float8 import convert_to_float8_training  # type: ignore[import-not-found]

    def is_wanted(module: nn.Module, name: str) -> bool:
        fits = isinstance(module, nn.Linear) and module.in_features % 16 == 0 and module.out_features % 16 == 0
        return fits and name.startswith("blocks.")

    convert_to_float8_training(model, module_filter_fn=is_wanted)
