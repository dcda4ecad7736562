"""The folders of the user that data comes from and goes to. The only place of this room that reads the environment."""

import os
from pathlib import Path


def data_root(root: str | Path | None = None) -> Path:
    """Where named data sets lie: `root`, else VITRAIL_DATA, else the user's cache folder."""
    chosen = str(root) if root else os.environ.get("VITRAIL_DATA", "")
    return Path(chosen).expanduser() if chosen else _cache_home() / "data"


def decoded_cache() -> Path:
    """Where decoded images are kept that do not fit into memory."""
    return _cache_home() / "decoded"


def engine_cache() -> Path:
    """Where models are kept that were translated for another engine."""
    return _cache_home() / "engines"


def products_cache() -> Path:
    """Where it is kept whose matrix products are faster on this machine."""
    return _cache_home() / "products"


def _cache_home() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "vitrail"
