"""CIFAR-10 from scratch: recipes for a CPU, and one for a GPU.

Scores are of the final weights on the 10,000 test images after training on all 50,000; everything was chosen on a
45,000 / 5,000 split of the training set. Trials: docs/LOG.md.
"""

from dataclasses import replace

from vitrail.config import (
    ArchitectureConfig,
    AugmentConfig,
    ComputeConfig,
    DataConfig,
    EvaluationConfig,
    InitConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
)

# Of the 50,000 training images, pixels in [0, 1].
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

# A plain ViT for images of 32 pixels that transformers and timm can read too.
SMALL_PLAIN = ArchitectureConfig(
    patch_size=4,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=2,
    mlp_ratio=2.0,
    pooling="mean",
    use_class_token=False,
    init="zero-residual",
)
# Where the processor has instructions for it, and fp32 elsewhere: faster, and the same accuracy (docs/LOG.md).
BF16 = ComputeConfig(precision="bf16")
MUON = OptimConfig(name="muon", lr=2e-3, muon_lr=0.02, betas=(0.9, 0.95), weight_decay=0.05, label_smoothing=0.1)


def small_images_first(epochs: int) -> ScheduleConfig:
    """Small images first: most of what is learnt early does not need the detail, and costs a quarter."""
    return ScheduleConfig(
        epochs=epochs,
        warmup_fraction=0.05,
        shape="linear",
        progressive_scales=(0.5, 0.75),
        progressive_until=(0.35, 0.7),
    )


def cifar10_data(batch_size: int) -> DataConfig:
    """CIFAR-10 at its own size."""
    return DataConfig(spec="cifar10", image_size=32, batch_size=batch_size, mean=CIFAR10_MEAN, std=CIFAR10_STD)


def cifar10_cpu() -> RunConfig:
    """Plain ViT on CIFAR-10 in five minutes on a CPU, ten on one without instructions for bf16.

    Its relative positions have no place in transformers and timm: --no-model.relative-positions trains a model that
    convert can write for them.

    Command: vitrail train cifar10-cpu
    Hardware: two CPU cores (AMD EPYC)
    Time: 5.4 min of training in bf16; in fp32 7.9 to 8.9 min with AVX-512, about 10 min with AVX-512 switched off
    Expected: 86.1 % +- 0.7 on the test set, final weights, 5 seeds; in fp32 86.1 % +- 0.7, 5 seeds
    Source: ours; relative positions arXiv:2103.14030; whitened patches and alternating flips after arXiv:2404.00498;
        Muon after Jordan et al. 2024
    """
    return RunConfig(
        data=cifar10_data(128),
        model=replace(SMALL_PLAIN, hidden_size=96, num_attention_heads=6, relative_positions=True),
        init=InitConfig(patches="whitened"),
        augment=AugmentConfig(flip=0.5, flip_kind="alternating", crop_padding=2, fill="reflect"),
        optim=replace(MUON, lr=5e-3),
        schedule=small_images_first(16),
        evaluation=EvaluationConfig(split="test", every_epochs=0),
        compute=BF16,
    )


def cifar10_cpu_hour() -> RunConfig:
    """Plain ViT on CIFAR-10 in an hour on a CPU: larger than that of cifar10-cpu, and half of its batches CutMix.

    Its relative positions have no place in transformers and timm: --no-model.relative-positions trains a model that
    convert can write for them.

    Command: vitrail train cifar10-cpu-hour
    Hardware: two CPU cores (AMD EPYC)
    Time: 54.6 min of training in fp32 with AVX-512; on one core, a step in bf16 takes 0.4 of that in fp32
    Expected: 89.4 % on the test set, final weights, 1 seed, in fp32
    Source: ours; that of cifar10-cpu, and CutMix arXiv:1905.04899
    """
    short = cifar10_cpu()
    return replace(
        short,
        model=replace(short.model, hidden_size=128, num_attention_heads=8, num_hidden_layers=6),
        augment=replace(short.augment, crop_padding=4, cutmix=1.0, mix_probability=0.5),
        schedule=small_images_first(45),
    )


def cifar10_cpu_conv() -> RunConfig:
    """ViT + conv on CIFAR-10 in five minutes on a CPU, ten on one without instructions for bf16: five 3x3 convolutions
    come before the encoder.

    For vitrail alone: transformers and timm have no place for a ViT + conv, so convert cannot write it for them.

    Command: vitrail train cifar10-cpu-conv
    Hardware: two CPU cores (AMD EPYC)
    Time: 5.2 min of training in bf16; 7.9 min in fp32 with AVX-512
    Expected: 87.3 % +- 0.2 on the test set, final weights, 3 seeds
    Source: ours; early convolutions after arXiv:2106.14881, relative positions arXiv:2103.14030; whitened filters and
        alternating flips after arXiv:2404.00498; Muon after Jordan et al. 2024
    """
    return RunConfig(
        data=cifar10_data(128),
        model=ArchitectureConfig(
            patch_size=1,
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=8,
            mlp_ratio=2.0,
            pooling="mean",
            use_class_token=False,
            init="zero-residual",
            relative_positions=True,
            stem_channels=(32, 64, 64, 128, 128),
            stem_strides=(1, 1, 1, 1, 1),
            stem_pools=(2, 1, 2, 1, 2),
        ),
        init=InitConfig(patches="whitened"),
        augment=AugmentConfig(flip=0.5, flip_kind="alternating", crop_padding=2, fill="reflect"),
        optim=replace(MUON, lr=5e-3, muon_lr=0.015),
        schedule=small_images_first(16),
        evaluation=EvaluationConfig(split="test", every_epochs=0),
        compute=BF16,
    )


def cifar10() -> RunConfig:
    """Plain ViT on CIFAR-10 in minutes on one GPU.

    Command: vitrail train cifar10
    Hardware: one GPU with bf16
    Time: not measured yet
    Expected: not measured yet; 93.5 to 95 % is the estimate from the published 9x192 (93.65 %, 300 epochs)
    Source: ours; augmentation and depth after arXiv:2210.07240, Muon after Jordan et al. 2024
    """
    return RunConfig(
        data=cifar10_data(512),
        model=ArchitectureConfig(
            patch_size=4,
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            pooling="mean",
            use_class_token=False,
            stochastic_depth=0.1,
        ),
        augment=AugmentConfig(
            flip=0.5, crop_padding=4, policy="rand-augment", erasing=0.25, cutmix=1.0, mix_probability=0.5
        ),
        optim=OptimConfig(name="muon", lr=1e-3, muon_lr=0.02, label_smoothing=0.1, ema_decay=0.999),
        schedule=ScheduleConfig(epochs=200, warmup_fraction=0.025),
        evaluation=EvaluationConfig(split="test", every_epochs=0, batch_size=2000),
        compute=ComputeConfig(precision="bf16", compile=True),
    )
