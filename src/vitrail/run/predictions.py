"""What a model answered, image by image: a safetensors file beside every evaluation, and what reads it. No torch.

Reports, comparisons and calibration are made from it, without the model. The file has a row an image, ordered by id:
the same rows, whatever the number of processes.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from vitrail import fsio
from vitrail.errors import RunError, VitrailError, shown
from vitrail.reading import parsed_json, read_regular
from vitrail.schema import TEXT, checked, many, record, whole
from vitrail.tensor_header import HEADER_SHA256, header_sha256, read_header

MOST_LOGITS = 50_000_000
"""All logits are kept up to this many numbers, 200 MB."""
TOP = 5
_MOST_BYTES = 4 << 30
_VERSION = 1
_TYPES = {"I64": np.int64, "I32": np.int32, "F32": np.float32, "U8": np.uint8}
_ABOUT = {
    "version": whole(1),
    **dict.fromkeys(("data", "split", "fingerprint", "engine"), TEXT),
    "step": whole(-1, 2**63),
    "classes": many(TEXT, 1),
    "unreadable": many(record(path=TEXT, error=TEXT)),
}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The answers of a model for the readable images of a split.

    Args:
        split: which part of the data set.
        fingerprint: SHA-256 over classes, names, labels and pixels of the split, in hexadecimal.
        classes: names in the order of the logits.
        data: the data set, as --data takes it; empty: unknown.
        engine: what ran the model, in a few words.
        step: optimiser steps that the model had taken; -1: unknown.
        names: the file of each image, or its place in a shard.
        ids: position of each image in the split of the source, rising.
        labels: the true classes.
        top_classes, top_probabilities: the (up to five) most probable classes, by falling probability, in [0, 1],
            without a temperature.
        losses: cross-entropy in nats.
        log_sum_exp: of the logits.
        logits: None where there would be more than 50 million of them.
        unreadable: path and reason of the images that count as wrong answers and have no row.
    """

    split: str
    fingerprint: str
    classes: tuple[str, ...]
    data: str = ""
    engine: str = "torch fp32"
    step: int = -1
    names: Sequence[str]
    ids: Int64[np.ndarray, "N"]
    labels: Int32[np.ndarray, "N"]
    top_classes: Int32[np.ndarray, "N k"]
    top_probabilities: Float32[np.ndarray, "N k"]
    losses: Float32[np.ndarray, "N"]
    log_sum_exp: Float32[np.ndarray, "N"]
    unreadable: tuple[tuple[str, str], ...]
    logits: Float32[np.ndarray, "N L"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_examples(self) -> int:
        """Images, those that could not be read included."""
        return len(self.ids) + len(self.unreadable)

    @functools.cached_property
    def correct(self) -> Bool[np.ndarray, "N"]:
        """Whether each answer is right."""
        return self.top_classes[:, 0] == self.labels

    @property
    def label_probabilities(self) -> Float32[np.ndarray, "N"]:
        """Probability of each true class, in [0, 1], without a temperature."""
        return np.exp(-self.losses)

    def save(self, path: Path) -> None:
        """Write the file, atomically and the same bytes every time. Raises SaveError."""
        pieces = self._pieces()
        with fsio.writing(path, needed_bytes=sum(memoryview(piece).nbytes for piece in pieces)) as file:
            for piece in pieces:
                file.write(piece)

    def _pieces(self) -> list[bytes | memoryview]:
        import torch  # for tensor_file: who has made predictions has imported it

        from vitrail.tensor_file import tensor_file

        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        arrays.pop("correct", None)
        text = "\0".join(self.names).encode("utf-8", "surrogateescape")
        arrays["names"] = np.frombuffer(text, np.uint8)
        about = {
            "version": _VERSION,
            **{name: getattr(self, name) for name in ("data", "split", "fingerprint", "engine", "step", "classes")},
            "unreadable": [{"path": path, "error": error} for path, error in self.unreadable],
        }
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        return tensor_file(tensors, {"vitrail-predictions": json.dumps(about)})


def read_predictions(path: str | Path) -> Predictions:
    """Read a predictions file.

    Raises:
        RunError: there is none, it is damaged, or from a newer version.
    """
    path = Path(path)
    try:
        about, arrays = _read(path)
        names = arrays["names"].tobytes().decode("utf-8", "surrogateescape")
        found = Predictions(
            split=about["split"],
            fingerprint=about["fingerprint"],
            classes=tuple(about["classes"]),
            data=about["data"],
            engine=about["engine"],
            step=about["step"],
            names=names.split("\0") if len(arrays["ids"]) else [],
            ids=arrays["ids"],
            labels=arrays["labels"],
            top_classes=arrays["top_classes"],
            top_probabilities=arrays["top_probabilities"],
            losses=arrays["losses"],
            log_sum_exp=arrays["log_sum_exp"],
            logits=arrays.get("logits"),
            unreadable=tuple((entry["path"], entry["error"]) for entry in about["unreadable"]),
        )
        _check(found)
    except (VitrailError, ValueError, TypeError, KeyError, OSError) as error:
        if isinstance(error, RunError):
            raise
        got = error.strerror if isinstance(error, OSError) else error
        raise RunError(
            f"{shown(path)}: is not a predictions file, or is damaged.",
            got=got,
            expected="a file that vitrail eval or a run has written",
            do="Measure again: vitrail eval RUN",
        ) from error
    return found


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    header = read_header(path)
    if header.metadata.get(HEADER_SHA256) != header_sha256(header.entries):
        raise ValueError("another SHA-256 of the header than was written")
    about: Any = parsed_json(header.metadata["vitrail-predictions"], finite=True)
    about = checked(about, _ABOUT, str(path), RunError, needed=True)
    if about["version"] > _VERSION:
        raise ValueError(f"format version {about['version']}: install a newer vitrail")
    raw = read_regular(path, _MOST_BYTES)
    data = memoryview(raw)[8 + int.from_bytes(raw[:8], "little") :]
    if header.metadata.get("sha256") != hashlib.sha256(data).hexdigest():
        raise ValueError("another SHA-256 of the rows than was written")
    arrays: dict[str, np.ndarray] = {}
    for name, shape in header.shapes.items():
        start, end = header.entries[name]["data_offsets"]
        arrays[name] = np.frombuffer(data[start:end], _TYPES[header.dtypes[name]]).reshape(shape)
    return about, arrays


def _check(found: Predictions) -> None:
    """Raise ValueError for rows that contradict each other."""
    size, num_labels = len(found.ids), len(found.classes)
    k = min(TOP, num_labels)
    shapes = {
        **dict.fromkeys(("ids", "labels", "losses", "log_sum_exp"), (size,)),
        **dict.fromkeys(("top_classes", "top_probabilities"), (size, k)),
        **({} if found.logits is None else {"logits": (size, num_labels)}),
    }
    wrong = [name for name, shape in shapes.items() if getattr(found, name).shape != shape]
    if wrong or len(found.names) != size:
        raise ValueError(f"{(wrong or ['names'])[0]} has another shape than the rest")
    in_range = all(((a >= 0) & (a < num_labels)).all() for a in (found.labels, found.top_classes))
    if not in_range or (np.diff(found.ids) <= 0).any():
        raise ValueError("classes out of range, or ids that do not rise")


def ordered_by_id(found: Predictions) -> Predictions:
    """The same rows by rising id."""
    order = np.argsort(found.ids, kind="stable")
    if (order == np.arange(len(order))).all():
        return found
    arrays = {name: value[order] for name, value in vars(found).items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(found, names=[found.names[i] for i in order.tolist()], **arrays)


def keeps_logits(num_images: int, num_labels: int) -> bool:
    """Whether all logits of so many images are kept."""
    return math.prod((num_images, num_labels)) <= MOST_LOGITS
