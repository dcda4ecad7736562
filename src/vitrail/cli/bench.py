"""Measure what a model does on this machine, and where the time goes.

WHAT is a recipe, a standard size such as B/16, a run directory, a model file or builtin:NAME. Pixels are random: the
speed does not depend on them. Nothing is written.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.cli.answer import Answer, table
from vitrail.cli.engines import add_device_option, add_precision_option
from vitrail.config import ArchitectureConfig, RunConfig, ViTConfig
from vitrail.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what bench takes."""
    parser.add_argument("what", metavar="WHAT", nargs="?", default="cifar10-cpu", help="default: cifar10-cpu")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per step (default: the recipe's, else 8)")
    add_device_option(parser)
    add_precision_option(parser, ("fp32", "bf16", "fp16"), "default: the recipe's, else fp32")
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="shortest length of a measurement (default: 5)"
    )
    parser.add_argument(
        "--peers", action="store_true", help="compare with timm and transformers, if they are installed"
    )


def run(args: argparse.Namespace) -> Answer:
    """Measure training and inference."""
    if args.batch_size is not None and args.batch_size < 1:
        raise ConfigError("--batch-size must be positive.", got=args.batch_size, expected="an integer >= 1")
    if not args.seconds > 0:
        raise ConfigError("--seconds must be positive.", got=args.seconds, expected="a number > 0")
    config, num_labels = _described(args.what)
    compute = replace(config.compute, device=args.device, precision=args.precision or config.compute.precision)
    batch_size = args.batch_size or config.data.batch_size
    config = replace(config, compute=compute, data=replace(config.data, batch_size=batch_size))

    from vitrail.bench.report import measure

    found = measure(config, num_labels=num_labels, seconds=args.seconds, with_peers=args.peers)
    return Answer(_text(args.what, found), {"what": args.what, **found})


def _described(what: str) -> tuple[RunConfig, int]:
    """A run's settings, and how many classes."""
    from vitrail import recipes

    if what in recipes.names():
        return recipes.get(what), 10
    if not (what.startswith("builtin:") or Path(what).exists()):
        try:
            geometry = ViTConfig.named(what, num_labels=1000)
        except ConfigError as error:
            raise ConfigError(
                f"{what} is not a recipe, a size, a run directory or a model file.",
                expected="a name from `vitrail recipes`, a size such as B/16, or a path",
            ) from error
        return _run_of(geometry), 1000

    from vitrail import weights

    geometry = weights.load(what)[1].geometry
    return _run_of(geometry), max(geometry.num_labels, 1)


def _run_of(geometry: ViTConfig) -> RunConfig:
    architecture = ArchitectureConfig(
        **{name: getattr(geometry, name) for name in ArchitectureConfig.__dataclass_fields__}
    )
    config = RunConfig()
    channels = {"channels": "L", "mean": (0.5,), "std": (0.5,)} if geometry.num_channels == 1 else {}
    data = replace(config.data, image_size=geometry.image_size, batch_size=8, **channels)  # type: ignore[arg-type]
    return replace(config, model=architecture, data=data)


def _text(what: str, found: dict[str, Any]) -> list[str]:
    training, inference = found["training"], found["inference"]
    rows = [
        ("training", round(training["images_per_second"], 1), f"{training['share_of_peak']:.0%}"),
        ("inference", round(inference["images_per_second"], 1), f"{inference['share_of_peak']:.0%}"),
    ]
    by = f", linear layers by {training['cpu_linear']}" if training["cpu_linear"] else ""
    lines = [
        f"{what}: {found['num_parameters'] / 1e6:.2f} M parameters, batch {found['batch_size']}, {found['precision']}",
        f"{found['device']}, {found['threads']} threads, torch {found['torch']}{by}",
        f"plain matrix products run at {found['matrix_peak_gflops']:,.0f} GFLOP/s here; peak memory "
        f"{training['peak_memory_mib']:,.0f} MiB",
        "",
        *table(("", "images/s", "of that speed"), rows),
        "",
        *table(
            ("part of a training step", "of its time"), [(p, f"{part:.1%}") for p, part in found["fractions"].items()]
        ),
    ]
    if found["peers"]:
        lines += [
            "",
            "training steps on one batch with AdamW, measured in turns:",
            *found["peers"]["table"].splitlines(),
        ]
        lines += [f"{name}: not compared: {reason}" for name, reason in found["peers"]["not_here"].items()]
    return lines
