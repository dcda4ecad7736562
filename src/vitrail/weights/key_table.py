"""What every foreign family is read with: the opened source, the key table, what a family makes of them.

In: tensors by their names in the file. Out: a `Reading`, tensors by canonical names (those of `ViT.state_dict()`), and
for every tensor of the file what became of it.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.config import Preprocessing, ViTConfig
from vitrail.config.checks import pair
from vitrail.errors import WeightsError
from vitrail.weights.card import HEADS_LEFT_OUT, ProblemType

Claim = tuple[str, object, object]
Transform = Callable[[Tensor], Tensor]

# The only reasons for leaving a tensor of the file out.
POOLER = "pooler, not used for classification"
PRE_LOGITS = "pre-logits layer, not used for classification"
MASK_TOKEN = "mask token, not asked for"
DECODER = "decoder of a masked autoencoder"
DISTILLATION = "distillation head or token, a plain model was asked for"
CONSTANT = "constant that is computed"
TRAINING_ONLY = "used in training alone"
WRAPPER = "optimiser, average or other tower of a training file"
OLD_HEAD = "head for other classes"
BESIDE = "stands beside the model in a training file"
DROP_REASONS = frozenset(
    {
        POOLER,
        PRE_LOGITS,
        MASK_TOKEN,
        DECODER,
        DISTILLATION,
        CONSTANT,
        TRAINING_ONLY,
        WRAPPER,
        OLD_HEAD,
        BESIDE,
        *HEADS_LEFT_OUT,
    }
)


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """What lies in a weight file or folder, before it is known whose it is.

    Args:
        path: where it was found.
        tensors: by name; those inside a dictionary of a training tool have its key before their name, with a dot.
        container: safetensors, npz or torch.
        config: config.json beside it, preprocessor: preprocessor_config.json; empty when there is none.
        notes: what was unwrapped or removed on the way.
        sha256: of the file; of several files, of their hashes.
        nested: names of tensors that were inside a dictionary.
        told: what stands beside in numbers and words, as epoch and accuracy.
        prefix: below which the model was found; its names have lost it.
        beside: what was not looked at -> one of DROP_REASONS.
        asked_size: (height, width) that the user gave.
    """

    path: Path
    tensors: dict[str, Tensor]
    container: str
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    preprocessor: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()
    sha256: str = ""
    nested: frozenset[str] = frozenset()
    told: dict[str, Any] = field(default_factory=dict[str, Any])
    prefix: str = ""
    beside: dict[str, str] = field(default_factory=dict[str, str])
    asked_size: tuple[int, int] | None = None


@dataclass(kw_only=True)
class Reading:
    """What a family makes of a source.

    Args:
        family: whose file it is; evidence: how that was seen.
        geometry: of the model that the tensors fill.
        tensors: by canonical name.
        mapped: name in the file -> canonical name; values unchanged but for transposition and concatenation.
        adapted: name in the file -> what was done to it.
        dropped: name in the file -> one of DROP_REASONS.
        classes: names in the order of the logits; empty: unnamed.
        preprocessing: from an image file to the model's input.
        defaulted: what the file does not say and the family's habit decided.
        problem_type: what the logits are, in the words of transformers.
        claims: (what, value of the tensors, value of the configuration or None), to be equal.
        table: the names of this file, where the family has several.
    """

    family: str
    evidence: str
    geometry: ViTConfig
    tensors: dict[str, Tensor]
    mapped: dict[str, str]
    preprocessing: Preprocessing
    adapted: dict[str, str] = field(default_factory=dict[str, str])
    dropped: dict[str, str] = field(default_factory=dict[str, str])
    classes: tuple[str, ...] = ()
    problem_type: ProblemType = "single_label_classification"
    defaulted: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    table: "KeyTable | None" = None


@dataclass(frozen=True)
class Key:
    """One row of a key table. In both patterns {i} stands for the block; "name.*" for name.weight and name.bias.

    Args:
        theirs: name in the file.
        ours: canonical name.
        part: (k, n): theirs is the k-th of n blocks of rows of ours.
        to_ours, to_theirs: transposition or reshape and its inverse, of one part.
    """

    theirs: str
    ours: str
    part: tuple[int, int] = (0, 1)
    to_ours: Transform | None = None
    to_theirs: Transform | None = None


class KeyTable:
    """The names of one family, both ways.

    Args:
        keys: rows; a name in the file matches at most one of them.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = [row for key in keys for row in _both_parts(key)]

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], Key]]:
        """Compiled when first used: there are a dozen tables, and a file needs one."""
        return [(re.compile(_pattern(row.theirs)), row) for row in self.keys]

    @cached_property
    def _ours(self) -> list[tuple[re.Pattern[str], Key]]:
        return [(re.compile(_pattern(row.ours)), row) for row in self.keys]

    def match(self, name: str) -> tuple[Key, str, str] | None:
        """The row for a name in the file, the block number ("" outside blocks), and the canonical name."""
        for pattern, row in self._patterns:
            if found := pattern.fullmatch(name):
                block = found.groupdict().get("i", "")
                return row, block, row.ours.replace("{i}", block)
        return None

    def read(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Rename every tensor that the table knows.

        Returns:
            Tensors by canonical name, parts concatenated; and name in the file -> canonical name.
        Raises:
            WeightsError: a part of a fused tensor is missing, or its parts do not fit together.
        """
        parts: dict[str, dict[int, tuple[str, Tensor]]] = defaultdict(dict)
        counts: dict[str, int] = {}
        mapped: dict[str, str] = {}
        for name, tensor in tensors.items():
            if matched := self.match(name):
                row, _, ours = matched
                parts[ours][row.part[0]] = (name, _apply(row.to_ours, tensor, name))
                counts[ours] = row.part[1]
                mapped[name] = ours
        return {ours: self._joined(ours, found, counts[ours]) for ours, found in parts.items()}, mapped

    def write(self, canonical: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name tensors as the family does. Raises WeightsError for one that the table does not know."""
        result: dict[str, Tensor] = {}
        for name, tensor in canonical.items():
            rows = self._rows_of(name)
            if not rows:
                raise WeightsError(f"This format has no place for the tensor {name}.", got=list(tensor.shape))
            for row, theirs in rows:
                k, n = row.part
                part = tensor.chunk(n)[k] if n > 1 else tensor
                result[theirs] = (row.to_theirs(part) if row.to_theirs else part).contiguous()
        return result

    def theirs(self, ours: str) -> list[str]:
        """Every name in the file that fills a canonical tensor."""
        return [theirs for _, theirs in self._rows_of(ours)]

    def _rows_of(self, ours: str) -> list[tuple[Key, str]]:
        """Rows that fill a canonical tensor, with the file's names: the first row of each part."""
        found: dict[int, tuple[Key, str]] = {}
        for pattern, row in self._ours:
            if hit := pattern.fullmatch(ours):
                found.setdefault(row.part[0], (row, row.theirs.replace("{i}", hit.groupdict().get("i", ""))))
        return list(found.values())

    def _joined(self, ours: str, found: dict[int, tuple[str, Tensor]], count: int) -> Tensor:
        if count == 1:
            return found[0][1]
        names = self.theirs(ours)
        if len(found) < count:
            missing = [names[k] for k in range(count) if k not in found]
            raise WeightsError(
                f"The file lacks {', '.join(missing)}.",
                got=f"only {', '.join(name for name, _ in found.values())} of {ours}",
            )
        shapes = {tuple(tensor.shape) for _, tensor in found.values()}
        if len(shapes) > 1:
            listed = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in found.values())
            raise WeightsError(f"The parts of {ours} have different shapes.", got=listed, expected="equal shapes")
        return torch.cat([found[k][1] for k in range(count)])


def check_claims(claims: Iterable[Claim]) -> None:
    """Raise WeightsError naming both values when tensors and configuration contradict each other."""
    for what, found, said in claims:
        if said is not None and found != said:
            raise WeightsError(f"Tensors and configuration disagree about {what}.", got=found, expected=said)


def size_pair(value: object) -> tuple[int, int] | None:
    """An image or patch size of a foreign configuration as (height, width); None when it says nothing."""
    if isinstance(value, int):
        return pair(value)
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return int(value[0]), int(value[1])
    return None


def _both_parts(key: Key) -> list[Key]:
    """Expand "name.*" into weight and bias."""
    if not key.theirs.endswith(".*"):
        return [key]
    return [
        Key(key.theirs[:-1] + end, key.ours[:-1] + end, key.part, key.to_ours, key.to_theirs)
        for end in ("weight", "bias")
    ]


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\{i\}", r"(?P<i>\d+)")


def _apply(transform: Transform | None, tensor: Tensor, name: str) -> Tensor:
    if transform is None:
        return tensor
    try:
        return transform(tensor)
    except (RuntimeError, IndexError, ValueError) as error:
        raise WeightsError(f"Tensor {name} has the wrong shape.", got=list(tensor.shape)) from error
