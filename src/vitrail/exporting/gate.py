"""Whether a written file answers as the model that it was made of: on the user's images, from the files on.

The reference is the model in torch, fp32, with every token. The candidate is the file as it was written, run in a
process without torch. docs/export.md gives the limits and their reasons.
"""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from vitrail.errors import ConfigError, ImageError, VitrailError, WeightsError
from vitrail.exporting.candidate import BATCHES
from vitrail.predictor import Predictor, decode
from vitrail.predictor.answers import Outputs, joined
from vitrail.predictor.exported_file import ExportPrecision
from vitrail.progress import Bar

LEAST_IMAGES = 32
_AT_ONCE = 8
_VARIATION = 1e-5
_DISTANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a file is compared on.

    Args:
        encoded: files of images, as they come.
        labels: their classes, in the order of the model's; None: unknown.
        source: where they come from, in a few words.
        fingerprint: of names and bytes, in hexadecimal.
    """

    encoded: Sequence[bytes]
    labels: Int64[np.ndarray, "N"] | None
    source: str
    fingerprint: str
    is_synthetic: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is let through.

    Args:
        logits, probabilities: largest differences, of logits relative to the largest one; None: reported only.
        agreement: least share of equal labels; None: all but ties.
        drop: largest loss of accuracy on labelled images.
    """

    logits: float | None
    probabilities: float | None
    agreement: float | None
    drop: float | None = None


def limits_of(
    precision: ExportPrecision, merge: int, *, same_pixels: bool, min_agreement: float, max_drop: float
) -> Limits:
    """Those of a file.

    Args:
        same_pixels: False where the file is decoded by other code than the model was (`fast_decoding`).
    """
    if precision == "int8" or merge:
        return Limits(logits=None, probabilities=None, agreement=min_agreement, drop=max_drop)
    if not same_pixels:
        return Limits(logits=None, probabilities=0.02, agreement=0.995)
    if precision == "fp16":
        return Limits(logits=1e-2, probabilities=5e-3, agreement=0.995)
    return Limits(logits=1e-4, probabilities=1e-4, agreement=None)


@dataclass(frozen=True)
class Found:
    """How a file compares with its model.

    Args:
        parity: as it is written into the file.
        accuracy: of both; None without labels.
        faults: what is beyond its limit, a sentence each.
    """

    parity: dict[str, Any]
    accuracy: dict[str, Any] | None
    faults: tuple[str, ...]


def compared(
    predictor: Predictor, path: Path, kind: str, images: Images, limits: Limits, *, progress: bool = False
) -> Found:
    """Run the model and the file on the same images.

    Args:
        kind: what runs the file: onnx, openvino, torch.
        progress: show a bar on standard error.
    Raises:
        WeightsError: the model's own answers are not finite, or the file cannot be run.
        ConfigError: too few of the images can be read.
    """
    kept, reference = _reference(predictor, images.encoded, progress)
    says, theirs, candidate, few = _candidate(path, kind, images.encoded)
    faults: list[str] = []
    if says["labels"] != list(predictor.labels):
        faults.append("the names of the classes, or their order, are others than the model's")
    if not np.array_equal(kept, theirs):
        raise WeightsError("The file reads other images than the model.", got=f"{len(theirs)} of {len(kept)} images")
    difference = _largest(candidate.logits - reference.logits) / max(_largest(reference.logits), 1e-6)
    probability = _largest(candidate.probabilities - reference.probabilities)
    agreeing, ties = _agreement(reference.logits, candidate.logits)
    variation = max(_largest(one - candidate.logits[: len(one)]) for one in few) / max(_largest(reference.logits), 1e-6)
    if limits.logits is not None and difference > limits.logits:
        faults.append(f"logits differ by {difference:.1e} of the largest, more than {limits.logits:.0e}")
    if limits.probabilities is not None and probability > limits.probabilities:
        faults.append(f"probabilities differ by {probability:.1e}, more than {limits.probabilities:.0e}")
    counted = agreeing + (ties if limits.agreement is None else 0)
    if counted < (1.0 if limits.agreement is None else limits.agreement) * len(kept):
        wanted = "all but ties" if limits.agreement is None else f"{limits.agreement:.1%}"
        faults.append(f"{agreeing} of {len(kept)} labels are equal, fewer than {wanted}")
    if limits.logits is not None and variation > max(_VARIATION, limits.logits / 10):
        faults.append(f"an image alone and in a batch differ by {variation:.1e} of the largest logit")
    parity: dict[str, Any] = {
        "reference": "torch fp32, every token",
        "engine": kind,
        "n": len(kept),
        "source": images.source,
        "synthetic": images.is_synthetic,
        "fingerprint": images.fingerprint,
        "batch_sizes": sorted({says["batch_size"], *BATCHES}),
        "max_logit_difference": difference,
        "max_probability_difference": probability,
        "top1": [agreeing, len(kept)],
        "ties": ties,
        "batch_variation": variation,
    }
    if reference.distances is not None and candidate.distances is not None:
        relative = np.abs(candidate.distances - reference.distances) / np.maximum(reference.distances, 1e-6)
        parity["max_distance_difference"] = float(relative.max())
        if limits.logits is not None and relative.max() > max(_DISTANCE, limits.logits):
            faults.append(f"distances differ by {relative.max():.1e}, more than {_DISTANCE:.0e}")
    accuracy = None if images.labels is None else _accuracy(images.labels[kept], reference.logits, candidate.logits)
    if accuracy and limits.drop is not None:
        drop = (accuracy["correct_reference"] - accuracy["correct_exported"]) / accuracy["n"]
        if drop > limits.drop:
            faults.append(f"{drop:.2%} fewer right answers, more than {limits.drop:.2%}")
    return Found({"passed": not faults, **parity}, accuracy, tuple(faults))


def _reference(
    predictor: Predictor, encoded: Sequence[bytes], progress: bool
) -> tuple[Int64[np.ndarray, "n"], Outputs]:
    """Which images can be read, and the model's outputs for them."""
    kept: list[int] = []
    pixels: list[np.ndarray] = []
    for number, image in enumerate(encoded):
        try:
            pixels.append(decode(image, predictor.preprocessing))
            kept.append(number)
        except ImageError:
            continue
    if len(kept) < LEAST_IMAGES:
        raise ConfigError(
            "Too few images to compare the file on.",
            got=f"{len(kept)} that can be read, of {len(encoded)}",
            expected=f"at least {LEAST_IMAGES}",
            do="Add more, or leave out --images and --data: pictures are made then.",
        )
    parts: list[Outputs] = []
    with Bar(len(pixels), unit="images", title="the model", keep=False, enabled=progress) as bar:
        for at in range(0, len(pixels), _AT_ONCE):
            parts.append(predictor.outputs(np.stack(pixels[at : at + _AT_ONCE])))
            bar.advance(len(parts[-1].logits))
    return np.array(kept, np.int64), joined(parts)


def _candidate(
    path: Path, kind: str, encoded: Sequence[bytes]
) -> tuple[dict[str, Any], Int64[np.ndarray, "n"], Outputs, list[Float32[np.ndarray, "F L"]]]:
    """The same of the file, in a process of its own: first its classes and how many images it takes at a time, last the
    logits of the first images in other batches.
    """
    job = json.dumps({"kind": kind, "path": str(path), "sizes": [len(image) for image in encoded]}).encode()
    child = subprocess.run(
        [sys.executable, "-m", "vitrail.exporting.candidate"],
        input=b"\n".join([job, b"".join(encoded)]),
        capture_output=True,
        check=False,
    )
    if child.returncode:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        raise WeightsError("The file that was written cannot be run.", got=lines[-1] if lines else child.returncode)
    stream, arrays = io.BytesIO(child.stdout), list[np.ndarray]()
    while stream.tell() < len(child.stdout):
        arrays.append(np.load(stream, allow_pickle=False))
    if len(arrays) == 2:
        raise WeightsError("The file reads none of the images that the model reads.")
    says, kept, logits, probabilities, distances, *few = arrays
    return json.loads(says.tobytes()), kept, Outputs(probabilities, logits, distances if distances.size else None), few


def _agreement(reference: Float32[np.ndarray, "N L"], candidate: Float32[np.ndarray, "N L"]) -> tuple[int, int]:
    """Images with the same label, and those with another one whose two best logits are as good as equal."""
    differs = reference.argmax(1) != candidate.argmax(1)
    if reference.shape[1] < 2:
        return len(reference), 0
    two = np.sort(reference, axis=1)[:, -2:]
    margin = two[:, 1] - two[:, 0]
    ties = differs & (margin <= 2 * np.abs(candidate - reference).max(1))
    return int((~differs).sum()), int(ties.sum())


def _accuracy(
    labels: Int64[np.ndarray, "n"], reference: Float32[np.ndarray, "n L"], candidate: Float32[np.ndarray, "n L"]
) -> dict[str, Any]:
    """Right answers of both, and how many answers changed."""
    ours, theirs = reference.argmax(1), candidate.argmax(1)
    return {
        "n": len(labels),
        "correct_reference": int((ours == labels).sum()),
        "correct_exported": int((theirs == labels).sum()),
        "changed": int((ours != theirs).sum()),
    }


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))


def refusal(found: Found, precision: ExportPrecision, merge: int) -> VitrailError:
    """What is said where a file is beyond its limits."""
    lossy = precision != "fp32" or merge
    why = "See what it costs on labelled images of yours with --data; --min-agreement and --max-drop are the limits."
    if found.accuracy and lossy:
        told = found.accuracy
        why = f"It is right for {told['correct_exported']} of {told['n']} images, the model for "
        why += f"{told['correct_reference']}: if that will do, lower "
        why += "--min-agreement or raise --max-drop."
    ours = "That is a fault of vitrail: please report it. --force writes the file anyway."
    return GateError(
        "The exported file answers otherwise than the model; nothing was written.",
        is_ours=not lossy,
        listed=found.faults,
        do=f"Use --precision fp32 without --merge. {why}" if lossy else ours,
    )


class GateError(VitrailError):
    """An exported file is not what its model is.

    Args:
        is_ours: nothing that was asked for explains it.
    """

    def __init__(self, what: str, *, is_ours: bool, listed: Sequence[str], do: str) -> None:
        super().__init__(what, listed=listed, do=do)
        self.exit_status = 1 if is_ours else 2
