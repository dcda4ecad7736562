"""--engine, --precision, --merge, --batch-size and --device: what runs a model, and how."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vitrail.errors import ConfigError

if TYPE_CHECKING:
    from vitrail.runtime import EngineOptions

_PRECISIONS = {
    "fp32": "every command that runs a model",
    "tf32": "eval and predict",
    "bf16": "every command that runs a model",
    "fp16": "every command that runs a model",
    "fp8": "train and finetune",
    "int8": "eval, predict and export",
}
"""The words that --precision knows, the same for every command, and who takes each."""


def add_engine_options(parser: argparse.ArgumentParser, default_batch_size: str) -> None:
    """Declare them. docs/engines.md says what each costs."""
    parser.add_argument(
        "--engine",
        default="auto",
        choices=("auto", "torch", "onnx", "openvino"),
        help="what runs the model; auto: the fastest exact one that is installed, measured if there is enough work",
    )
    add_precision_option(
        parser,
        ("fp32", "tf32", "bf16", "fp16", "int8"),
        "tf32, bf16, fp16: faster on a GPU, not exact; int8: faster on a CPU, not exact, needs ONNX Runtime "
        "(default: fp32)",
    )
    parser.add_argument(
        "--merge",
        type=int,
        default=0,
        metavar="R",
        help="merge R similar tokens in each layer (ToMe): faster, not exact (default: 0)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=0,
        metavar="N",
        help=f"images at a time; 0: measured if there is enough work, else {default_batch_size} (default: 0)",
    )
    add_device_option(parser)


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Declare --device, which train and finetune take as the setting compute.device."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (default: auto)")


def add_precision_option(parser: argparse.ArgumentParser, own: Sequence[str], meaning: str) -> None:
    """Declare --precision, which train and finetune take as the setting compute.precision.

    Args:
        own: the words that this verb takes, of those that --precision knows anywhere.
    """

    def precision(word: str) -> str:
        if word in own:
            return word
        known = f"{word} is for {_PRECISIONS[word]}" if word in _PRECISIONS else f"there is no precision {word!r}"
        raise argparse.ArgumentTypeError(f"{known}; expected {' or '.join(own)}")

    parser.add_argument("--precision", type=precision, metavar=f"{{{','.join(own)}}}", help=meaning)


def check_engine_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for numbers that make no sense, before anything heavy is imported."""
    if args.batch_size < 0:
        raise ConfigError("--batch-size must not be negative.", got=args.batch_size, expected="an integer >= 0")
    if args.merge < 0:
        raise ConfigError("--merge must not be negative.", got=args.merge, expected="an integer >= 0")


def engine_options(args: argparse.Namespace) -> "EngineOptions":
    """What was asked for. Raises ConfigError where it does not go together."""
    from vitrail.runtime import EngineOptions

    return EngineOptions(engine=args.engine, precision=args.precision or "fp32", merge=args.merge)
