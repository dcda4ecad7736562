"""What an exported file answers, in a process of its own that has no torch: `python -m vitrail.exporting.candidate`.

Standard input: a line of JSON, {"kind", "path", "sizes": [bytes of each image]}, then the images one after the other,
encoded as they come. Standard output: arrays as numpy writes them: {"labels", "batch_size"} in JSON; which images
could be read; logits, probabilities and distances of these, in batches and a rest; logits of the first images one by
one, and by three.
"""

import json
import sys
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from vitrail.predictor.answers import Outputs

BATCHES = (1, 3)
"""The first few images once more, so many at a time."""
FEW = 32


@runtime_checkable
class Candidate(Protocol):
    """What runs an exported file."""

    batch_size: int

    @property
    def labels(self) -> tuple[str, ...]: ...
    def decode(self, image: bytes, /) -> np.ndarray: ...
    def outputs(self, pixels: np.ndarray, /) -> "Outputs": ...


def main(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Answer one job."""
    job = json.loads(stdin.readline())
    images = [stdin.read(size) for size in job["sizes"]]
    if job["kind"] != "torch":
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes its import raise ImportError
    for array in answered(job["kind"], job["path"], images):
        np.save(stdout, array, allow_pickle=False)


def answered(kind: str, path: str, images: list[bytes]) -> list[np.ndarray]:
    """The arrays of the answer."""
    from vitrail.errors import ImageError
    from vitrail.predictor.answers import joined

    predictor = _opened(kind, path)
    kept: list[int] = []
    pixels: list[np.ndarray] = []
    for number, image in enumerate(images):
        try:
            pixels.append(predictor.decode(image))
            kept.append(number)
        except ImageError:
            continue

    def by(count: int, most: int) -> "Outputs":
        starts = range(0, min(most, len(pixels)), count)
        return joined([predictor.outputs(np.stack(pixels[start : min(start + count, most)])) for start in starts])

    head = json.dumps({"labels": predictor.labels, "batch_size": predictor.batch_size})
    says = np.frombuffer(head.encode(), np.uint8)
    if not kept:
        return [says, np.array(kept, np.int64)]
    every = by(predictor.batch_size, len(pixels))
    few = [by(count, FEW).logits for count in BATCHES]
    distances = np.empty(0, np.float32) if every.distances is None else every.distances
    return [says, np.array(kept, np.int64), every.logits, every.probabilities, distances, *few]


def _opened(kind: str, path: str) -> "Candidate":
    """What runs a file of this kind."""
    if kind == "onnx":
        from vitrail.predictor.exported import ExportedPredictor

        return ExportedPredictor(path)
    from vitrail.exporting.targets import readers

    if kind == "openvino":
        return readers.OpenVinoReader(path)
    if kind == "torch":
        return readers.ProgramReader(path)
    raise ValueError(f"nothing runs files of the kind {kind!r}")


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
