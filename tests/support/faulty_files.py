"""A file system that fails at one operation."""

import os
from typing import Any

from vitrail.selftest.faulty_files import Counting


class FailingAt(Counting):
    """Operation number `at` fails with an errno, once; a write half done when `short`."""

    def __init__(self, at: int, code: int, *, short: bool = False) -> None:
        super().__init__()
        self.at, self.code, self.short, self.failed = at, code, short, ""

    def before(self, name: str, file: Any = None, data: Any = None) -> None:
        super().before(name)
        if self.count - 1 == self.at:
            self.failed = name
            if self.short and file is not None:
                file._file.write(data[: len(data) // 2])
            raise OSError(self.code, os.strerror(self.code))
