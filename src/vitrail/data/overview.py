"""What a data set holds, without decoding or downloading it."""

import numpy as np

from vitrail.config import DataConfig
from vitrail.data.decode import image_header
from vitrail.data.order import epoch_order
from vitrail.data.sources import Split, case_twins, open_source
from vitrail.errors import ImageError

# Headers that are read of each split; more would make it slow on large sets.
_SUMMARY_SAMPLE = 2000


def summary(config: DataConfig) -> dict[str, object]:
    """What a data set holds, without decoding or downloading it.

    Sizes and modes come from the headers of at most 2,000 records of each split, spread evenly or drawn by a fixed
    seed; `errors` names those among them that are no readable images.

    Raises:
        DataError: as `load`.
    """
    source = open_source(config)
    return {
        "name": source.name,
        "classes": list(source.classes),
        "num_bytes": source.num_bytes,
        "num_ignored_files": source.num_ignored,
        "notes": [*source.notes, *case_twins(source.classes)],
        "fingerprint": source.listing,
        "splits": {name: _split_summary(split, source.classes) for name, split in source.splits.items()},
    }


def _split_summary(split: Split, classes: tuple[str, ...]) -> dict[str, object]:
    counts = np.bincount(split.labels, minlength=len(classes))
    sample = np.arange(len(split))
    if len(split) > _SUMMARY_SAMPLE:
        sample = np.sort(epoch_order(0, 0, len(split))[:_SUMMARY_SAMPLE])
    sizes: dict[str, int] = {}
    kinds: dict[str, int] = {}
    errors: list[dict[str, str]] = []
    for position, record in zip(sample, split.read(sample), strict=True):
        if isinstance(record, np.ndarray):
            kind, size = f"array {'L' if record.ndim == 2 else 'RGB'}", f"{record.shape[1]}x{record.shape[0]}"
        else:
            try:
                header = image_header(record, name=split.names[int(position)])
            except ImageError as error:
                known = split.packed.errors.get(int(position)) if split.packed else None
                errors.append({"path": error.name, "error": (known or error).reason})
                continue
            kind, size = f"{header.format} {header.mode}", f"{header.width}x{header.height}"
        kinds[kind] = kinds.get(kind, 0) + 1
        sizes[size] = sizes.get(size, 0) + 1
    smallest = int(counts[counts > 0].min(initial=len(split) or 1))
    return {
        "num_examples": len(split),
        "per_class": {name: int(count) for name, count in zip(classes, counts, strict=True)},
        "imbalance": float(counts.max(initial=0) / smallest),
        "num_sampled": len(sample),
        "formats": _by_count(kinds),
        "sizes": _by_count(sizes),
        "errors": errors,
    }


def _by_count(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
