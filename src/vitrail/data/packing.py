"""Decode a whole data set once, into a folder that is a data set itself, as fast as memory the next time."""

import json
from pathlib import Path
from typing import Any

from vitrail import fsio
from vitrail.config import DataConfig, to_json
from vitrail.data.dataset import preprocessing_for
from vitrail.data.sources import Split, open_source
from vitrail.data.sources.packed import FORMAT_VERSION, INDEX
from vitrail.data.store import Decoded, decode_split
from vitrail.errors import DataError


def pack(config: DataConfig, target: Path, *, progress: bool = False) -> dict[str, Any]:
    """Write every split of a data set as decoded pixels; the folder appears whole or not at all.

    Args:
        config: which data set, and how its images are decoded.
        target: the folder; nothing may stand there.
        progress: show bars on stderr.
    Returns:
        path, num_bytes, decode_size, and for each split num_examples and errors.
    Raises:
        DataError: no such data set, or `target` exists.
        SaveError: it could not be written; nothing is left of it.
    """
    if target.exists():
        raise DataError(f"{target} exists.", expected="a new folder", do="Choose another one, or delete it.")
    source, preprocessing = open_source(config, may_download=True, progress=progress), preprocessing_for(config)
    files: dict[str, list[bytes | memoryview]] = {}
    splits: dict[str, dict[str, Any]] = {}
    for name, split in source.splits.items():
        decoded = decode_split(
            split,
            preprocessing,
            listing=source.listing,
            ram_budget_bytes=config.ram_budget_mib << 20,
            progress=progress,
            title=f"{source.name} {name}",
        )
        files[f"{name}.pixels"] = [decoded.pixels.reshape(-1).data]
        files[f"{name}.json"] = [_records(split, decoded)]
        errors = [{"path": error.name, "error": error.reason} for error in decoded.errors]
        splits[name] = {"num_examples": len(split), "errors": errors}

    def index(hashes: dict[str, str]) -> bytes:
        described = {
            "format_version": FORMAT_VERSION,
            "name": source.name,
            "classes": list(source.classes),
            "preprocessing": to_json(preprocessing),
            "splits": {
                name: {"pixels_sha256": hashes[f"{name}.pixels"], "records_sha256": hashes[f"{name}.json"]}
                for name in source.splits
            },
        }
        return (json.dumps(described, indent=1) + "\n").encode()

    fsio.write_new_dir(target, files, (INDEX, index))
    num_bytes = sum(path.stat().st_size for path in target.iterdir())
    return {"path": str(target), "num_bytes": num_bytes, "decode_size": preprocessing.decode_size, "splits": splits}


def _records(split: Split, decoded: Decoded) -> bytes:
    kept = set(decoded.kept.tolist())
    lost = [position for position in range(len(split)) if position not in kept]
    reasons = {str(position): error.reason for position, error in zip(lost, decoded.errors, strict=True)}
    return json.dumps({"labels": split.labels.tolist(), "names": list(split.names), "errors": reasons}).encode()
