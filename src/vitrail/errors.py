"""One family of errors: what is wrong, what was got, what was expected, what to do.

Every error a user can cause derives from `VitrailError` and carries the exit status that the command line ends
with. A message reads, in at most three lines:

    data.batch-size must be positive.
      Got 0; expected an integer >= 1.
      Use --data.batch-size 128.
"""


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
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in whole)


class VitrailError(Exception):
    """What the user gave, or what the machine refused, in a form that says what to do next.

    Args:
        what: one sentence that names the field, file or command.
        got: the offending value or finding, in a few words.
        expected: what would have been right.
        do: the next thing to type or to change.
    """

    exit_status = 2
    told: bool | None = None
    """Whether another process of the same run shows it to the user; None: there was none to ask."""

    def __init__(self, what: str, *, got: object = None, expected: object = None, do: str | None = None) -> None:
        self.what, self.got, self.expected, self.do = what, got, expected, do
        details = [f"{word} {value}" for word, value in (("got", got), ("expected", expected)) if value is not None]
        lines = [what]
        if details:
            sentence = "; ".join(details)
            lines.append(f"  {sentence[0].upper()}{sentence[1:]}.")
        if do:
            lines.append(f"  {do}")
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
