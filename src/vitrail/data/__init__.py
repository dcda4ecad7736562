"""Files -> uint8 images and labels, and batches of them in a reproducible order.

`load` opens a data set and decodes it once; `epoch_order` and `batches` walk over it. `load_image` is the way of a
single file, the same one that `load` takes.
"""

from vitrail.data.check import check
from vitrail.data.dataset import ImageSet, available_splits, load, preprocessing_for, summary
from vitrail.data.decode import Limits, decode_image, load_image
from vitrail.data.loader import Batch, Timed, batches
from vitrail.data.order import balanced_order, epoch_order
from vitrail.data.pack import pack
from vitrail.data.sources import Source, download, open_source, place_of
from vitrail.data.sources.walk import files_at

__all__ = [
    "available_splits",
    "Batch",
    "ImageSet",
    "Source",
    "Limits",
    "Timed",
    "balanced_order",
    "batches",
    "check",
    "decode_image",
    "download",
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
