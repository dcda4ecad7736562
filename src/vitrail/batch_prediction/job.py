"""What a folder of predictions is of: its job, told before the first part, and its manifest, written after the last.

OUT/
  _job.json            model, preprocessing, engine, input, and what is asked: all that the rows depend on
  part-000007-*.parquet  a unit of the input
  _manifest.json       every part with its counts and the digest of its rows; written when all are there
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail import fsio
from vitrail.batch_prediction.parts import Counts, Form, counts_of
from vitrail.batch_prediction.units import Inputs, Unit, sha256_of
from vitrail.errors import RunError, shown
from vitrail.reading import read_json_object

JOB, MANIFEST = "_job.json", "_manifest.json"
FORMAT_VERSION = 1
_MOST_BYTES = 1 << 30
_WORDS = {
    "input_sha256": "input",
    "model_sha256": "model",
    "preprocessing": "preprocessing",
    "vitrail": "version of vitrail",
    "form": "--to",
    "what": "--what",
    "top": "--top",
    "views": "--views",
    "batch_size": "--batch-size",
}


@dataclass(frozen=True)
class Part:
    """A unit, and where its part goes."""

    unit: Unit
    path: Path


class Job:
    """A folder of predictions.

    Args:
        out: the folder; made where it is missing.
        inputs: all units.
        about: what the rows depend on, but for the input; JSON.
        form: of the parts.
    Raises:
        RunError: the folder is that of another job.
        SaveError: it cannot be written.
    """

    def __init__(self, out: Path, inputs: Inputs, about: dict[str, Any], form: Form) -> None:
        self.out = out
        self.form: Form = form
        told = {
            "format_version": FORMAT_VERSION,
            "input_sha256": inputs.sha256,
            "num_units": len(inputs.units),
            "form": form,
            **about,
        }
        self.about: dict[str, Any] = json.loads(json.dumps(told))
        self.fingerprint = sha256_of(json.dumps(self.about, sort_keys=True))
        self.parts = [
            Part(unit, out / f"part-{number:06d}-{sha256_of(self.fingerprint, unit.identity)[:12]}.{form}")
            for number, unit in enumerate(inputs.units)
        ]
        self._begin()

    def counts(self, part: Part) -> Counts | None:
        """What a finished part holds; None: it is to be made."""
        return counts_of(part.path, self.form, self.fingerprint, part.unit.identity)

    def footer(self, part: Part) -> dict[str, Any]:
        """What a part says of itself, but for its counts."""
        return {**self.about, "fingerprint": self.fingerprint, "unit": part.unit.identity, "shard": part.unit.shard}

    def finish(self) -> dict[str, Any] | None:
        """Write the manifest if every part is there; temporary files of killed workers go. None: parts are missing.

        Raises:
            SaveError: it cannot be written.
        """
        there = set(self.out.iterdir())
        if not all(part.path in there for part in self.parts):
            return None
        counts = [self.counts(part) for part in self.parts]
        found = [one for one in counts if one is not None]
        if len(found) < len(self.parts):
            return None
        manifest = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "rows": sum(one.rows for one in found),
            "errors": sum(one.errors for one in found),
            "job": self.about,
            "parts": [
                {"name": part.path.name, "shard": part.unit.shard, **vars(one)}
                for part, one in zip(self.parts, found, strict=True)
            ],
        }
        fsio.write_json(self.out / MANIFEST, manifest)
        for path in there:
            if path.name.startswith(".part-") and ".tmp-" in path.name:
                fsio.remove(path)
        return manifest

    def _begin(self) -> None:
        fsio.make_dir(self.out)
        data = (json.dumps(self.about, indent=2) + "\n").encode()
        path = self.out / JOB
        if not path.exists():
            strange = sorted(one.name for one in self.out.iterdir() if one.name.startswith(("part-", "_manifest")))
            if strange:
                raise RunError(
                    f"{self.out}: has parts that no job here has made.",
                    got=_few(strange),
                    expected="a new folder, or one that predict -o began",
                    do="Choose another folder with -o.",
                )
            fsio.create_exclusively(path, data)
        try:
            there = read_json_object(path, _MOST_BYTES)
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read.", got=error, do="Choose another folder with -o.") from error
        for name in (*_WORDS, *self.about):
            if there.get(name) != self.about.get(name):
                raise RunError(
                    f"{shown(self.out)}: holds predictions of another {_WORDS.get(name, name)}.",
                    got=_short(name, self.about.get(name)),
                    expected=f"{_short(name, there.get(name))}, as the parts that are there",
                    do="Give the same model, input and options to go on, or another folder with -o.",
                )


def _short(name: str, value: object) -> str:
    if value is None:
        return "nothing"
    return f"SHA-256 {shown(value)[:12]}" if name.endswith("sha256") else shown(value, 80)


def _few(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names[:3])
