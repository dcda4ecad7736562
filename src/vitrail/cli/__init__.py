"""The command line: `vitrail VERB ...`. One small module a verb; torch is imported only when a verb does its work.

Standard output carries the answer, a table or with --json one JSON object; progress and messages go to standard
error. Exit status: 0 done, 2 what was given is wrong, 1 an internal error, 74 saving failed, 75 one of several
processes was lost, 130/143 interrupted.
"""

import argparse
import atexit
import contextlib
import errno
import gc
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from vitrail import __version__, terminal
from vitrail.cli import (
    bench,
    calibrate,
    compare,
    convert,
    data,
    evaluate,
    explain,
    export,
    finetune,
    inspect,
    predict,
    pretrain,
    recipes,
    report,
    selftest,
    serve,
    track,
    train,
)
from vitrail.cli.answer import Answer
from vitrail.cli.completion import SHELLS, script
from vitrail.cli.words import Help, Parser, understood, verb_first
from vitrail.errors import ConfigError, VitrailError, shown, without_training

_LONGEST_WORD = 32_767


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
    "pretrain": pretrain,
    "finetune": finetune,
    "eval": evaluate,
    "predict": predict,
    "calibrate": calibrate,
    "report": report,
    "compare": compare,
    "track": track,
    "explain": explain,
    "export": export,
    "serve": serve,
    "inspect": inspect,
    "convert": convert,
    "data": data,
    "selftest": selftest,
    "bench": bench,
}
_SHARED = ("train", "pretrain", "finetune", "eval", "predict")
"""Verbs whose work several processes can share."""
_TAKE_SETTINGS = ("train", "pretrain", "finetune")


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
    if argv is not None:
        return _run(argv)
    statuses: list[int] = []
    atexit.register(_end_process, statuses)
    statuses.append(_run(sys.argv[1:]))
    return statuses[0]


def _end_process(statuses: list[int]) -> None:
    """The last thing that a process of its own does; whatever else registers for its end is called before.

    It ends without a last search for cycles through all of torch, 0.4 s. One of several processes ends at once:
    a thread of torch that reaches for Python while it shuts down would abort it, once in 20 times on a busy machine.
    """
    gc.freeze()
    if statuses and "WORLD_SIZE" in os.environ:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(statuses[0])


def _run(argv: Sequence[str]) -> int:
    """As `main`."""
    is_first, status, args = True, 0, None
    try:
        args = parsed(list(argv))
        is_first = _is_first(args.verb)
        answer = _VERBS[args.verb].run(args)
        if answer.values is None:
            return answer.status
        status = answer.status
        if not is_first:
            return status
        if args.json:
            terminal.answer_json(answer.values)
        else:
            terminal.answer(answer.lines)
    except VitrailError as error:
        if not (not is_first if error.is_shown_elsewhere is None else error.is_shown_elsewhere):
            terminal.say(error)
        return error.exit_status
    except KeyboardInterrupt:
        trains = args is not None and args.verb in _TAKE_SETTINGS
        left = "; a run that had not taken a step yet has left nothing behind: start it again" if trains else ""
        terminal.say(f"interrupted{left}")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            terminal.say_fault(error)
            return 1
        terminal.say(ConfigError("The name of a file is too long.", got=shown(error.filename)))
        return 2
    except ImportError as error:
        if (explained := without_training(error)) is None:
            terminal.say_fault(error)
            return 1
        terminal.say(explained)
        return explained.exit_status
    except Exception as error:  # the last resort: an internal error, shown whole
        terminal.say_fault(error)
        return 1
    return status


def _is_first(verb: str) -> bool:
    """Whether this process answers: it is alone, or the first of those that torchrun or --nproc started together.

    A rank that is left over in the environment, without the rest of a launch, silences nobody.
    """
    if verb not in _SHARED or "WORLD_SIZE" not in os.environ:
        return True
    from vitrail.distributed import rank_in_launch

    return rank_in_launch() == 0


def parsed(words: list[str]) -> argparse.Namespace:
    """What a command line says: the arguments of its verb, and `verb`, `settings`, `json`, `words`.

    Raises:
        ConfigError: it is not understood.
        SystemExit: it asked for help or for the version, which has been printed.
    """
    if odd := next((word for word in words if "\0" in word or len(word) > _LONGEST_WORD), ""):
        raise ConfigError(
            "An argument is too long, or contains a NUL character.",
            got=f"{len(odd)} characters: {shown(odd)}",
            expected=f"at most {_LONGEST_WORD} characters, none of them NUL",
        )
    parser, verbs = _parsers()
    ordered = verb_first(words, verbs)
    if not ordered or ordered[0].startswith("-"):
        asked = parser.parse_args(ordered or ["--help"])
        if asked.print_completion:
            terminal.answer(script(asked.print_completion, verbs, _TAKE_SETTINGS))
            raise SystemExit(0)
        parser.error("a command is missing")
    verb, *rest = ordered
    args = understood(rest, verbs[verb], takes_settings=verb in _TAKE_SETTINGS)
    args.verb, args.words = verb, ordered
    return args


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """That of the program, which shows the list of verbs, and that of each verb."""
    parser = Parser(
        prog="vitrail", allow_abbrev=False, description="From images to a Vision Transformer you can trust and ship."
    )
    parser.add_argument("--version", action="version", version=f"vitrail {__version__}")
    parser.add_argument("--print-completion", choices=SHELLS, help="print a script for the Tab key of this shell")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    parsers: dict[str, Parser] = {}
    for name, module in _VERBS.items():
        text = (module.__doc__ or "").strip()
        parsers[name] = verbs.add_parser(
            name,
            help=text.splitlines()[0].rstrip("."),
            description=text,
            allow_abbrev=False,
            formatter_class=Help,
        )
        module.add_arguments(parsers[name])
        parsers[name].add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser, parsers
