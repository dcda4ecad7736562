"""Classifiers that people put on a pretrained model: one linear layer is read, anything else is named and left out.

In: tensors by their names in the file. Without its head a model gives features; fine-tuning starts a new head.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from vitrail.weights.card import HEAD_OF_POOLER, HEAD_OF_PRE_LOGITS, OTHER_HEAD
from vitrail.weights.key_table import POOLER, PRE_LOGITS, Reading

_WORDS = {"head", "heads", "classifier", "classifiers", "fc", "linear", "logits"}
_NO_HEADS = {"fc_norm", "pre_logits"}
_OWN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def is_head(name: str) -> bool:
    """Whether a name is one of a head: heads.0.weight, classifier.1.bias, seg_head.conv.weight."""
    first, _, rest = name.partition(".")
    last = rest.rsplit(".", 1)[-1]
    return first not in _NO_HEADS and last in _OWN and bool(_WORDS & set(re.split(r"[_\d]+", first)))


def linear_layer(names: Iterable[str], tensors: Mapping[str, Tensor]) -> str | None:
    """The stem of the one linear layer that these names are, as "classifier.1"; None: they are something else."""
    stems = {name.rsplit(".", 1)[0] for name in names}
    if len(stems) != 1:
        return None
    stem = stems.pop()
    weight, bias = tensors.get(f"{stem}.weight"), tensors.get(f"{stem}.bias")
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        return None
    return stem if set(names) == {f"{stem}.weight", f"{stem}.bias"} else None


def claim_outer_head(prefix: str, beside: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> str | None:
    """Take the linear layer that stands beside a headless model below `prefix`, as backbone.* and head.* do.

    Returns:
        The stem of its names in the file, when `tensors` now holds it; None: there is none.
    """
    if not prefix or any(is_head(name) or name.startswith("pooler.") for name in tensors):
        return None
    around = prefix[: prefix.rstrip(".").rfind(".") + 1]
    names = [n for n in beside if n.startswith(around) and is_head(n.removeprefix(around))]
    stem = linear_layer(names, beside)
    if stem is None:
        return None
    for name in names:
        tensors[name.removeprefix(around)] = beside[name]
    return stem


def read_head(reading: Reading, tensors: Mapping[str, Tensor]) -> None:
    """Complete what a family read by a head that its table does not know, or leave that out by name."""
    explained = reading.mapped.keys() | reading.adapted.keys() | reading.dropped.keys()
    strange = [name for name in tensors if name not in explained and is_head(name)]
    own = [name for name, ours in reading.mapped.items() if ours.startswith("head")]
    whole = {"head.weight", "head.bias"} <= reading.tensors.keys()
    if not strange or (own and not whole):
        return
    stem, geometry = linear_layer(strange, tensors), reading.geometry
    columns = tensors[f"{stem}.weight"].shape[1] if stem else 0
    doubled = columns == 2 * geometry.hidden_size and reading.family.startswith("DINOv2")
    if own or not (columns == geometry.hidden_size or doubled):
        reading.dropped |= dict.fromkeys(strange, OTHER_HEAD)
        return
    for name in strange:
        ours = f"head.{name.rsplit('.', 1)[1]}"
        reading.tensors[ours], reading.mapped[name] = tensors[name], ours
    pooling = "cls_mean" if doubled else geometry.pooling
    reading.geometry = replace(geometry, num_labels=len(reading.tensors["head.bias"]), pooling=pooling)


def drop_fed_head(reading: Reading) -> None:
    """Take a classifier away whose input, the tanh of another layer, this model does not compute."""
    for layer, reason in ((PRE_LOGITS, HEAD_OF_PRE_LOGITS), (POOLER, HEAD_OF_POOLER)):
        if layer not in reading.dropped.values():
            continue
        for name in [name for name, ours in reading.mapped.items() if ours.startswith("head.")]:
            reading.tensors.pop(reading.mapped.pop(name))
            reading.dropped[name] = reason
        reading.geometry = replace(reading.geometry, num_labels=0)
