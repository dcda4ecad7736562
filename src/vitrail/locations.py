"""The folders of the user that data comes from and goes to. The only place of this room that reads the environment."""

import os
from pathlib import Path

from vitrail.errors import ConfigError, shown

_NOWHERE = Path(os.devnull)
"""What is to be kept below this is not kept, which whoever asks for it has to expect of any folder."""


def data_root(root: str | Path | None = None) -> Path:
    """Where named data sets lie: `root`, else VITRAIL_DATA, else the user's cache folder.

    Raises:
        ConfigError: nothing of this is known, or it is a file.
    """
    chosen = str(root) if root else os.environ.get("VITRAIL_DATA", "")
    folder = Path(os.path.expanduser(chosen)) if chosen else _cache_home("--data-root or VITRAIL_DATA") / "data"
    if folder.is_file():
        raise ConfigError(
            f"{shown(folder)}: a file, where the folder of named data sets is looked for.",
            do="Name a folder with --data-root or VITRAIL_DATA.",
        )
    return folder


def decoded_cache() -> Path:
    """Where decoded images are kept that do not fit into memory. Raises ConfigError where that is not known."""
    return _cache_home("XDG_CACHE_HOME, or raise data.ram-budget-mib") / "decoded"


def table_cache() -> Path:
    """Where the indices of local shards are kept. Raises ConfigError where that is not known."""
    return _cache_home("XDG_CACHE_HOME") / "tables"


def chunk_cache() -> Path:
    """Where fetched chunks of shards are kept. Raises ConfigError where that is not known."""
    return _cache_home("XDG_CACHE_HOME") / "chunks"


def teacher_cache() -> Path:
    """Where a teacher's answers are kept."""
    return _cache_home() / "teachers"


def token_cache() -> Path:
    """Where it is kept what frozen layers make of images. Raises ConfigError where that is not known."""
    return _cache_home("XDG_CACHE_HOME, or train with --no-compute.cache-tokens") / "tokens"


def engine_cache() -> Path:
    """Where models are kept that were translated for another engine."""
    return _cache_home() / "engines"


def linear_kernels_cache() -> Path:
    """Where it is kept whose matrix products are faster on this machine."""
    return _cache_home() / "products"


def _cache_home(instead: str = "") -> Path:
    """The folder of what can be made again. Where nothing says whose home it is in, ConfigError, which says what to set
    `instead`; without that, a place where nothing can be kept.
    """
    caches, home = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~")
    if os.path.isabs(caches):
        return Path(caches, "vitrail")
    if os.path.isabs(home) and os.environ.get("HOME") != "":
        return Path(home, ".cache", "vitrail")
    if not instead:
        return _NOWHERE / "vitrail"
    raise ConfigError(
        "The folder of your caches is not known.",
        got="an empty HOME" if "HOME" in os.environ else "no HOME, and a user without an entry",
        do=f"Set HOME, or {instead}.",
    )
