"""--engine, --precision, --merge and --batch-size: what runs a model for eval and predict."""

import argparse
from typing import TYPE_CHECKING

from vitrail.errors import ConfigError

if TYPE_CHECKING:
    from vitrail.runtime import EngineOptions


def add_engine_options(parser: argparse.ArgumentParser, default_batch_size: str) -> None:
    """Declare them. docs/engines.md says what each costs."""
    parser.add_argument(
        "--engine",
        default="auto",
        choices=("auto", "torch", "onnx", "openvino"),
        help="what runs the model; auto: the fastest exact one installed, where the work is worth a measurement",
    )
    parser.add_argument(
        "--precision", default="fp32", choices=("fp32", "int8"), help="int8: faster, not exact; needs ONNX Runtime"
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
        help=f"images at a time; 0: measured where there is much to do, else {default_batch_size} (default: 0)",
    )


def check_engine_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for numbers that make no sense, before anything heavy is imported."""
    if args.batch_size < 0:
        raise ConfigError("--batch-size must not be negative.", got=args.batch_size, expected="an integer >= 0")
    if args.merge < 0:
        raise ConfigError("--merge must not be negative.", got=args.merge, expected="an integer >= 0")


def engine_options(args: argparse.Namespace) -> "EngineOptions":
    """What was asked for. Raises ConfigError where it does not go together."""
    from vitrail.runtime import EngineOptions

    return EngineOptions(engine=args.engine, precision=args.precision, merge=args.merge)
