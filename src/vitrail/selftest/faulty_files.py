"""File systems that count their operations, or kill the process at one of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from vitrail import fsio


class _File:
    """A file whose writes are operations too."""

    def __init__(
        self, file: IO[Any], before: Callable[[str, "_File", Any], None], after: Callable[[str], None]
    ) -> None:
        self._file, self._before, self._after = file, before, after

    def write(self, data: Any) -> int:
        self._before("write", self, data)
        written = self._file.write(data)
        self._file.flush()
        self._after("write")
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Counting(fsio.FileSystem):
    """Counts the operations that change anything, and lets something happen before or after one of them."""

    def __init__(self) -> None:
        self.count = 0
        self.names: list[str] = []

    def before(self, name: str, file: Any = None, data: Any = None) -> None:
        self.count += 1
        self.names.append(name)

    def after(self, name: str) -> None:
        pass

    def open(self, path: Path, mode: str, buffering: int = -1) -> IO[Any]:
        self.before("open")
        file = super().open(path, mode, buffering)
        self.after("open")
        return _File(file, self.before, self.after)  # type: ignore[return-value]

    def fsync(self, file: IO[Any]) -> None:
        self._through("fsync", super().fsync, file)

    def replace(self, source: Path, target: Path) -> None:
        self._through("replace", super().replace, source, target)

    def fsync_dir(self, path: Path) -> None:
        self._through("fsync_dir", super().fsync_dir, path)

    def link(self, source: Path, target: Path) -> None:
        self._through("link", super().link, source, target)

    def truncate(self, file: IO[Any], length: int) -> None:
        self._through("truncate", super().truncate, file, length)

    def mkdir(self, path: Path) -> None:
        self._through("mkdir", super().mkdir, path)

    def unlink(self, path: Path) -> None:
        self._through("unlink", super().unlink, path)

    def rmtree(self, path: Path) -> None:
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink():
                self.rmtree(child)
            else:
                self._through("unlink", super().unlink, child)
        self._through("rmdir", lambda: os.rmdir(path))

    def _through(self, name: str, operation: Callable[..., None], *arguments: Any) -> None:
        self.before(name)
        operation(*arguments)
        self.after(name)


class Dying(Counting):
    """The process is gone before or after operation number `at`, half of it written if it writes; -1: never."""

    def __init__(self, at: int, after: bool) -> None:
        super().__init__()
        self.at, self.dies_after = at, after

    def before(self, name: str, file: Any = None, data: Any = None) -> None:
        super().before(name)
        if self.count - 1 == self.at and not self.dies_after:
            if file is not None:
                file._file.write(data[: len(data) // 2])
                file._file.flush()
            os._exit(9)

    def after(self, name: str) -> None:
        if self.count - 1 == self.at and self.dies_after:
            os._exit(9)
