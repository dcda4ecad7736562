"""How pretrained weights are taken to new classes. The architecture, the input size and the preprocessing come from
the weights: `vitrail finetune WEIGHTS --data SPEC --recipe NAME`.
"""

from dataclasses import replace

from vitrail.config import (
    AugmentConfig,
    ComputeConfig,
    DataConfig,
    EvaluationConfig,
    OptimConfig,
    ProbeConfig,
    RunConfig,
    ScheduleConfig,
)

# Weights with fewer parameters are taken to new classes as `finetune_cpu` says.
SMALL = 3_000_000


def finetune() -> RunConfig:
    """All layers, the lower ones more slowly, the best epoch chosen on a validation split: the default. With weights of
    fewer than 3 M parameters its settings are those of finetune-cpu.

    Command: vitrail finetune WEIGHTS --data SPEC
    Hardware: a laptop's CPU for small models, one GPU for a B/16
    Time: depends on weights and data; the plan that is printed first estimates it. An epoch of 50,000 images of 98
        pixels with a ViT-S/14: 23 min on one CPU core (AMD EPYC, bf16), measuring included
    Expected: the linear probe that is printed first with few images, more with many: 95.8 % on CIFAR-10 after that
        epoch, from a DINOv2 S/14 (docs/finetune.md)
    Source: ours; layer-wise decay after arXiv:2106.08254, label smoothing arXiv:1512.00567
    """
    return RunConfig(
        data=DataConfig(batch_size=64),
        augment=AugmentConfig(flip=0.5, resized_crop=0.5, fill="mean"),
        optim=OptimConfig(
            name="adamw",
            lr=1.5e-3,
            lr_width=128,
            lr_examples=4000,
            layer_decay=0.75,
            weight_decay=0.05,
            clip_norm=1.0,
            label_smoothing=0.1,
            ema_decay=0.993,  # in 100 steps half of the start is forgotten
            ema_keeps_start=True,
        ),
        schedule=ScheduleConfig(epochs=10, min_steps=100, warmup_fraction=0.1, shape="cosine"),
        evaluation=EvaluationConfig(split="val", every_epochs=1, batch_size=100, patience=3),
        probe=ProbeConfig(start_head=True),
        compute=ComputeConfig(precision="bf16"),
    )


def finetune_cpu() -> RunConfig:
    """Small ViTs on small images on a laptop's CPU, as the weights that come with the package: Muon, five epochs; what
    finetune does with small weights.

    Command: vitrail finetune builtin:cifar100-conv --data SPEC --recipe finetune-cpu
    Hardware: two CPU cores (AMD EPYC, AVX-512), fp32
    Time: about a minute for 5,000 images of 32 pixels
    Expected: docs/finetune.md has the figures on 5,000 images of CIFAR-10
    Source: ours; Muon after Jordan et al. 2024, chosen on a validation split (docs/LOG.md)
    """
    config = finetune()
    return replace(
        config,
        augment=AugmentConfig(flip=0.5, crop_padding=4, fill="mean"),
        optim=replace(config.optim, name="muon", lr=3e-3, muon_lr=0.03, layer_decay=1.0),
        schedule=replace(config.schedule, epochs=5, min_steps=50),
    )


def reference_finetune() -> RunConfig:
    """The reference system's fine-tuning of vit-base-patch16-224 on CIFAR-10, setting for setting.

    Command: vitrail finetune google/vit-base-patch16-224 --data cifar10 --recipe reference-finetune
    Hardware: one GPU; two CPU cores take hours for an epoch
    Time: not measured on a GPU yet
    Expected: the reference states no figure of its own; papers report 98 to 99 % for such weights
        (arXiv:2010.11929, table 5). Not repeated yet
    Source: the reference system: resize to 224x224, mean and std 0.5, no augmentation, Adam 1e-5, L2 1e-3, batch 32,
        5 epochs, fp16, the best epoch chosen on the test set
    """
    return RunConfig(
        data=DataConfig(batch_size=32),
        optim=OptimConfig(name="adam", lr=1e-5, weight_decay=1e-3, decay_all=True),
        schedule=ScheduleConfig(epochs=5, shape="constant"),
        evaluation=EvaluationConfig(split="test", every_epochs=1, batch_size=100),
        compute=ComputeConfig(precision="fp16"),
    )


def finetune_sgd() -> RunConfig:
    """The ViT paper's fine-tuning: SGD with momentum, no weight decay, a cosine over few steps.

    Command: vitrail finetune WEIGHTS --data SPEC --recipe finetune-sgd
    Hardware: one GPU for a B/16
    Time: 500 steps of 512 images; 5 min on one CPU core (AMD EPYC, bf16) for builtin:cifar100-conv
    Expected: with the weights in the package, at this learning rate, less than finetune: 69.2 % on the test images of
        CIFAR-10 from 5,000 training images, where the probe has 71.2 % and finetune 79.3 %. For large weights it has
        not been run on a GPU yet
    Source: arXiv:2010.11929, appendix B.1.1 and table 4: momentum 0.9, batch 512, clip 1, learning rate out of
        {0.001, 0.003, 0.01, 0.03} by a validation split, 384 pixels (--data.image-size 384)
    """
    return RunConfig(
        data=DataConfig(batch_size=512),
        augment=AugmentConfig(flip=0.5, resized_crop=0.5, fill="mean"),
        optim=OptimConfig(name="sgd", lr=0.01, weight_decay=0.0, clip_norm=1.0),
        schedule=ScheduleConfig(steps=500, warmup_fraction=0.1, shape="cosine"),
        evaluation=EvaluationConfig(split="val", every_epochs=1, batch_size=100),
        compute=ComputeConfig(precision="bf16", accumulation_steps=8),
    )


def finetune_gradual() -> RunConfig:
    """The default, the classifier first and one layer more at a time until half of the run.

    Command: vitrail finetune WEIGHTS --data SPEC --recipe finetune-gradual
    Hardware: as finetune
    Time: less than finetune: frozen layers need no backward pass; 4.1 instead of 4.8 processor minutes for two epochs
        of 5,000 images with a ViT-S/14
    Expected: less than finetune in few epochs: 89.3 % where that has 91.7 %, on 2,000 validation images of CIFAR-10
        after those two epochs, 1 seed
    Source: gradual unfreezing of arXiv:1801.06146 with the settings of finetune
    """
    config = finetune()
    return replace(config, optim=replace(config.optim, freeze="gradual"))


def finetune_last() -> RunConfig:
    """The last three blocks and the classifier, on tokens that the frozen blocks below give once for each image and its
    mirror image: for large ViTs on a CPU.

    Command: vitrail finetune WEIGHTS --data SPEC --recipe finetune-last
    Hardware: any; room in the cache folder for the tokens, which the plan states
    Time: two forward passes over the images, then for each epoch about that of a forward pass: 24 min for two epochs
        of 50,000 images of 98 pixels with a ViT-S/14 on one CPU core (AMD EPYC, bf16), measuring included
    Expected: between the linear probe and finetune: 92.2 % on CIFAR-10 after those two epochs, from a DINOv2 S/14; one
        epoch of finetune has 95.8 % in as much time (docs/finetune.md)
    Source: ours; late layers alone as in arXiv:2210.11466, cached features as every linear probe has them
    """
    config = finetune()
    return replace(
        config,
        augment=AugmentConfig(flip=0.5),
        optim=replace(config.optim, train_last=3),
        schedule=replace(config.schedule, epochs=3),  # the frozen blocks see nothing new in a later one
        compute=replace(config.compute, cache_tokens=True),
    )


def lora() -> RunConfig:
    """Low-rank updates of the encoder's matrices and a new classifier; merged into the model file.

    Command: vitrail finetune WEIGHTS --data SPEC --recipe lora
    Hardware: as finetune, with less memory for the optimiser
    Time: about that of finetune
    Expected: near finetune: 94.2 % on CIFAR-10 after an epoch from a DINOv2 S/14, where finetune has 95.8 %
        (docs/finetune.md)
    Source: arXiv:2106.09685 through the peft library, rank 8, alpha 16
    """
    config = finetune()
    optim = replace(config.optim, layer_decay=1.0, lr=6e-3, weight_decay=0.0, lora_rank=8)
    return replace(config, optim=optim)


def linear_probe() -> RunConfig:
    """Logistic regression on frozen features: nothing of the encoder moves; the result is a model file.

    Command: vitrail finetune WEIGHTS --data SPEC --recipe linear-probe
    Hardware: any
    Time: one forward pass over the images, and seconds
    Expected: what fine-tuning has to beat
    Source: scikit-learn's LogisticRegression on standardised features, the penalty chosen on fifths of the training
        images
    """
    return RunConfig(
        data=DataConfig(batch_size=64),
        probe=ProbeConfig(method="linear"),
        evaluation=EvaluationConfig(split="val", batch_size=100),
    )


def knn() -> RunConfig:
    """The 20 nearest training images vote, by the cosine of their features: how good are the features as they are?

    Command: vitrail finetune WEIGHTS --data SPEC --recipe knn
    Hardware: any
    Time: one forward pass over the images
    Expected: below the linear probe as a rule
    Source: scikit-learn's KNeighborsClassifier with the weights of arXiv:2104.14294, section 4.1
    """
    return replace(linear_probe(), probe=ProbeConfig(method="knn"))
