"""CIFAR-100 on a CPU: the weights that come with the package, `builtin:NAME`, are made by these.

The score is of the final weights on the 10,000 test images; nothing was chosen on them. Trials: docs/LOG.md.
"""

from dataclasses import replace

from vitrail.config import AugmentConfig, EvaluationConfig, InitConfig, RunConfig
from vitrail.recipes.cifar10 import BF16, MUON, SMALL_PLAIN, cifar10_cpu_conv, cifar10_data, small_images_first

# Of the training images, pixels in [0, 1].
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)

_AUGMENT = AugmentConfig(
    flip=0.5, flip_kind="alternating", crop_padding=4, fill="reflect", cutmix=1.0, mix_probability=0.5
)


def _on_cifar100(config: RunConfig, epochs: int) -> RunConfig:
    return replace(
        config,
        data=replace(config.data, spec="cifar100", mean=CIFAR100_MEAN, std=CIFAR100_STD),
        schedule=small_images_first(epochs),
    )


def cifar100_cpu() -> RunConfig:
    """Plain ViT on CIFAR-100, with a class token: made for fine-tuning and looking into.

    Command: vitrail train cifar100-cpu
    Hardware: one CPU core (AMD EPYC), bf16
    Time: 47 min of training, other work beside it
    Expected: 61.4 % (1 seed)
    Source: ours; that of cifar10-cpu without relative positions, and CutMix arXiv:1905.04899; no label smoothing, which
        makes features worse to transfer (arXiv:2010.16402)
    """
    model = replace(
        SMALL_PLAIN, hidden_size=96, num_attention_heads=6, num_hidden_layers=5, use_class_token=True, pooling="cls"
    )
    config = RunConfig(
        data=cifar10_data(128),
        model=model,
        init=InitConfig(patches="whitened"),
        augment=_AUGMENT,
        optim=replace(MUON, lr=5e-3, label_smoothing=0.0),
        evaluation=EvaluationConfig(split="test", every_epochs=0),
        compute=BF16,
    )
    return _on_cifar100(config, epochs=60)


def cifar100_cpu_conv() -> RunConfig:
    """ViT + conv on CIFAR-100: five 3x3 convolutions before the encoder; as good to fine-tune as 8 MB allow.

    For vitrail alone: transformers and timm have no place for a ViT + conv, so convert cannot write it for them.

    Command: vitrail train cifar100-cpu-conv
    Hardware: one CPU core (AMD EPYC), bf16
    Time: 51 min of training, other work beside it
    Expected: 66.0 % (1 seed)
    Source: ours; that of cifar10-cpu-conv without relative positions, whose tokens cannot be merged, and CutMix
        arXiv:1905.04899; no label smoothing, which makes features worse to transfer (arXiv:2010.16402)
    """
    config = _on_cifar100(cifar10_cpu_conv(), epochs=60)
    model = replace(
        config.model,
        hidden_size=192,
        num_attention_heads=12,
        num_hidden_layers=4,
        relative_positions=False,
        stem_channels=(32, 64, 64, 112, 192),
    )
    return replace(config, model=model, augment=_AUGMENT, optim=replace(config.optim, label_smoothing=0.0))
