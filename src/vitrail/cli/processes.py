"""--nproc N: this process starts N others with the same command line, and waits for them."""

import argparse
from collections.abc import Sequence

from vitrail.cli.answer import Answer
from vitrail.errors import ConfigError


def add_process_options(parser: argparse.ArgumentParser, *, restarts: bool = False) -> None:
    """Declare --nproc, and --max-restarts where a verb can go on."""
    parser.add_argument("--nproc", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    if restarts:
        parser.add_argument(
            "--max-restarts", type=int, default=0, metavar="N", help="with --nproc: restart and resume up to N times"
        )


def started_here(args: argparse.Namespace) -> bool:
    """Whether this process only starts the others: --nproc was given, and it is not one of them itself.

    Raises:
        ConfigError: a number that makes no sense, or --nproc under torchrun.
    """
    if args.nproc < 1:
        raise ConfigError("--nproc must be positive.", got=args.nproc, expected="an integer >= 1")
    if args.nproc == 1:
        if getattr(args, "max_restarts", 0):
            raise ConfigError("--max-restarts needs --nproc.", do="Add --nproc N, or leave --max-restarts out.")
        return False
    from vitrail.distributed import is_launched

    if is_launched():
        raise ConfigError("--nproc and torchrun exclude each other.", do="Leave --nproc out: torchrun has its own.")
    return True


def without_processes(words: Sequence[str]) -> list[str]:
    """The arguments of a command line without --nproc and --max-restarts and their values."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("--nproc", "--max-restarts"):
            skip = True
        elif not word.startswith(("--nproc=", "--max-restarts=")):
            kept.append(word)
    return kept


def launched(args: argparse.Namespace, *more: str) -> Answer:
    """Run the command line in --nproc processes. The first of them gives the answer; here is its exit status.

    Args:
        args: of the verb.
        more: arguments that this process decided on for all.
    Raises:
        RankLost: a signal killed one of them.
    """
    from vitrail.distributed import launch

    words = [*without_processes(args.words), *more]
    status = launch(words, args.nproc, max_restarts=getattr(args, "max_restarts", 0))
    return Answer([], None, status)
