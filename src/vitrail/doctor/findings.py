"""The doctor's round: everything that is measured, put together and ranked.

What `data.check` finds is exact. What is added here are guesses, each with the number that it is ranked by.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail.config import Preprocessing
from vitrail.data import Source
from vitrail.doctor.duplicates import Pair, find_pairs, group
from vitrail.doctor.labels import FEWEST, Suspect, suspects
from vitrail.doctor.oddities import Odd, odd_images, outliers
from vitrail.doctor.pictures import Pictures, look, nearest, standard
from vitrail.model import ViT
from vitrail.progress import Bar

_NEIGHBOURS = 10
SURE = 0.8
"""Accuracy on images not seen, from which on a classifier's doubts keep an image out of the clean set."""
GUESSES = ("near leaks", "near duplicates", "similar pairs", "suspect labels", "outliers")
"""Kinds that only look wrong; those of odd images are measured, and no faults by themselves."""


def examine(
    source: Source,
    exact: Mapping[str, Any],
    model: ViT,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """Look for what is nearly wrong.

    Args:
        source: the data set.
        exact: what `data.check` found in it.
        model: whose features are compared; on its device, in evaluation mode.
        preprocessing: that of the model.
        batch_size: images at a time.
        progress: show bars on standard error.
    Returns:
        kinds (counts), leaks and pairs (of images that are nearly the same, in two splits and in one), similar, groups,
        suspects, outliers, odd: each ranked; not_judged (classes with too few images); label_accuracy (of the
        classifier that suspects, on images it has not seen; near that of guessing, its doubts say nothing). An image
        is a dict of split, path, class and position.
    """
    pictures = look(source, model, preprocessing, batch_size=batch_size, progress=progress)
    with Bar(len(pictures), title="features compared", enabled=progress) as bar:
        rows = standard(pictures.features)
        neighbours, _ = nearest(rows, _NEIGHBOURS, on_block=bar.advance)
    every = find_pairs(pictures, neighbours, progress=progress)
    equal = _equal(pictures, exact)
    pairs = [pair for pair in every if equal[pair.first] != equal[pair.second]]
    near, similar = ([p for p in pairs if p.level == level] for level in ("near", "similar"))
    chains = [(int(first), index) for index, first in enumerate(equal) if first != index]
    groups = group(len(pictures), chains, [(pair.first, pair.second) for pair in near])
    with Bar(5, unit="parts", title="labels", enabled=progress) as bar:
        doubtful, accuracy = suspects(pictures.features, pictures.labels, groups, neighbours, on_fold=bar.advance)
    leaks = [pair for pair in near if pictures.split[pair.first] != pictures.split[pair.second]]
    within = [pair for pair in near if pictures.split[pair.first] == pictures.split[pair.second]]
    odd = odd_images(pictures)
    blank = {one.index for one in odd if one.kind in ("blank", "near constant")}
    far = [one for one in outliers(rows, neighbours) if one.index not in blank]
    counts = np.bincount(pictures.labels, minlength=len(source.classes))
    found = {
        "leaks": [_pair(pictures, pair) for pair in leaks],
        "pairs": [_pair(pictures, pair) for pair in within],
        "similar": [_pair(pictures, pair) for pair in similar],
        "groups": _groups(pictures, groups),
        "suspects": [_suspect(pictures, one) for one in doubtful],
        "outliers": [_odd(pictures, one) for one in far],
        "odd": [_odd(pictures, one) for one in odd],
        "not_judged": [name for name, n in zip(source.classes, counts, strict=True) if 0 < n < FEWEST],
    }
    return {"kinds": _counts(exact, found), "label_accuracy": round(accuracy, 4), **found}


def kept(source: Source, exact: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Int64[np.ndarray, "n"]]:
    """Positions, by split, of what is left without what was found.

    Left out: unreadable and blank images; suspect labels, where the classifier that doubts them is right for at least
    SURE of the images; and of each group of equal or nearly equal images all but one, which is of test rather than val,
    of val rather than train, and all of them where their classes differ. Outliers, similar pairs, dark, blurred and
    long images stay.
    """
    places = {f"{s}:{path}": (s, i) for s, split in source.splits.items() for i, path in enumerate(split.names)}
    out = {f"{split}:{error['path']}" for split, content in exact["splits"].items() for error in content["errors"]}
    if found["label_accuracy"] >= SURE:
        out |= {_key(one["image"]) for one in found["suspects"]}
    out |= {_key(one["image"]) for one in found["odd"] if one["kind"] == "blank"}
    for members in found["groups"]:
        left = [one for one in members if _key(one) not in out]
        is_mixed = len({one["class"] for one in members}) > 1
        left.sort(key=lambda one: ("test", "val", "train").index(one["split"]))
        out |= {_key(one) for one in (left if is_mixed else left[1:])}
    gone = {places[name] for name in out if name in places}
    return {
        name: np.array([i for i in range(len(split)) if (name, i) not in gone], np.int64)
        for name, split in source.splits.items()
    }


def _key(image: Mapping[str, Any]) -> str:
    return f"{image['split']}:{image['path']}"


def _equal(pictures: Pictures, exact: Mapping[str, Any]) -> Int64[np.ndarray, "N"]:
    """The smallest index of the images with the same pixels."""
    places = {pictures.name(index): index for index in range(len(pictures))}
    named = [[f"{split}:{path}" for path in g] for split, s in exact["splits"].items() for g in s["duplicates"]]
    links = [
        (places[members[0]], places[other])
        for members in [*named, *exact["leaks"]]
        for other in members[1:]
        if members[0] in places and other in places
    ]
    return group(len(pictures), links)


def _groups(pictures: Pictures, groups: Int64[np.ndarray, "N"]) -> list[list[dict[str, Any]]]:
    """Groups of at least two images, the largest first."""
    members: dict[int, list[int]] = {}
    for index in np.flatnonzero(np.bincount(groups, minlength=len(groups))[groups] > 1):
        members.setdefault(int(groups[index]), []).append(int(index))
    ranked = sorted(members.values(), key=lambda indices: (-len(indices), indices[0]))
    return [[_image(pictures, index) for index in indices] for indices in ranked]


def _image(pictures: Pictures, index: int) -> dict[str, Any]:
    split, position = pictures.split[index], int(pictures.position[index])
    return {
        "split": split,
        "path": pictures.source.splits[split].names[position],
        "class": pictures.source.classes[pictures.labels[index]],
        "position": position,
    }


def _pair(pictures: Pictures, pair: Pair) -> dict[str, Any]:
    numbers = {"score": pair.score, "picture": pair.picture, "gradient": pair.gradient}
    images = {"first": _image(pictures, pair.first), "second": _image(pictures, pair.second)}
    return {**{name: round(value, 4) for name, value in numbers.items()}, **images}


def _suspect(pictures: Pictures, one: Suspect) -> dict[str, Any]:
    return {
        "image": _image(pictures, one.index),
        "suggested": pictures.source.classes[one.suggested],
        "doubt": round(one.doubt, 4),
        "p_class": round(one.p_label, 4),
        "p_suggested": round(one.p_suggested, 4),
    }


def _odd(pictures: Pictures, one: Odd) -> dict[str, Any]:
    return {"kind": one.kind, "value": round(one.value, 4), "image": _image(pictures, one.index)}


def _counts(exact: Mapping[str, Any], found: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """How many there are of each kind: what is exact first."""
    splits: Sequence[Any] = exact["splits"].values()
    kinds = {
        "unreadable": sum(len(split["errors"]) for split in splits),
        "exact copies": sum(len(members) - 1 for split in splits for members in split["duplicates"]),
        "exact leaks": len(exact["leaks"]),
        "in several classes": len(exact["conflicts"]),
        "near leaks": len({_key(pair["second"]) for pair in found["leaks"]}),
        "near duplicates": len(found["pairs"]),
        "similar pairs": len(found["similar"]),
        "suspect labels": len(found["suspects"]),
        "outliers": len(found["outliers"]),
    }
    for kind in ("blank", "near constant", "dark", "blurred", "extreme ratio"):
        kinds[kind] = sum(one["kind"] == kind for one in found["odd"])
    return kinds
