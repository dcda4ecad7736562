"""The start from pretrained weights: their architecture and preprocessing, the head for new classes, the plan."""

import dataclasses
import time
from typing import Any

import torch

from vitrail import weights
from vitrail.config import InitConfig, Preprocessing, RunConfig, ViTConfig
from vitrail.config.checks import pair
from vitrail.errors import ConfigError, RunError
from vitrail.model import MaskedViT, ViT
from vitrail.run import Origin

_MIN_STEPS_AFTER_PRETRAINING = 300
"""Features that have not seen a label lie further from the classes (docs/LOG.md)."""
_PROGRAM_BYTES = 350 << 20
"""Of Python, torch and scikit-learn, before there is a model."""


def check_has_features(config: RunConfig) -> None:
    """Raise ConfigError when only a classifier, or little beside it, would move over a trunk of random weights."""
    means = {
        "probe.method": config.probe.method if config.probe.method != "none" else "",
        "optim.freeze": "trunk" if config.optim.freeze == "trunk" else "",
        "optim.train-last": config.optim.train_last,
        "optim.lora-rank": config.optim.lora_rank,
    }
    found = next((f"{name} {value}" for name, value in means.items() if value), "")
    if found and not config.init.weights:
        raise ConfigError(
            "There are no pretrained weights whose features this run could use.",
            got=f"{found} on random weights",
            do=f"vitrail finetune WEIGHTS --data SPEC --recipe {config.recipe or 'linear-probe'}",
        )


def initial_model(
    config: RunConfig, preprocessing: Preprocessing, classes: tuple[str, ...], *, resume: bool
) -> tuple[ViT, Origin | None]:
    """The model that a run starts from, and where its weights come from: None when they are new.

    Args:
        resume: the weights come from a checkpoint; a new model of the same geometry serves.
    Raises:
        WeightsError: the weights cannot be read.
        ConfigError, RunError: they are of another geometry than the run's.
    """
    channels = preprocessing.num_channels
    geometry = ViTConfig.of(config.model, preprocessing.image_size, num_channels=channels, num_labels=len(classes))
    if not config.init.weights or resume:
        return (MaskedViT if config.is_pretraining else ViT)(geometry), None
    loaded, card = weights.load(
        config.init.weights,
        classes=classes,
        image_size=preprocessing.image_size,
        num_channels=channels,
        head=config.init.head,
    )
    with torch.device("meta"):
        model = ViT(geometry)
    expected, found = model.state_dict(), loaded.state_dict()
    wrong = [n for n in expected.keys() | found.keys() if n not in found or n not in expected]
    wrong += [n for n in expected.keys() & found.keys() if expected[n].shape != found[n].shape]
    if wrong and all(name.endswith("relative.table") for name in wrong):
        raise RunError(
            f"{config.init.weights} {'has no' if geometry.relative_positions else 'has'} relative positions.",
            do="Leave model.relative-positions to the weights.",
        )
    if wrong:
        raise RunError(
            f"{config.init.weights} has a different geometry from the model of this run.",
            got=", ".join(sorted(wrong)[:5]),
            do="Start with vitrail finetune, which takes the geometry from the weights.",
        )
    model = weights.build_model(geometry, found, "cpu")
    return model, Origin(weights=config.init.weights, provenance=card.provenance)


def with_weights(
    config: RunConfig, source: str, head: weights.Head = "match", card: weights.Card | None = None
) -> RunConfig:
    """The same run, starting from pretrained weights: their architecture, their preprocessing, their width's rate, no
    more trained blocks than they have, and more steps where they have not seen a label yet.

    Args:
        source: as of `vitrail.load`.
        head: what becomes of the classifier's rows, as of `vitrail.load`.
        card: of the weights, where it was read already.
    Raises:
        WeightsError: the weights cannot be read.
    """
    card = card or weights.load_card(source)
    random = ("embedding_dropout", "attention_dropout", "projection_dropout", "stochastic_depth")
    model = dataclasses.replace(card.geometry.architecture, **{name: getattr(config.model, name) for name in random})
    steps = card.preprocessing
    data: dict[str, Any] = {
        "image_size": steps.image_size,
        "resize_mode": steps.resize_mode,
        "resize_filter": steps.resize_filter,
        "resize_size": steps.resize_size or 0,
        "crop_rounding": steps.crop_rounding,
        "fast_decoding": steps.fast_decoding,
        "icc": steps.icc,
        "channels": steps.channels,
        "mean": steps.mean,
        "std": steps.std,
    }
    schedule = config.schedule
    if schedule.min_steps and card.is_pretrained_alone:
        schedule = dataclasses.replace(schedule, min_steps=max(schedule.min_steps, _MIN_STEPS_AFTER_PRETRAINING))
    ratio = min(1.0, config.optim.lr_width / card.geometry.hidden_size) if config.optim.lr_width else 1.0
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(
            config.optim,
            lr=config.optim.lr * ratio,
            train_last=min(config.optim.train_last, card.geometry.num_hidden_layers),
        ),
        init=InitConfig(weights=source, head=head),
        model=model,
        schedule=schedule,
        data=dataclasses.replace(config.data, **data),
    )


def with_image_size(config: RunConfig, before: RunConfig) -> RunConfig:
    """Scale the size that images are resized to with an input size that was changed on its own.

    Args:
        config: the run as it was asked for. before: the same run with the weights' own sizes.
    """
    old, new = before.data, config.data
    if new.image_size == old.image_size or new.resize_size != old.resize_size or not old.resize_size:
        return config
    ratio = [to / of for to, of in zip(pair(old.resize_size), pair(old.image_size), strict=True)]
    sides = [round(side * r) for side, r in zip(pair(new.image_size), ratio, strict=True)]
    if new.resize_mode == "crop":  # one number counts: that of the shorter side
        sides = [max(sides)] * 2
    return dataclasses.replace(config, data=dataclasses.replace(new, resize_size=(sides[0], sides[1])))


def start_lines(
    config: RunConfig,
    model: ViT,
    optimizers: list[torch.optim.Optimizer],
    origin: Origin,
) -> list[str]:
    """What a fine-tuning run is about to do: weights, head, learning rates, memory.

    Args:
        origin: where the weights come from, as `initial_model` says.
    """
    rates = [group["peak_lr"] for optimizer in optimizers for group in optimizer.param_groups]
    moved = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    geometry = model.config
    tokens = geometry.grid[0] * geometry.grid[1] + geometry.num_prefix_tokens
    micro = -(-config.data.batch_size // config.compute.accumulation_steps)
    depth = 1 if config.optim.freeze == "trunk" else config.optim.train_last or geometry.num_hidden_layers
    copies = {"sgd": 1, "adam": 2, "adamw": 2, "muon": 1.5}[config.optim.name]
    state = 4 * (total + moved * copies + (total if config.optim.ema_decay else 0))
    held, what = state + 4 * moved, "weights, gradients, optimiser, activations"
    if next(model.parameters()).device.type == "cpu":
        held, what = held + state + _PROGRAM_BYTES, f"the program, {what}, a copy to save"
    activations = 4 * micro * tokens * depth * (10 * geometry.hidden_size + 3 * geometry.intermediate_size)
    stem = ["exports        none to transformers or timm: a ViT + conv stays a vitrail file"]
    return [
        *origin.audit_lines,
        *(stem if geometry.stem_channels else []),
        f"trainable      {moved / 1e6:.2f} of {total / 1e6:.2f} M parameters, {config.optim.name}, learning rates "
        f"{min(rates):.2g} to {max(rates):.2g}, effective batch {config.data.batch_size}",
        f"memory         about {size_text(held + activations)} ({what})",
    ]


@torch.inference_mode()
def seconds_per_image(model: ViT, count: int = 4, size: tuple[int, int] | None = None) -> float:
    """Of a forward pass in evaluation mode, the faster of two, of images of this or the model's own size."""
    geometry, device = model.config, next(model.parameters()).device
    images = torch.zeros(count, geometry.num_channels, *(size or pair(geometry.image_size)), device=device)
    was_training, seconds = model.training, [0.0, 0.0]
    model.eval()
    for i in range(2):
        started = time.perf_counter()
        float(model(images, interpolate_pos_encoding=size is not None)["logits"].sum())
        seconds[i] = time.perf_counter() - started
    model.train(was_training)
    return min(seconds) / count


def size_text(num_bytes: float) -> str:
    """A number of bytes, as a person says it."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
