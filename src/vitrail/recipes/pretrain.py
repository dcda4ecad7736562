"""Learning from images without labels: `vitrail pretrain --data SPEC`, then `vitrail finetune` with labels."""

from dataclasses import replace

from vitrail.config import AugmentConfig, EvaluationConfig, PretrainConfig, RunConfig, ScheduleConfig
from vitrail.recipes.cifar10 import BF16, MUON, cifar10_cpu, cifar10_data


def pretrain_cpu() -> RunConfig:
    """A small plain ViT, that of cifar10-cpu, learns from small images without labels on a CPU: SimMIM, 60 % of each
    image masked.

    Command: vitrail pretrain pretrain-cpu --data SPEC
    Hardware: a laptop's CPU for images of 32 pixels
    Time: 20 epochs, 50 s each for 45,000 images of 32 pixels on one core (AMD EPYC, bf16)
    Expected: a gain where there are few labels: 43.1 % after eight epochs and 500 labels of CIFAR-10, from scratch
        41.1 % (three seeds; docs/finetune.md)
    Source: SimMIM, arXiv:2111.09886: mask ratio 0.6, a linear layer to the pixels, L1 on the masked ones; Muon after
        Jordan et al. 2024
    """
    return RunConfig(
        data=cifar10_data(128),
        model=replace(cifar10_cpu().model, use_mask_token=True),
        augment=AugmentConfig(flip=0.5, crop_padding=4, fill="reflect"),
        optim=replace(MUON, label_smoothing=0.0),
        schedule=ScheduleConfig(epochs=20, warmup_fraction=0.05, shape="linear"),
        evaluation=EvaluationConfig(split="val", every_epochs=1),
        compute=BF16,
        pretrain=PretrainConfig(objective="simmim"),
    )
