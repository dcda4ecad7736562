"""Learning from images without labels: `vitrail pretrain --data SPEC`, then `vitrail finetune` with labels."""

from dataclasses import replace

from vitrail.config import AugmentConfig, EvaluationConfig, OptimConfig, PretrainConfig, RunConfig, ScheduleConfig
from vitrail.recipes.cifar10 import cifar10_cpu


def pretrain_cpu() -> RunConfig:
    """The plain ViT of cifar10-cpu learns from small images without labels on a CPU: SimMIM, 60 % of each image masked.

    Command: vitrail pretrain pretrain-cpu --data SPEC
    Hardware: a laptop's CPU for images of 32 pixels
    Time: not measured yet
    Expected: a gain where there are few labels (docs/finetune.md has the figures)
    Source: SimMIM, arXiv:2111.09886: mask ratio 0.6, a linear layer to the pixels, L1 on the masked ones; Muon after
        Jordan et al. 2024
    """
    config = cifar10_cpu()
    return replace(
        config,
        model=replace(config.model, use_mask_token=True),
        augment=AugmentConfig(flip=0.5, crop_padding=4, fill="reflect"),
        optim=OptimConfig(name="muon", lr=2e-3, muon_lr=0.02, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=ScheduleConfig(epochs=20, warmup_fraction=0.05, shape="linear"),
        evaluation=EvaluationConfig(split="val", every_epochs=1),
        pretrain=PretrainConfig(objective="simmim"),
    )
