"""Files -> uint8 images and labels, and batches of them in a reproducible order.

`load` opens a data set and decodes it once; `epoch_order` and `batches` walk over it. `load_image` is the way of a
single file, the same one that `load` takes.

The names load on first use, so that files are found and decoded without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.data.checks import check
    from vitrail.data.crops import Crop
    from vitrail.data.dataset import available_splits, load, preprocessing_for
    from vitrail.data.decode import Limits, decode_image, load_image
    from vitrail.data.image_set import ImageSet
    from vitrail.data.loader import Batch, Order, Timed, batches
    from vitrail.data.on_demand import OnDemand
    from vitrail.data.order import balanced_order, epoch_order
    from vitrail.data.overview import summary
    from vitrail.data.packing import pack
    from vitrail.data.samples import Samples, draw
    from vitrail.data.sources import Source, download, open_source, place_of
    from vitrail.data.sources.walk import files_at

__all__ = [
    "available_splits",
    "Batch",
    "Crop",
    "ImageSet",
    "OnDemand",
    "Order",
    "Samples",
    "Source",
    "Limits",
    "Timed",
    "balanced_order",
    "batches",
    "check",
    "decode_image",
    "download",
    "draw",
    "epoch_order",
    "files_at",
    "load",
    "open_source",
    "load_image",
    "pack",
    "place_of",
    "preprocessing_for",
    "summary",
]

_MODULES = {
    "checks": ("check",),
    "crops": ("Crop",),
    "dataset": ("available_splits", "load", "preprocessing_for"),
    "decode": ("Limits", "decode_image", "load_image"),
    "image_set": ("ImageSet",),
    "loader": ("Batch", "Order", "Timed", "batches"),
    "order": ("balanced_order", "epoch_order"),
    "on_demand": ("OnDemand",),
    "packing": ("pack",),
    "samples": ("Samples", "draw"),
    "sources": ("Source", "download", "open_source", "place_of"),
    "sources.walk": ("files_at",),
    "overview": ("summary",),
}
_HOMES = {name: f"vitrail.data.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitrail.data' has no attribute {name!r}")
