"""Translated models, kept in the user's cache folder, each with what is known about it.

A file's name is the SHA-256 of everything it depends on: weights, geometry, image size, arithmetic, and the version of
the translation. Beside it, as JSON: the SHA-256 of the file itself, how far each engine's logits are from torch's, and
what was measured on which machine. A file that is damaged is translated again; without a folder to write to, a
translation lasts as long as the process.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from vitrail import fsio
from vitrail.config import to_json
from vitrail.errors import SaveError
from vitrail.locations import engine_cache
from vitrail.model import ViT
from vitrail.reading import read_json_object, read_regular
from vitrail.tensor_file import tensors_sha256

TRANSLATION_VERSION = 2
"""Changed with everything that changes the file of the same weights."""


_MAX_BYTES = 1 << 36


class Translated:
    """A model's translation, made when it is first asked for, and the notes beside it.

    Args:
        model: on any device.
        image_size: height and width of the input.
        int8: with integer arithmetic.
        merge: tokens fewer after each layer.
        folder: where it is kept; None: in the user's cache folder.
    """

    def __init__(
        self,
        model: ViT,
        image_size: tuple[int, int],
        *,
        int8: bool = False,
        merge: int = 0,
        folder: Path | None = None,
    ) -> None:
        self.model, self.image_size, self.int8, self.merge = model, image_size, int8, merge
        tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        form = [list(image_size), int8, merge]
        depends_on = [TRANSLATION_VERSION, tensors_sha256(tensors), to_json(model.config), form]
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        folder = folder or engine_cache()
        self.path, self._notes_path = folder / f"{key}.onnx", folder / f"{key}.json"
        self.notes: dict[str, Any] = self._read_notes()
        self._file: bytes | None = None

    def file(self) -> bytes:
        """The ONNX file: from the cache, or translated and kept there.

        Raises:
            ConfigError: the model cannot be translated.
        """
        if self._file is None:
            self._file = self._cached() or self._translate()
        return self._file

    def note(self, name: str, value: Any) -> None:
        """Remember something about this model, for the next process too."""
        self.notes[name] = value
        with contextlib.suppress(SaveError):
            fsio.write_json(self._notes_path, self.notes)

    def _cached(self) -> bytes | None:
        try:
            file = read_regular(self.path, _MAX_BYTES)
        except OSError:
            return None
        return file if hashlib.sha256(file).hexdigest() == self.notes.get("sha256") else None

    def _translate(self) -> bytes:
        from vitrail.runtime.graph import onnx_bytes

        file = onnx_bytes(self.model, self.image_size, int8=self.int8, merge=self.merge)
        with contextlib.suppress(SaveError):
            fsio.write_bytes(self.path, file)
        self.notes = {name: note for name, note in self.notes.items() if not name.startswith("difference")}
        self.note("sha256", hashlib.sha256(file).hexdigest())
        return file

    def _read_notes(self) -> dict[str, Any]:
        try:
            return read_json_object(self._notes_path)
        except (OSError, ValueError):
            return {}


def probe_images(model: ViT, image_size: tuple[int, int], count: int) -> torch.Tensor:
    """The same random images every time, for comparing and for timing."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, model.config.num_channels, *image_size, generator=generator)
