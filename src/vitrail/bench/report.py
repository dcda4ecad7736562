"""What one model does on this machine, and where the time goes: the measurement behind `vitrail bench`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from vitrail import data
from vitrail.bench import peers
from vitrail.bench.ceiling import BACKWARD, forward_operations, matrix_peak
from vitrail.bench.fresh import peak_memory_mib
from vitrail.bench.measure import compare, rate_of
from vitrail.bench.phases import Training, random_images
from vitrail.config import RunConfig, ViTConfig
from vitrail.model import ViT
from vitrail.run.environment import cpu_name
from vitrail.runtime.device import pick_device
from vitrail.training.linear_kernels import choose_linear_kernels
from vitrail.training.machine import check_can_compile, keep_freed_memory
from vitrail.training.optim import build_optimizers
from vitrail.training.precision import autocast_dtype
from vitrail.training.step import TrainStep

ROUNDS = 3


def measure(config: RunConfig, *, num_labels: int, seconds: float, with_peers: bool) -> dict[str, Any]:
    """Measure training and inference of a run's model on random images.

    Args:
        config: model, batch, augmentation, optimiser, device.
        num_labels: classes.
        seconds: least length of each measurement.
        with_peers: beside timm and transformers, where they are installed and have the architecture.
    Returns:
        JSON values: images a second, shares of the measured matrix peak, peak memory, fractions of the time.
    Raises:
        ConfigError: no such device, or no compiler for compute.compile.
    """
    device = pick_device(config.compute.device)
    check_can_compile(config.compute, device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    preprocessing = data.preprocessing_for(config.data)
    image_set = random_images(2 * config.data.batch_size, num_labels, preprocessing)
    geometry = ViTConfig.of(
        config.model,
        preprocessing.image_size,
        num_channels=preprocessing.num_channels,
        num_labels=len(image_set.classes),
    )
    model = ViT(geometry).to(device)
    training = Training(config, model, image_set, preprocessing)
    training.step()
    train_rate = rate_of(training.step, seconds)
    clock = training.time_phases()
    rate_of(training.step, seconds)
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_memory_mib()
    dtype = autocast_dtype(config.compute, device)
    peak = matrix_peak(device, dtype or torch.float32, seconds=min(seconds, 2.0))
    fp32_peak = peak if device.type == "cpu" and not dtype else matrix_peak(device, seconds=0.5)
    infer = _inference(model, geometry, config.data.batch_size, device)
    infer()
    infer_rate, operations = rate_of(infer, seconds), forward_operations(geometry)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": config.compute.precision if dtype else "fp32",
        "batch_size": config.data.batch_size,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "matrix_peak_gflops": peak / 1e9,
        "training": {
            "images_per_second": train_rate,
            "share_of_peak": train_rate * operations * (1 + BACKWARD) / peak,
            "peak_memory_mib": memory,
            "cpu_linear": training.train_step.linear,
        },
        "inference": {"images_per_second": infer_rate, "share_of_peak": infer_rate * operations / fp32_peak},
        "fractions": clock.fractions(),
        "peers": _beside_peers(config, geometry, device, seconds) if with_peers else None,
    }


def _inference(model: ViT, geometry: ViTConfig, batch_size: int, device: torch.device) -> Callable[[], int]:
    size = geometry.image_size if isinstance(geometry.image_size, tuple) else (geometry.image_size,) * 2
    images = torch.randn(batch_size, geometry.num_channels, *size, device=device)

    @torch.inference_mode()
    def infer() -> int:
        model.eval()(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return batch_size

    return infer


def _beside_peers(config: RunConfig, geometry: ViTConfig, device: torch.device, seconds: float) -> dict[str, Any]:
    """Plain steps on one batch that lies on the device, AdamW, by turns."""
    side = geometry.image_size if isinstance(geometry.image_size, tuple) else (geometry.image_size,) * 2
    images = torch.randn(config.data.batch_size, geometry.num_channels, *side, device=device)
    labels = torch.randint(geometry.num_labels, (len(images),), device=device)
    adamw = replace(config, optim=replace(config.optim, name="adamw", ema_decay=0.0, clip_norm=0.0))
    ours = plain_steps(adamw, geometry, images, labels)
    dtype = autocast_dtype(config.compute, device)
    works, missing = {"vitrail": ours}, dict[str, str]()
    for name in peers.PEERS if peers.can_build(geometry) else ():
        try:
            works[name] = peers.trainer(peers.build(name, geometry), images, labels, dtype)
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit this torch
            missing[name] = str(error).splitlines()[0]
    found = compare(works, unit="images", rounds=ROUNDS, seconds=seconds)
    return {"training": found.to_json("vitrail"), "table": found.table("vitrail"), "not_here": missing}


def plain_steps(
    config: RunConfig, geometry: ViTConfig, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], int]:
    """Our training step on one batch that lies on the device."""
    model = ViT(geometry).to(images.device).train()
    linear = choose_linear_kernels(config.compute, model, len(images)).by
    optimizers = build_optimizers(model, config.optim, dtype=autocast_dtype(config.compute, images.device))
    step = TrainStep(model, optimizers, config.optim, config.compute, seed=0, linear=linear)
    count = 0

    def work() -> int:
        nonlocal count
        step(images, labels, count, 1.0)
        count += 1
        if images.is_cuda:
            torch.cuda.synchronize()
        return len(images)

    return work
