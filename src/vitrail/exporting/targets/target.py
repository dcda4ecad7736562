"""What an export writes; as it stands, one ONNX file. The other kinds change what they have to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vitrail import fsio
from vitrail.exporting.onnx_file import built, metadata
from vitrail.model import ViT
from vitrail.predictor import Predictor
from vitrail.predictor.exported_file import ExportedFile, ExportPrecision, Form
from vitrail.runtime.graph import OPSET
from vitrail.weights import Card


@dataclass(frozen=True)
class Part:
    """A program of an export, and what it says of itself."""

    program: bytes
    description: ExportedFile


class Target:
    """One export: the model, and what was asked for.

    Args:
        model: in evaluation mode, on the CPU.
        name: of the model, for the files that carry it.
        form: None: that of the kind.
        precision: what was asked for; an export may have the exact model beside it.
        merge: tokens fewer after each layer.
        opset: version of the operators of ONNX.
    Raises:
        WeightsError, ConfigError: the kind cannot hold this model.
    """

    engine: ClassVar[str] = "onnx"
    """What runs it where it is compared with the model."""
    suffix: ClassVar[str] = ".onnx"
    """What is added to the model's name for the file or the folder, unless it is named."""
    is_folder: ClassVar[bool] = False
    forms: ClassVar[tuple[Form, ...]] = ("image", "tensor")
    """The first is the default."""
    precisions: ClassVar[tuple[ExportPrecision, ...]] = ("fp32", "fp16", "int8")

    def __init__(
        self,
        model: ViT,
        card: Card,
        name: str,
        *,
        form: Form | None,
        precision: ExportPrecision,
        merge: int,
        opset: int = OPSET,
    ) -> None:
        self.model, self.card = self.fitted(model, card)
        self.name = name
        self.form: Form = form or self.forms[0]
        self.precision: ExportPrecision = precision
        self.merge, self.opset = merge, opset

    @staticmethod
    def fitted(model: ViT, card: Card) -> tuple[ViT, Card]:
        """The model as the kind can hold it. Raises WeightsError: it cannot."""
        return model, card

    @property
    def included(self) -> tuple[ExportPrecision, ...]:
        """The precisions that are written; the last is the one that was asked for."""
        return (self.precision,)

    def build(self, precision: ExportPrecision) -> Part:
        """A program, before it is compared with anything. Raises ConfigError: more than 2 GB of weights."""
        return Part(
            *built(self.model, self.card, form=self.form, precision=precision, merge=self.merge, opset=self.opset)
        )

    def begin(self, stage: Path) -> list[str]:
        """Write what does not depend on any comparison.

        Args:
            stage: the file or folder under its temporary name; nothing stands there.
        Returns:
            What readers of this kind will do otherwise than vitrail, a sentence each.
        """
        del stage
        return []

    def remarks(self, stage: Path, reference: Predictor, encoded: Sequence[bytes]) -> list[str]:
        """What was found out about readers of this kind on the images of the comparison, a sentence each.

        Args:
            stage: the folder as it was written.
            reference: the model.
        """
        del stage, reference, encoded
        return []

    def path(self, stage: Path, precision: ExportPrecision) -> Path:
        """Where a program is."""
        del precision
        return stage

    def write(self, path: Path, part: Part) -> None:
        """Write a program with what it says of itself. Raises SaveError."""
        fsio.write_bytes(path, part.program + metadata(part.description))
