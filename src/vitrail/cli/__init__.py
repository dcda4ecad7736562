"""The command line: `vitrail VERB ...`. One small module a verb; torch is imported only when a verb does its work.

Standard output carries the answer, a table or with --json one JSON object; progress and messages go to standard
error. Exit status: 0 done, 2 what was given is wrong, 1 a fault of ours, 74 saving failed, 75 one of several processes
was lost, 130/143 interrupted.
"""

import argparse
import atexit
import gc
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Protocol

from vitrail import __version__
from vitrail.cli import bench, convert, data, evaluate, finetune, inspect, predict, recipes, selftest, train
from vitrail.cli.answer import Answer
from vitrail.cli.settings import split_settings
from vitrail.errors import VitrailError


class Verb(Protocol):
    """What a module of this room provides."""

    __name__: str

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(args: argparse.Namespace) -> Answer: ...


_VERBS: dict[str, Verb] = {
    "recipes": recipes,
    "train": train,
    "finetune": finetune,
    "eval": evaluate,
    "predict": predict,
    "inspect": inspect,
    "convert": convert,
    "data": data,
    "selftest": selftest,
    "bench": bench,
}
_SHARED = ("train", "finetune", "eval", "predict")
"""Verbs whose work several processes can share."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; None: those of the process.
    Returns:
        The exit status.
    """
    # Before torch loads: threads that spin 3,000 turns for their next piece of work, not 300,000, are as fast on a
    # quiet machine and take less from each other on a busy one (docs/LOG.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if argv is None:  # a process of its own: it ends without a last search for cycles through all of torch, 0.4 s
        atexit.register(gc.freeze)
    words, settings = split_settings(list(sys.argv[1:] if argv is None else argv))
    args = _parser().parse_args(words)
    args.settings, args.words = settings, list(sys.argv[1:] if argv is None else argv)
    is_first, status = True, 0
    try:
        is_first = _is_first(args.verb)
        if settings and args.verb not in ("train", "finetune"):
            _parser().error(f"{args.verb} takes no settings: {' '.join(settings)}")
        answer = _VERBS[args.verb].run(args)
        if answer.values is None:
            return answer.status
        status = answer.status
        if not is_first:
            return status
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold bytes that the terminal cannot show
            sys.stdout.reconfigure(errors="backslashreplace")
        sys.stdout.write((json.dumps(answer.values, allow_nan=False) if args.json else answer.text) + "\n")
        sys.stdout.flush()
    except VitrailError as error:
        if not (not is_first if error.told is None else error.told):
            sys.stderr.write(f"vitrail: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("vitrail: interrupted\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:  # the last resort: a fault of ours, shown whole
        traceback.print_exc()
        sys.stderr.write("vitrail: this is a fault of vitrail's; please report it with the lines above.\n")
        return 1
    return status


def _is_first(verb: str) -> bool:
    """Whether this process answers: it is alone, or the first of those that torchrun or --nproc started together.

    A rank that is left over in the environment, without the rest of a launch, silences nobody.
    """
    if verb not in _SHARED or "WORLD_SIZE" not in os.environ:
        return True
    from vitrail.distributed import launched_rank

    return launched_rank() == 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitrail", allow_abbrev=False, description="From images to a Vision Transformer you can trust and ship."
    )
    parser.add_argument("--version", action="version", version=f"vitrail {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in _VERBS.items():
        text = (module.__doc__ or "").strip()
        verb = verbs.add_parser(
            name,
            help=text.splitlines()[0].rstrip("."),
            description=text,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser
