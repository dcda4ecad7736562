"""Every setting of a run, in sections. A docstring under a field is its help on the command line."""

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from vitrail.config.bounds import require_bounded
from vitrail.config.checks import (
    pair,
    require,
    require_fraction,
    require_name,
    require_not_negative,
    require_positive,
    require_seed,
)
from vitrail.config.compute import CheckpointConfig, ComputeConfig, ParallelConfig
from vitrail.config.preprocessing import CropRounding, IccProfile, ResizeFilter, ResizeMode
from vitrail.config.vit import ArchitectureConfig, check_divisible, token_stride


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, at what size, how many at a time."""

    spec: str = "digits"
    """digits, cifar10, cifar100, fashion-mnist; a folder; a Parquet file or folder; a CSV or TSV manifest."""
    root: str = ""
    """Where named data sets are looked for; empty: VITRAIL_DATA, else the user's cache folder."""
    image_size: int | tuple[int, int] = 224
    """Side of the model's input in pixels, or (height, width)."""
    decode_size: int | tuple[int, int] = 0
    """Side of the decoded images kept in memory, or (height, width); 0: their own size if all images of a named set
    have the same one, else image_size."""
    batch_size: int = 128
    """Examples for one optimiser step, over all processes and micro-batches."""
    validation_fraction: float = 0.1
    """Fraction of the training set held out for validation, stratified and seeded, if the data has no such split."""
    resize_mode: ResizeMode = "crop"
    """crop: resize the shorter side and cut out the centre; squash: resize both sides, changing the aspect ratio."""
    resize_filter: ResizeFilter = "bicubic"
    """Filter for resizing while decoding."""
    resize_size: int | tuple[int, int] = 0
    """Resize to this first, then cut the centre out at whole pixels, as other libraries do; 0: straight to
    decode_size. Not used where decode_size is not image_size."""
    crop_rounding: CropRounding = "half-even"
    """How an odd margin is rounded, with resize_size: half-even (torchvision, timm) or floor (transformers)."""
    fast_decoding: bool = False
    """Decode and resize files in half the time or less, with pixels that differ slightly from Pillow's; recorded in the
    model's preprocessing, so that evaluation and prediction do the same."""
    icc: IccProfile = "apply"
    """apply: convert colours to sRGB by the profile embedded in a file; ignore: do not, like other libraries."""
    channels: Literal["RGB", "L"] = "RGB"
    """RGB: colour input; L: grey input."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Subtracted from each channel, pixels in [0, 1]."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Divides each channel after that."""
    balance: Literal["none", "sampling"] = "none"
    """sampling: each epoch shows every class equally often, repeating images of rare classes and leaving out some of
    frequent ones; for very imbalanced classes, instead of optim.class-weights."""
    store: Literal["auto", "memory", "files"] = "auto"
    """memory: decode every image once and keep it, whole where training crops at random; files: decode images from
    their files each time they are needed. auto: memory where they fit."""
    ram_budget_mib: int = 4096
    """Decoded images beyond this many MiB are kept in a memory-mapped file in the cache folder instead, or decoded each
    time they are needed (data.store)."""
    cache_gib: float = 100.0
    """Most GiB that the cache folder may take for each of: decoded images, parts of data sets that are fetched from
    elsewhere, a teacher's answers, tokens of frozen layers; what was not used for longest is deleted first."""
    ahead_mib: int = 256
    """MiB of images that are decoded before they are needed, where they are decoded each time."""
    shuffle: Literal["auto", "exact"] = "auto"
    """exact: any example may follow any other. auto: so too, but for streamed data, which are read a window of chunks
    at a time."""
    lanes: int = 64
    """Streamed data: chunks that are read side by side. Part of the order of the examples; a multiple of the number of
    processes reads least."""
    window: int = 64
    """Streamed data: chunks of a lane whose examples are shuffled together. Part of the order of the examples."""
    seed: int = 0
    """Seed for splitting the data; independent of the run's seed, so that runs with other seeds have the same
    splits."""

    def __post_init__(self) -> None:
        require_bounded("data", self)
        require_positive("data.batch_size", self.batch_size)
        require_fraction("data.validation_fraction", self.validation_fraction)
        for name in ("ram_budget_mib", "cache_gib", "ahead_mib", "lanes", "window"):
            require_positive(f"data.{name}", getattr(self, name))
        for side in pair(self.image_size):
            require_positive("data.image_size", side)
        require_seed("data.seed", self.seed)
        decode_size = pair(self.decode_size)
        require(
            decode_size == (0, 0) or min(decode_size) > 0,
            "data.decode_size",
            self.decode_size,
            "0, or one or two positive sides",
        )


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """The initial weights. Default: random."""

    weights: str = ""
    """A vitrail file, a run directory, builtin:NAME, weights of another library, or a hub id; empty: random."""
    head: Literal["match", "keep", "reset"] = "match"
    """The classifier. match: keep the rows of classes with the same name; keep: keep all rows, in their order; reset:
    start a new one."""
    patches: Literal["random", "whitened"] = "random"
    """First values of the layer that sees the pixels, of random weights. whitened: a patch projection is random in
    coordinates in which patches of the training images are uncorrelated and equally strong; the first convolution of a
    ViT + conv begins as the directions in which they vary most (after arXiv:2404.00498, section 3.1)."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to training images, on the device, drawn for each image. Default: none."""

    flip: float = 0.0
    """Probability of a horizontal flip."""
    flip_kind: Literal["random", "alternating"] = "random"
    """random: drawn in each epoch. alternating, with flip=0.5: drawn once, for even epochs, and the other way round in
    odd ones, so that two epochs in a row show both sides of every image (arXiv:2404.00498)."""
    crop_padding: int = 0
    """Random crop of the input size out of the image padded by this many pixels (of the input) on each side."""
    rotation: float = 0.0
    """Rotation by up to this many degrees to either side."""
    translate: float = 0.0
    """Shift by up to this fraction of the side, each axis."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the zoom factor."""
    shear: float = 0.0
    """Horizontal shear by up to this many degrees to either side."""
    resized_crop: float = 1.0
    """Smallest area of a random resized crop, a fraction of the image; aspect ratio 3/4 to 4/3. 1: none."""
    fill: Literal["black", "mean", "reflect"] = "black"
    """What lies outside the image: zero, the data's mean colour, or the mirrored image."""
    brightness: float = 0.0
    """Colour jitter: factor in [1 - x, 1 + x]."""
    contrast: float = 0.0
    """Colour jitter: factor in [1 - x, 1 + x]."""
    saturation: float = 0.0
    """Colour jitter: factor in [1 - x, 1 + x]."""
    hue: float = 0.0
    """Colour jitter: rotation of the hue in [-x, x] of the full circle, at most 0.5."""
    policy: Literal["none", "rand-augment", "trivial-augment"] = "none"
    """RandAugment (arXiv:1909.13719) or TrivialAugment (arXiv:2103.10158), besides the others."""
    policy_ops: int = 2
    """RandAugment's operations per image."""
    policy_magnitude: int = 9
    """RandAugment's strength, 0 to 30."""
    erasing: float = 0.0
    """Probability of erasing a rectangle (arXiv:1708.04896)."""
    erasing_area: tuple[float, float] = (0.02, 0.33)
    """Range of the erased area, a fraction of the image."""
    mixup: float = 0.0
    """Alpha of mixup (arXiv:1710.09412); 0: none."""
    cutmix: float = 0.0
    """Alpha of CutMix (arXiv:1905.04899); 0: none. With both, each batch takes one of them at random."""
    mix_probability: float = 1.0
    """Probability that a batch is mixed at all."""

    def __post_init__(self) -> None:
        require_bounded("augment", self)
        for name in ("flip", "erasing", "mix_probability"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", getattr(self, name), "a probability in [0, 1]")
        require(
            self.flip_kind == "random" or self.flip == 0.5,
            "augment.flip_kind",
            self.flip_kind,
            f"random with augment.flip={self.flip}: alternating shows both sides equally often",
            do="Use --augment.flip 0.5 with it.",
        )
        for name in ("crop_padding", "rotation", "translate", "shear", "mixup", "cutmix"):
            require_not_negative(f"augment.{name}", getattr(self, name))
        for name in ("brightness", "contrast", "saturation"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", getattr(self, name), "a number in [0, 1]")
        require(0 <= self.hue <= 0.5, "augment.hue", self.hue, "a number in [0, 0.5]")
        require(0 < self.resized_crop <= 1, "augment.resized_crop", self.resized_crop, "a fraction in (0, 1]")
        require(0 <= self.policy_magnitude <= 30, "augment.policy_magnitude", self.policy_magnitude, "0 to 30")
        require_positive("augment.policy_ops", self.policy_ops)
        for name, low, high in (("scale", 1e-3, 1e3), ("erasing_area", 0.0, 1.0)):
            first, last = getattr(self, name)
            require(low <= first <= last <= high, f"augment.{name}", (first, last), f"{low} <= first <= last <= {high}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser: which one, at which learning rate, for which weights."""

    name: Literal["adam", "adamw", "sgd", "muon"] = "adamw"
    """adam (L2 in the gradient), adamw, sgd with momentum, or muon for the matrices of the encoder with adamw for
    everything else."""
    lr: float = 1e-3
    """Peak learning rate; with muon, that of the adamw part."""
    lr_width: int = 0
    """Set by recipes alone: finetune scales the recipe's lr by lr_width / hidden size for wider weights; 0: off."""
    lr_examples: int = 0
    """With fewer training images than this, every learning rate shrinks with the square root of their number: small
    sets make pretrained weights forget sooner. 0: off."""
    muon_lr: float = 0.02
    """Peak learning rate of the matrices under muon."""
    weight_decay: float = 0.05
    """Weight decay; with muon, of the adamw part."""
    muon_weight_decay: float = 0.0
    """Decoupled weight decay of the matrices under muon."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments of adam and adamw."""
    momentum: float = 0.9
    """Momentum of sgd."""
    muon_momentum: float = 0.95
    """Nesterov momentum of muon."""
    layer_decay: float = 1.0
    """Learning rate of each layer as a factor of that above it, in (0, 1]; the classifier has the full rate
    (arXiv:2106.08254, appendix; as in BEiT and MAE). 1: the same everywhere."""
    freeze: Literal["none", "trunk", "gradual"] = "none"
    """trunk: train only the classifier; gradual: train the classifier first, then unfreeze one layer at a time, from
    the last to the first (arXiv:1801.06146)."""
    freeze_until: float = 0.5
    """With freeze=gradual: fraction of the run after which every layer is trained, in [0, 1)."""
    train_last: int = 0
    """Train only the last N blocks of the encoder, and the norm and classifier after them; the layers below are frozen.
    0: all. With compute.cache-tokens, these are computed once."""
    lora_rank: int = 0
    """Rank of the low-rank updates that are trained instead of the encoder's matrices (arXiv:2106.09685), with the peft
    library; they are merged into the model file. 0: none."""
    lora_alpha: int = 16
    """The updates are scaled by lora_alpha / lora_rank."""
    decay_all: bool = False
    """Apply weight decay to biases, norms, tokens and positions too, not only to matrices and kernels."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0: no clipping."""
    label_smoothing: float = 0.0
    """Fraction of the target spread evenly over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: the loss of an example is weighted by the inverse frequency of its class, 1 on average; for very
    imbalanced classes, instead of data.balance."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights, which is evaluated and saved instead of them. 0: no
    average."""
    ema_keeps_start: bool = False
    """Let the average keep a share of the pretrained weights, ema_decay ** steps, instead of dropping them at once:
    after a short run the result lies between the two (arXiv:2109.01903)."""

    def __post_init__(self) -> None:
        require_bounded("optim", self)
        for name in ("lr", "muon_lr"):
            require_positive(f"optim.{name}", getattr(self, name))
        rates = ("weight_decay", "muon_weight_decay", "clip_norm", "lr_width", "lr_examples")
        for name in (*rates, "lora_rank", "train_last"):
            require_not_negative(f"optim.{name}", getattr(self, name))
        require_positive("optim.lora_alpha", self.lora_alpha)
        require(
            not self.lora_rank or self.freeze == "none",
            "optim.freeze",
            self.freeze,
            "none with optim.lora_rank, which freezes the encoder itself",
        )
        require(
            not self.train_last or (self.freeze == "none" and not self.lora_rank),
            "optim.train_last",
            self.train_last,
            "0 with optim.freeze or optim.lora_rank: each says on its own what is trained",
        )
        for name in ("momentum", "muon_momentum", "label_smoothing", "ema_decay", "freeze_until"):
            require_fraction(f"optim.{name}", getattr(self, name))
        for beta in self.betas:
            require_fraction("optim.betas", beta)
        require(0 < self.layer_decay <= 1, "optim.layer_decay", self.layer_decay, "a factor in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Learning from a teacher: a trained model that answers for every augmented image. Default: none."""

    teacher: str = ""
    """A vitrail file, a run directory, builtin:NAME, weights of another library, or a hub id, with the classes of the
    data; empty: no teacher."""
    weight: float = 0.5
    """What the teacher's answers count in the loss, in (0, 1]; the labels count the rest."""
    temperature: float = 2.0
    """Divides the logits of teacher and student; the loss is multiplied by its square (arXiv:1503.02531)."""
    cache: bool = True
    """Keep the teacher's answers in the cache folder, for later runs with the same teacher, seed, data and
    augmentation; one process only."""

    def __post_init__(self) -> None:
        require_bounded("distill", self)
        require(0 < self.weight <= 1, "distill.weight", self.weight, "a fraction in (0, 1]")
        require_positive("distill.temperature", self.temperature)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long, and how the learning rate goes up and down."""

    epochs: int = 10
    """Passes over the training set."""
    steps: int = 0
    """Length of the run in optimiser steps, instead of epochs; 0: as epochs says."""
    min_steps: int = 0
    """Fewest optimiser steps: with a small training set the number of epochs is multiplied until there are this many;
    the intervals between evaluations grow with it."""
    max_steps: int = 0
    """Stop after this many optimiser steps, with the schedule of the full run; 0: no limit."""
    warmup_fraction: float = 0.0
    """Fraction of the run over which the learning rate rises linearly from 0, in [0, 1)."""
    shape: Literal["cosine", "linear", "constant"] = "cosine"
    """After the warm-up: decay to final_fraction, or constant."""
    final_fraction: float = 0.0
    """Learning rate at the end, as a fraction of the peak."""
    progressive_scales: tuple[float, ...] = ()
    """Train at these fractions of data.image-size first, rounded to whole tokens; none: at the full size throughout."""
    progressive_until: tuple[float, ...] = ()
    """Fraction of the run at which each of progressive_scales ends; ascending, in (0, 1)."""

    def __post_init__(self) -> None:
        require_bounded("schedule", self)
        require_positive("schedule.epochs", self.epochs)
        for name in ("steps", "min_steps", "max_steps"):
            require_not_negative(f"schedule.{name}", getattr(self, name))
        require_fraction("schedule.warmup_fraction", self.warmup_fraction)
        require(0 <= self.final_fraction <= 1, "schedule.final_fraction", self.final_fraction, "a fraction in [0, 1]")
        ends = self.progressive_until
        require(
            len(ends) == len(self.progressive_scales)
            and list(ends) == sorted(set(ends))
            and all(0 < end < 1 for end in ends),
            "schedule.progressive_until",
            ends,
            f"ascending fractions in (0, 1), one for each of progressive_scales={self.progressive_scales}",
        )
        for scale in self.progressive_scales:
            require(0 < scale < 1, "schedule.progressive_scales", scale, "fractions in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and when."""

    split: Literal["val", "test"] = "val"
    """val: a split held out of the training set. test: the test set, with all training data used for training; a
    best epoch chosen there is an optimistic figure and is labelled so."""
    every_epochs: int = 1
    """Evaluate every N epochs and after the last one; 0: only after the last one."""
    batch_size: int = 500
    """Examples per batch; changes speed and memory, not results."""
    patience: int = 0
    """Stop after this many evaluations in a row without a better accuracy on the val split, counted from the middle of
    the schedule; 0: never."""
    test_best: bool = False
    """Measure the best model, chosen on the val split, once on the test split when training is over. train and finetune
    do so where --data has a test split."""

    def __post_init__(self) -> None:
        require_bounded("evaluation", self)
        require_not_negative("evaluation.every_epochs", self.every_epochs)
        require_positive("evaluation.batch_size", self.batch_size)
        require_not_negative("evaluation.patience", self.patience)
        require(
            not self.patience or self.split == "val",
            "evaluation.split",
            self.split,
            "val with evaluation.patience: nothing is decided on the test set",
        )
        require(
            not self.test_best or self.split == "val",
            "evaluation.split",
            self.split,
            "val with evaluation.test-best: what was chosen on the test split is not measured there",
        )


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Classifiers on frozen features."""

    method: Literal["none", "linear", "knn"] = "none"
    """Instead of training: linear (multinomial logistic regression) or knn (nearest neighbours by cosine
    similarity)."""
    baseline: bool = True
    """Measure both before training that starts from pretrained weights, if that takes little time."""
    start_head: bool = False
    """Initialise a new classifier with the linear probe of the baseline (arXiv:2202.10054)."""
    num_neighbors: int = 20
    """Neighbours that vote, weighted by their similarity."""
    max_examples: int = 10_000
    """Most training images that a probe uses, in the order of the run's seed."""

    def __post_init__(self) -> None:
        require_bounded("probe", self)
        require_positive("probe.num_neighbors", self.num_neighbors)
        require_positive("probe.max_examples", self.max_examples)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Learning from images alone, without labels."""

    objective: Literal["none", "simmim"] = "none"
    """none: learn the classes. simmim: predict the pixels of masked patches (arXiv:2111.09886); labels are ignored, and
    the model file holds an encoder without a classifier, to be fine-tuned. It needs model.use-mask-token."""
    mask_ratio: float = 0.6
    """Fraction of the patches that are masked, in (0, 1)."""
    mask_unit: int = 1
    """Side, in patches, of the squares that are masked as a whole."""
    normalise_targets: bool = False
    """Predict pixels minus the mean of their patch, over its standard deviation (arXiv:2111.06377, section 3)."""

    def __post_init__(self) -> None:
        require_bounded("pretrain", self)
        require(0 < self.mask_ratio < 1, "pretrain.mask_ratio", self.mask_ratio, "a fraction in (0, 1)")
        require_positive("pretrain.mask_unit", self.mask_unit)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run."""

    recipe: str = ""
    """Name of the recipe this run started from."""
    seed: int = 0
    """Seed of the initialisation, the order of the examples and the augmentation."""
    init: InitConfig = field(default_factory=InitConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        require_name("recipe", self.recipe)
        require_seed("seed", self.seed)
        check_divisible(self.data.image_size, self.model)
        require(
            self.compute.accumulation_steps <= self.data.batch_size,
            "compute.accumulation_steps",
            self.compute.accumulation_steps,
            f"at most data.batch-size={self.data.batch_size}",
        )
        require(
            self.data.balance == "none" or self.optim.class_weights == "none",
            "optim.class-weights",
            self.optim.class_weights,
            f"none with data.balance={self.data.balance}: each balances the classes on its own",
        )
        require(
            self.data.balance == "none" or self.augment.flip_kind == "random",
            "augment.flip_kind",
            self.augment.flip_kind,
            f"random with data.balance={self.data.balance}: an image does not come once in each epoch",
        )
        require(
            not self.distill.teacher or self.probe.method == "none",
            "distill.teacher",
            repr(self.distill.teacher),
            f"none with probe.method={self.probe.method}: a probe is fitted to the labels",
        )
        require(
            self.optim.train_last <= self.model.num_hidden_layers,
            "optim.train_last",
            self.optim.train_last,
            f"at most the {self.model.num_hidden_layers} blocks of the model",
        )
        if self.compute.cache_tokens:
            self._check_can_cache_tokens()
        require(
            self.init.patches == "random" or not self.init.weights,
            "init.patches",
            self.init.patches,
            f"random with init.weights={self.init.weights!r}: whitened patches are for random weights",
        )
        if self.is_pretraining:
            self._check_pretraining()

    @property
    def is_pretraining(self) -> bool:
        """Whether the run learns from images alone."""
        return self.pretrain.objective != "none"

    def _check_pretraining(self) -> None:
        """Raise ConfigError for what makes no sense without labels, or would show a masked patch to its neighbours."""
        need = f"with pretrain.objective={self.pretrain.objective}"
        require(
            self.model.use_mask_token,
            "model.use_mask_token",
            False,
            f"True {need}: the token stands for what is masked",
            "Use --model.use-mask-token.",
        )
        for name, given, off in (
            ("model.stem_channels", self.model.stem_channels, ()),
            ("init.weights", self.init.weights, ""),
            ("probe.method", self.probe.method, "none"),
            ("augment.mixup", self.augment.mixup, 0),
            ("augment.cutmix", self.augment.cutmix, 0),
            ("data.balance", self.data.balance, "none"),
            ("optim.class_weights", self.optim.class_weights, "none"),
            ("optim.label_smoothing", self.optim.label_smoothing, 0),
            ("evaluation.test_best", self.evaluation.test_best, False),
            ("distill.teacher", self.distill.teacher, ""),
        ):
            require(given == off, name, given, f"{off or 'nothing'} {need}")
        (height, width), (down_y, down_x) = pair(self.data.image_size), token_stride(self.model)
        unit, ratio = self.pretrain.mask_unit, self.pretrain.mask_ratio
        for scale in (*self.schedule.progressive_scales, 1.0):
            sides = (max(1, round(side * scale)) for side in (height // down_y, width // down_x))
            units = math.prod(-(-side // unit) for side in sides)
            require(
                0 < round(ratio * units) < units,
                "pretrain.mask_ratio",
                ratio,
                f"a fraction that masks some of the {units} squares of {unit} x {unit} patches and leaves some",
            )

    def _check_can_cache_tokens(self) -> None:
        """Raise ConfigError unless the frozen layers see each image in no more than two ways."""
        require(
            bool(self.optim.train_last),
            "optim.train_last",
            0,
            "a number of blocks with compute.cache_tokens, which computes the others once",
        )
        require(
            not self.distill.teacher,
            "distill.teacher",
            repr(self.distill.teacher),
            "none with compute.cache_tokens: a teacher answers for images",
        )
        plain = AugmentConfig(flip=self.augment.flip, flip_kind=self.augment.flip_kind, fill=self.augment.fill)
        changed = [f.name for f in fields(plain) if getattr(self.augment, f.name) != getattr(plain, f.name)]
        changes = ", ".join(f"augment.{name}={getattr(self.augment, name)}" for name in changed)
        if self.schedule.progressive_scales:
            changes = f"schedule.progressive_scales={self.schedule.progressive_scales}"
        require(
            not changes,
            "compute.cache_tokens",
            f"true with {changes}",
            "false, or nothing random but augment.flip: the tokens of an image and of its mirror image are kept",
        )
