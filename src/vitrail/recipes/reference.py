"""The reference system's recipe, hyper-parameter for hyper-parameter: the baseline that ours are measured against."""

from vitrail.config import (
    ArchitectureConfig,
    AugmentConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvaluationConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
)
from vitrail.recipes.cifar10 import CIFAR10_MEAN, CIFAR10_STD


def reference_scratch() -> RunConfig:
    """ViT-B/16 at 224x224 on CIFAR-10 with Adam at 1e-5: the recipe to do better than.

    Command: vitrail train reference-scratch
    Hardware: one GPU (the reference: four A30, batch 32 on each, so 128 in all; here 32 on one)
    Time: not measured on a GPU yet; days for one epoch on two CPU cores
    Expected: 51.66 % after 5 epochs, 79.70 % after 80 (--schedule.epochs 80), the best epoch chosen on the test set;
        figures of the reference on four GPUs, not yet repeated.
    Keeps: the checkpoint of the best epoch too, with weights, optimiser state, epoch and accuracy
    Source: the reference system: flip, rotation 15 degrees, crop with padding 4, colour jitter .2/.2/.2/.1, CIFAR mean
        and std, Adam 1e-5, batch 32 per GPU, mixed precision
    """
    return RunConfig(
        data=DataConfig(spec="cifar10", image_size=224, batch_size=32, mean=CIFAR10_MEAN, std=CIFAR10_STD),
        model=ArchitectureConfig(),
        augment=AugmentConfig(
            flip=0.5, rotation=15.0, crop_padding=4, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1
        ),
        optim=OptimConfig(name="adam", lr=1e-5, weight_decay=0.0, decay_all=True),
        schedule=ScheduleConfig(epochs=5, shape="constant"),
        evaluation=EvaluationConfig(split="test", every_epochs=1, batch_size=100),
        compute=ComputeConfig(precision="fp16"),
        checkpoint=CheckpointConfig(keep_best=True),
    )
