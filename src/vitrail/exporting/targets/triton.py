"""A model repository for NVIDIA's Triton: NAME/config.pbtxt, NAME/labels.txt, NAME/1/model.onnx.

Source: triton-inference-server/server, docs/user_guide/model_repository.md; model_config.proto of triton-inference-
server/common for the fields.
"""

import re
from pathlib import Path

from vitrail import fsio
from vitrail.errors import ConfigError, shown
from vitrail.exporting.targets.target import Part, Target
from vitrail.predictor.exported_file import ExportedFile, ExportPrecision

LARGEST_BATCH = 64
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


class Triton(Target):
    """As Target; the name is the model's in requests."""

    suffix, is_folder = "-triton", True

    def begin(self, stage: Path) -> list[str]:
        """Raises ConfigError: a name that is no part of an address, or names of classes with line breaks."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise ConfigError(
                "The model's name cannot be a name in Triton.",
                got=shown(self.name),
                expected="letters, digits, '.', '_' and '-'",
                do="Rename the run directory, or the model file.",
            )
        for label in self.card.classes:
            if "\n" in label or "\r" in label:
                raise ConfigError("A name of a class has a line break, which Triton's list cannot hold.", got=label)
        fsio.make_dir(stage)
        return []

    def path(self, stage: Path, precision: ExportPrecision) -> Path:
        del precision
        return stage / self.name / "1" / "model.onnx"

    def write(self, path: Path, part: Part) -> None:
        super().write(path, part)
        folder, description = path.parent.parent, part.description
        fsio.write_bytes(folder / "labels.txt", "".join(f"{label}\n" for label in description.labels).encode())
        fsio.write_bytes(folder / "config.pbtxt", config_text(description).encode())


def config_text(description: ExportedFile) -> str:
    """config.pbtxt: shapes without the batch, which Triton adds, and batches that it forms itself."""
    height, width = description.input.size
    channels = description.preprocessing.num_channels
    dims = [height, width, channels] if description.input.layout == "NHWC" else [channels, height, width]
    outputs = [
        f'  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {description.num_labels} ] label_filename: "labels.txt" }}'
        for name in ("probabilities", "logits")
    ]
    if "distances" in description.outputs:  # one number an image: [batch] in the graph
        outputs.append('  { name: "distances" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } }')
    kind = _TYPES[description.input.dtype]
    return (
        f'backend: "onnxruntime"\nmax_batch_size: {LARGEST_BATCH}\n'
        f'input [\n  {{ name: "{description.input.name}" data_type: {kind} dims: {dims} }}\n]\n'
        "output [\n" + ",\n".join(outputs) + "\n]\ndynamic_batching { }\n"
    )
