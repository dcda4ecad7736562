"""NAME.pt2: the model as a program of torch, `torch.export`, any number of images; our description beside it.

uint8 images [batch, h, w, C] at the decode size to a dictionary of probabilities [batch, L], logits [batch, L] and,
where the model can answer "unknown", distances [batch].
"""

import hashlib
import io
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail import fsio
from vitrail.config.checks import pair
from vitrail.exporting.onnx_file import describe, description_json
from vitrail.exporting.targets.target import Part, Target
from vitrail.model import ViT
from vitrail.predictor.exported_file import ExportPrecision
from vitrail.runtime import merged_logits
from vitrail.runtime.pixels import scale_and_shift
from vitrail.weights import Card
from vitrail.weights.mahalanobis import with_features

DESCRIPTION = "vitrail.json"


class TorchProgram(Target):
    """As Target."""

    engine, suffix = "torch", ".pt2"
    forms = ("image",)
    precisions = ("fp32",)

    def build(self, precision: ExportPrecision) -> Part:
        preprocessing = self.card.preprocessing
        example = torch.zeros(2, *preprocessing.decode_size, preprocessing.num_channels, dtype=torch.uint8)
        with torch.no_grad():
            self._program = torch.export.export(
                _Whole(self.model, self.card, self.merge).eval(),
                (example,),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )
        for node in self._program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names the folders of this machine
        program = self._file({})
        description = describe(
            self.model,
            self.card,
            form=self.form,
            precision=precision,
            merge=self.merge,
            opset=0,
            graph_sha256=hashlib.sha256(program).hexdigest(),
        )
        return Part(program, description)

    def write(self, path: Path, part: Part) -> None:
        text = json.dumps(description_json(part.description), ensure_ascii=False, allow_nan=False)
        fsio.write_bytes(path, self._file({DESCRIPTION: text}))

    def _file(self, beside: dict[str, str]) -> bytes:
        buffer = io.BytesIO()
        torch.export.save(self._program, buffer, extra_files=beside)
        return buffer.getvalue()


class _Whole(nn.Module):
    """From decoded pixels to everything that is answered."""

    def __init__(self, model: ViT, card: Card, merge: int) -> None:
        super().__init__()
        self.found = model.mahalanobis if card.calibration and card.calibration.unknown else None
        self.model = with_features(model, self.found) if self.found else model
        self.card, self.merge = card, merge
        self.scale, self.shift = map(torch.from_numpy, scale_and_shift(card.preprocessing))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        card, size = self.card, self.card.preprocessing.image_size
        x = image.permute(0, 3, 1, 2).float() * self.scale + self.shift
        if card.preprocessing.decode_size != size:
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        interpolate = size != pair(card.geometry.image_size)
        if self.merge:
            x = merged_logits(self.model, x, self.merge, interpolate=interpolate)
        else:
            x = self.model(x, interpolate_pos_encoding=interpolate)["logits"]
        logits, features = x[:, : card.geometry.num_labels], x[:, card.geometry.num_labels :]
        scaled = logits / (card.calibration.temperature if card.calibration else 1.0)
        answer = {"probabilities": scaled.sigmoid() if card.is_yes_or_no else scaled.softmax(1), "logits": logits}
        if self.found:
            answer["distances"] = self.found.distances(features)
        return answer
