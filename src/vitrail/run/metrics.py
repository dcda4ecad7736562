"""Log files of a run: one JSON object a line, appended whole or cut off again.

metrics.jsonl holds what a repetition of the run repeats to the last digit; timing.jsonl what a clock said.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vitrail import fsio
from vitrail.errors import RunError
from vitrail.reading import open_regular, parsed_json
from vitrail.schema import whole

_LONGEST_LINE = 1 << 20
_STEP = whole(0, 2**63)


class LineLog:
    """A file of JSON lines that is only ever as long as what was written whole.

    Args:
        path: the file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[dict[str, Any]], object]] = []
        self._length = sum(map(len, _whole_lines(path)))

    def append(self, record: dict[str, Any]) -> None:
        """Write one object and hand it to the operating system.

        Raises:
            SaveError: it could not be written; the next call cuts off what was torn.
        """
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        fsio.write_tail(self.path, self._length, line)
        self._length += len(line)
        for listener in self.listeners:
            listener(record)

    def flush_to_disk(self) -> None:
        """Wait until everything would survive a loss of power. Raises SaveError."""
        if self._length:
            fsio.flush_to_disk(self.path)

    def read(self) -> list[dict[str, Any]]:
        """Every whole object, in order."""
        return [parsed_json(line) for line in _whole_lines(self.path)]

    def cut(self, step: int) -> None:
        """Drop what was logged after `step`: a resumed run writes it again. Raises SaveError."""
        kept = [line for line in _whole_lines(self.path) if parsed_json(line)["step"] <= step]
        fsio.write_bytes(self.path, b"".join(kept))
        self._length = sum(map(len, kept))


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Lines up to the first that was torn by a kill, or is no record. Raises RunError."""
    try:
        with io.BufferedReader(open_regular(path)) as file:
            while (line := file.readline(_LONGEST_LINE)).endswith(b"\n") and _is_record(line):
                yield line
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read.", got=error.strerror, expected="the log of a run, a regular file"
        ) from error


def _is_record(line: bytes) -> bool:
    try:
        record = parsed_json(line, finite=True)
    except ValueError:
        return False
    return isinstance(record, dict) and _STEP.fits(record.get("step"))
