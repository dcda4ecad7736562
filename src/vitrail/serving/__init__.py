"""A server for exported files: images in, ranked labels out, over HTTP; no torch.

One process holds the event loop and the model; child processes decode. docs/serving.md is the contract with clients.

    connections -> guard -> routes -> service -> decoders, batching -> the model

The names load on first use, so that a decoder, which is a module of this room, imports no web server.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.serving.options import ServeOptions
    from vitrail.serving.server import serve

__all__ = ["ServeOptions", "serve"]

_HOMES = {"ServeOptions": "vitrail.serving.options", "serve": "vitrail.serving.server"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitrail.serving' has no attribute {name!r}")
