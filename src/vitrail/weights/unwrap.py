"""The one model in a file: below which prefix it stands, and what stands beside it.

In: an opened source, in which the dictionaries of a training tool are flat names like its prefixes are
("model_state_dict.module.cls_token"). Out: the family, and the source narrowed to the model's own names.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from vitrail.errors import WeightsError, shown
from vitrail.weights.families import recognised, refusal, unrecognised
from vitrail.weights.heads import claim_outer_head, is_head
from vitrail.weights.key_table import BESIDE, WeightSource

# Names that files of the families have near their root: what stands before one of them is a prefix to try.
_ANCHORS = (
    "patch_embed.proj.weight",
    "blocks.0.norm1.weight",
    "blocks.0.0.norm1.weight",
    "cls_token",
    "pos_embed",
    "conv_proj.weight",
    "class_token",
    "encoder.pos_embedding",
    "embeddings.cls_token",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
)
# Prefixes that belong to the names of a family and stay.
_FAMILY_PREFIXES = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.")
# Words in the prefix of a running average of the weights, which is what evaluation wants.
_AVERAGES = {"ema", "swa", "average", "averaged", "teacher", "momentum", "target"}
# First part of a name that training tools put beside a model which has no prefix of its own.
_TRAINING = re.compile(
    r"(criterion|loss(es)?|loss_fn|metrics?|n_averaged|initted|epoch|global_step|best_acc|optimizer|scheduler"
    r"|(\w+_)(acc|accuracy|metrics?|loss|auroc|f1|precision|recall|confmat))(\..*)?"
)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class _Candidate:
    prefix: str
    family: ModuleType
    evidence: str
    tensors: dict[str, Tensor]


def select_model(source: WeightSource) -> tuple[ModuleType, str, WeightSource]:
    """The family of the one model in a source, the evidence, and the source without what stands around the model.

    Raises:
        WeightsError: no model that is known here, or several; or numbers that are none of a model.
    """
    chosen, note = _the_one(source, _candidates(source))
    beside = {
        name: tensor
        for name, tensor in source.tensors.items()
        if not name.startswith(chosen.prefix) or name.removeprefix(chosen.prefix) not in chosen.tensors
    }
    notes = list(source.notes)
    if chosen.prefix:
        notes.append(f"the model stands below {shown(chosen.prefix)!r} in the file")
    notes += note
    tensors = dict(chosen.tensors)
    if head := claim_outer_head(chosen.prefix, beside, tensors):
        notes.append(f"{head}, beside the model, is read as its classifier")
        beside = {name: tensor for name, tensor in beside.items() if not name.startswith(f"{head}.")}
    _check_numbers(tensors, source)
    return (
        chosen.family,
        chosen.evidence,
        replace(
            source,
            tensors=tensors,
            prefix=chosen.prefix,
            beside={**source.beside, **_grouped(beside)},
            notes=tuple(notes),
        ),
    )


def _candidates(source: WeightSource) -> list[_Candidate]:
    """Every prefix below which a family is recognised. Raises WeightsError when there is none."""
    names = source.tensors
    found = {n.removesuffix(a) for n in names for a in _ANCHORS if n.endswith(f".{a}")}
    result: list[_Candidate] = []
    refused: WeightsError | None = None
    for prefix in sorted({"", *found}, key=lambda prefix: (len(prefix), prefix)):
        own = next((p for p in _FAMILY_PREFIXES if f".{prefix}".endswith(f".{p}")), None)
        if own and any(c.prefix == prefix.removesuffix(own) for c in result):
            continue
        tensors = {n.removeprefix(prefix): t for n, t in names.items() if n.startswith(prefix)}
        if not prefix:
            tensors = {n: t for n, t in tensors.items() if n not in source.nested and not _TRAINING.fullmatch(n)}
        if problem := refusal(source, tensors):
            refused = refused or problem
        elif hit := recognised(tensors, source.config):
            result.append(_Candidate(prefix, *hit, tensors))
    if not result:
        raise refused or refusal(source, names) or unrecognised(source)
    return result


def _the_one(source: WeightSource, candidates: list[_Candidate]) -> tuple[_Candidate, list[str]]:
    """The model that is meant: the only one; of a model and its running average the average."""
    different: list[_Candidate] = []
    for candidate in candidates:
        if not any(_equal(candidate.tensors, other.tensors) for other in different):
            different.append(candidate)
    if len(different) == 1:
        return different[0], []
    averages = [c for c in different if _AVERAGES & set(re.split(r"[._]", c.prefix))]
    shapes = [sorted((n, tuple(t.shape)) for n, t in c.tensors.items() if not is_head(n)) for c in different]
    prefixes = [shown(c.prefix) or "the top" for c in different]
    if len(averages) == 1 and all(s == shapes[0] for s in shapes):
        left = ", ".join(repr(shown(c.prefix)) for c in different if c is not averages[0])
        return averages[0], [f"it is the running average of the weights and is preferred to {left}"]
    raise WeightsError(
        f"{source.path}: holds several models.",
        got=", ".join(prefixes),
        expected="one, or one and its running average",
        do="Save the state_dict of the one that you mean in a file of its own.",
    )


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def _check_numbers(tensors: dict[str, Tensor], source: WeightSource) -> None:
    """Raise WeightsError for numbers that are no weights as they stand, and for those that are not finite."""
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and not tensor.is_quantized
        if tensor.ndim and (tensor.dtype not in _DTYPES or not plain):
            kind = str(tensor.dtype if plain else f"{tensor.layout} {tensor.dtype}").replace("torch.", "")
            raise WeightsError(
                f"{source.path}: tensor {shown(name)} holds numbers of the type {kind}.",
                got="a quantised model, whose scales are not read" if plain else "no plain tensor",
                expected="float32, float16, bfloat16 or float64",
                do="Give the file from before the quantisation, or save the model as float16 in its own library.",
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            raise WeightsError(f"{source.path}: tensor {shown(name)} holds {count} values that are not finite.")


def _grouped(names: Iterable[str]) -> dict[str, str]:
    """What stands beside, by the first part of its names: an optimiser has hundreds of tensors."""
    found = list(names)
    counts = Counter(name.split(".", 1)[0] for name in found)
    result: dict[str, str] = {}
    for name in found:
        first = name.split(".", 1)[0]
        result[name if counts[first] == 1 else f"{first}.* ({counts[first]} tensors)"] = BESIDE
    return result
