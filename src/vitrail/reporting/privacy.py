"""What a report does not tell: where files lie outside, and so the names of users."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

_ABSOLUTE = re.compile(r"(^~|^/|^[A-Za-z]:[\\/]|^\.\.([\\/]|$))")


class Private:
    """Takes from texts what tells where they come from: folders outside, the user's among them.

    Args:
        with_host: leave all as it is.
    """

    def __init__(self, with_host: bool = False) -> None:
        self.with_host = with_host
        self._folders: list[str] = []

    def hide(self, *paths: str | Path) -> None:
        """Take the folders that lead to these paths out of every text."""
        for path in map(Path, paths):
            for one in {path.absolute().parent, path.resolve().parent}:
                if len(str(one)) > 1:
                    self._folders.append(f"{one}/")
        self._folders.sort(key=len, reverse=True)

    def path(self, text: str) -> str:
        """A path as the report shows it: whole where it leads into the working directory, else its last part."""
        if self.with_host or not _ABSOLUTE.match(text):
            return text
        return Path(text).name or text

    def text(self, text: str) -> str:
        """A sentence of another part of the program, without the folders in it."""
        if self.with_host:
            return text
        for folder in self._folders:
            text = text.replace(folder, "")
        return text

    def value(self, value: Any) -> Any:
        """A JSON value, every text of it."""
        if isinstance(value, str):
            return self.text(self.path(value))
        if isinstance(value, Mapping):
            return {name: self.value(one) for name, one in cast(dict[str, Any], value).items()}
        if isinstance(value, list | tuple):
            return [self.value(one) for one in cast(Sequence[Any], value)]
        return value
