"""One family of errors: what is wrong, what was got, what was expected, what to do.

Every error a user can cause derives from `VitrailError` and carries the exit status that the command line ends
with. A message reads, in at most three lines:

    data.batch-size must be positive.
      Got 0; expected an integer >= 1.
      Use --data.batch-size 128.

Names of files, classes, columns and tensors come from strangers: `shown` and `shell_word` put them into a form that can
be printed. `VitrailError` applies `shown` to each of its parts, `vitrail.terminal` to every line.
"""

import difflib
import heapq
import importlib.util
import os
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Sequence

LONGEST_PART = 2000
"""Characters of one part of a message, or one cell of a table, at most."""
_LONGEST_NAME, _MOST_NAMES = 120, 200
"""Characters of a name, and number of them, that are compared to find a misspelling."""


def shown(text: object, most: int = 120) -> str:
    """A stranger's text (the name of a file, class, column or tensor; a server's answer) in a form that can be printed.

    Control, bidirectional and undecodable characters become escapes, so that no name can forge a line or colour a
    terminal; of a long text the middle is left out.

    Args:
        text: anything; `str` is applied to it.
        most: characters, at least 8.
    """
    whole = str(text)
    if len(whole) > most:
        head = (most - 3) * 2 // 3
        whole = f"{whole[:head]}...{whole[len(whole) - (most - 3 - head) :]}"
    return whole if whole.isprintable() else "".join(map(_printable, whole))


def shell_word(text: object) -> str:
    """A path or name as one word of a command that is printed to be pasted into a shell."""
    word = str(text)
    if word.isprintable():
        return shlex.quote(word)
    printable = (
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word)
    )
    return f"$'{''.join(printable)}'"


def install_hint(*packages: str) -> str:
    """The command that installs what is missing into the Python that runs, however vitrail itself got there."""
    return f"Install it with: {shell_word(sys.executable)} -m pip install {' '.join(packages)}"


TRAINING_PACKAGES = ("torch", "safetensors", "huggingface_hub", "sklearn", "scipy", "jinja2", "onnx")
"""What the extra `train` installs, by the names that are imported."""


def without_training(error: ImportError) -> "ConfigError | None":
    """What to say where a package of the extra `train` is missing; None: the error is about something else."""
    name = (error.name or "").partition(".")[0]
    if name not in TRAINING_PACKAGES or importlib.util.find_spec(name) is not None:
        return None
    return ConfigError(
        "This needs torch and what goes with it. Without them, exported files are used: by predict, inspect and serve, "
        "in Python by ExportedPredictor.",
        got=f"no {name}",
        do=install_hint(shell_word("vitrail[train]")),
    )


def import_hint(package: str) -> str:
    """What to do about a package that does not import: install it, or mend what it needs."""
    if importlib.util.find_spec(package) is None:
        return install_hint(package)
    return f"{package} is installed; what it needs is missing or does not match it (torchvision must match torch)."


def nearest(name: object, among: Iterable[str], cutoff: float = 0.6) -> str:
    """The name that `name` may be a misspelling of; empty when none is near. However many and long they are, it takes
    no time: of very many, those are looked at that begin and end most like it.
    """
    given, known = str(name)[:_LONGEST_NAME], list(among)
    if len(known) > _MOST_NAMES:
        known = heapq.nlargest(
            _MOST_NAMES, known, key=lambda other: _in_common(given, other) + _in_common(given[::-1], other[::-1])
        )
    return next(iter(difflib.get_close_matches(given, known, n=1, cutoff=cutoff)), "")


def _in_common(one: str, other: str) -> int:
    """Characters that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _printable(character: str) -> str:
    """The character itself, or its escape; spaces other than the usual one are harmless, and common in names."""
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _part(value: object) -> str:
    """One part of a message on one line. Messages of other libraries may have several lines, and they become one."""
    return shown(" ".join(str(value).split()) if isinstance(value, BaseException) else value, LONGEST_PART)


class VitrailError(Exception):
    """What the user gave, or what the machine refused, in a form that says what to do next.

    Args:
        what: one sentence that names the field, file or command.
        listed: what the sentence is about, each on a line of its own.
        got: the offending value or finding, in a few words.
        expected: what would have been right.
        do: the next thing to type or to change.
    """

    exit_status = 2
    is_shown_elsewhere: bool | None = None
    """Whether another process of the same run shows it to the user; None: there was none to ask."""

    def __init__(
        self,
        what: str,
        *,
        listed: Sequence[object] = (),
        got: object = None,
        expected: object = None,
        do: str | None = None,
    ) -> None:
        self.what, self.got, self.expected, self.do = what, got, expected, do
        details = [
            f"{word} {_part(value)}" for word, value in (("got", got), ("expected", expected)) if value is not None
        ]
        lines = [_part(what), *(f"    {_part(one)}" for one in listed)]
        if details:
            sentence = "; ".join(details)
            lines.append(f"  {sentence[0].upper()}{sentence[1:]}.")
        if do:
            lines.append(f"  {_part(do)}")
        super().__init__("\n".join(lines))


class ConfigError(VitrailError, ValueError):
    """A setting is wrong: misspelt, out of range, or at odds with another one."""


class DataError(VitrailError):
    """A data set is missing, empty, mislabelled or does not match the model."""


class ImageError(VitrailError):
    """One image could not be read.

    Args:
        reason: why, in a few words without the name.
        name: the file, or the record's place in its shard.
    """

    def __init__(self, reason: str, name: str) -> None:
        self.reason, self.name = reason, name
        super().__init__(f"{name}: {reason}")


class InputError(VitrailError, ValueError):
    """A tensor given to the model has the wrong shape, type or range."""


class WeightsError(VitrailError):
    """A model file is missing, damaged, or not one that this version reads."""


class RunError(VitrailError):
    """A run directory is missing, already used, or cannot be continued."""


class SaveError(VitrailError, OSError):
    """Writing failed. Everything that was saved before is intact."""

    exit_status = 74


class RankLost(VitrailError):
    """A process of a run with several is gone or hangs. What was saved is intact, and a retry makes sense."""

    exit_status = 75


class Interrupted(VitrailError):
    """A signal stopped the run; its state is saved.

    Args:
        signal_number: 2 for Ctrl-C, 15 for SIGTERM.
        do: the command that goes on.
    """

    def __init__(self, what: str, *, signal_number: int, do: str) -> None:
        super().__init__(what, do=do)
        self.exit_status = 128 + signal_number
